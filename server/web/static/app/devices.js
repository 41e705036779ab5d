// Shows the server's devices, where it has several. Knows what /readyz says; knows nothing of pictures.
import { devices } from "./api.js";
import { byId, make } from "./dom.js";
import { say } from "./i18n.js";

const LOOK_MS = 3000;
const STATES = {
  up: "devices.up", asleep: "devices.asleep", starting: "devices.starting", failing: "devices.failing",
  "left out": "devices.left_out",
};
const PLACES = {
  ready: "devices.loaded", loading: "devices.loading", offloaded: "devices.offloaded", broken: "devices.broken",
};

export class Devices {
  shown = ""; // what was heard last; empty where nothing is shown
  timer = 0;
  asked = 0; // how often

  constructor() {
    document.addEventListener("visibilitychange", () => { if (this.shown && !document.hidden) this.look(); });
  }

  /** The rows of models have come: they name the devices. Of a single one, nothing is asked or shown. */
  offer(rows) {
    const named = new Set(rows.flatMap((row) => Object.keys(row.devices ?? {})));
    if (named.size > 1) return this.look();
    this.asked += 1;
    clearTimeout(this.timer);
    this.show([]);
  }

  /** Ask, and again every few seconds as long as somebody looks at the page and the server answers. */
  async look() {
    clearTimeout(this.timer);
    const asked = this.asked += 1;
    // Where a proxy hides the address, or the server is away, nothing is shown: the next request says why.
    const found = await devices().catch(() => []);
    if (asked !== this.asked) return; // once more meanwhile
    this.show(found);
    if (found.length && !document.hidden) this.timer = setTimeout(() => this.look(), LOOK_MS);
  }

  show(found) {
    const text = JSON.stringify(found);
    if (text === this.shown) return;
    this.shown = found.length ? text : "";
    byId("devices").hidden = found.length === 0;
    byId("device-list").replaceChildren(...found.map(card));
  }
}

function card(device) {
  const drawn = device.draws ?? {};
  const models = Object.entries(device.models ?? {}).filter(([model, state]) => state in PLACES || model in drawn);
  return make("li", { "data-state": device.state },
    make("p", {},
      make("strong", {}, device.name),
      device.device_name ? make("span", { class: "muted", lang: "en" }, device.device_name) : null,
      device.state in STATES ? say(make("span", { class: "state" }), STATES[device.state]) : null),
    ...models.map(([model, state]) => make("p", {},
      make("span", { lang: "en" }, model),
      model in drawn && state !== "loading"
        ? say(make("span", { class: "draws" }), "devices.draws", { n: drawn[model] })
        : say(make("span", { class: "muted" }), PLACES[state]))),
    models.length || device.state !== "up" ? null : say(make("p", { class: "muted" }), "devices.no_model"),
    device.reason ? make("p", { class: "muted", lang: "en" }, device.reason) : null);
}
