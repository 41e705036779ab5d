// The panel of models: where each is, and the way to load and unload it. Knows weights as asks.js tells of them.
import { make } from "../dom.js";
import { label, say, spoken } from "../i18n.js";
import { move, reasons, weights } from "./asks.js";
import { complain, complaints, Rows, write } from "./rows.js";

const STATES = {
  ready: "devices.loaded", loading: "devices.loading", offloaded: "devices.offloaded", broken: "devices.broken",
  unloaded: "models.unloaded",
};

export class Models {
  name = "models";

  constructor(on) {
    this.note = say(make("p", { class: "muted", hidden: "" }), "models.admin");
    this.list = make("ul", { class: "rows" });
    this.element = make("div", {}, this.note, this.list);
    this.rows = new Rows(this.list, () => new Model(on));
  }

  async ask() {
    const [found, why] = await Promise.all([weights(), reasons()]);
    return found.map((row) => ({ ...row, reason: why[row.id] }));
  }

  show(found, { who }) {
    this.note.hidden = who.admin;
    this.rows.show(found.map((row) => [row.id, { ...row, may: who.admin }]));
    return found.some(({ devices }) => Object.values(devices).includes("loading")) ? 1500 : 4000;
  }
}

class Model {
  constructor(on) {
    this.id = make("strong", { lang: "en" });
    this.size = make("span", { class: "muted" });
    this.names = make("p", { class: "muted" });
    this.reason = make("p", { class: "reason", lang: "en", hidden: "" });
    this.problem = complaints();
    this.list = make("ul", { class: "places" });
    this.places = new Rows(this.list, () => new Place(on, this.problem));
    this.element = make("li", { class: "model" },
      make("p", { class: "first" }, this.id, this.size), this.names, this.list, this.reason, this.problem);
  }

  tell({ id, names, devices, state, bytes, reason, may }) {
    write(this.id, id);
    write(this.size, bytes ? size(bytes) : "");
    const others = names.filter((name) => name !== id);
    this.names.hidden = others.length === 0;
    say(this.names, "models.also", { names: others.join(", ") });
    const places = Object.entries(devices);
    this.places.show(places.length
      ? places.map(([device, where]) => [device, { id, device, state: where, may, alone: places.length === 1 }])
      : [["", { id, device: "", state, may, alone: true }]]);
    this.reason.hidden = !reason;
    write(this.reason, reason ?? "");
  }
}

/** A model on one device, with the buttons that move it there or away. */
class Place {
  constructor(on, problem) {
    Object.assign(this, { on, problem });
    this.device = make("span", { lang: "en" });
    this.state = make("span", { class: "state" });
    this.load = this.button("load");
    this.unload = this.button("unload");
    this.element = make("li", {}, this.device, this.state, make("span", { class: "actions" }, this.load, this.unload));
  }

  button(way) {
    const button = say(make("button", { class: "button quiet", type: "button" }), `models.${way}`);
    button.addEventListener("click", () => this.move(way));
    return button;
  }

  tell(place) {
    this.place = place;
    const { id, device, state, may } = place;
    this.element.dataset.state = state;
    write(this.device, device);
    say(this.state, STATES[state] ?? "models.unloaded");
    const held = document.activeElement; // before it is hidden: then it is held no more
    this.load.hidden = !may || state === "ready";
    this.unload.hidden = !may || state === "unloaded" || state === "broken";
    this.busy = Boolean(this.moving || state === "loading");
    // Not disabled: that would take the focus away from whoever pressed it.
    for (const button of [this.load, this.unload]) button.setAttribute("aria-disabled", String(this.busy));
    if (this.load.hidden && held === this.load) this.unload.focus();
    if (this.unload.hidden && held === this.unload) this.load.focus();
    label(this.load, "models.load_on", { id, device });
    label(this.unload, "models.unload_on", { id, device });
  }

  async move(way) {
    if (this.busy) return;
    const { id, device, alone } = this.place;
    this.moving = true;
    this.tell(this.place);
    this.on.look(); // it is loading now
    try {
      const { state } = await move(id, way, alone ? null : device);
      complain(this.problem, null);
      this.on.say(told(way, state), { id });
    } catch (error) {
      complain(this.problem, error);
    }
    this.moving = false;
    this.tell(this.place);
    this.on.look();
    this.on.changed();
  }
}

const told = (way, state) => (way === "load" ? "models.loaded" : state === "unloaded" ? "models.unloaded_now" : "models.later");

function size(bytes) {
  const [unit, value] = bytes < 1e9 ? ["megabyte", bytes / 1e6] : ["gigabyte", bytes / 1e9];
  return new Intl.NumberFormat(spoken(), { style: "unit", unit, maximumFractionDigits: value < 10 ? 1 : 0 }).format(value);
}
