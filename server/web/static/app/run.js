// One request on its way: its card, its progress, its end. Knows api.js's events; keeps nothing.
import { ApiError, cancel, draw } from "./api.js";
import { byId, fit, icon, make } from "./dom.js";
import { known, label, plain, say, t } from "./i18n.js";
import { newJobId, toRequest } from "./request.js";

const MOST_TRIES = 20; // when the server is busy

export class Run {
  /**
   * `asked` is { fields, sources, mask }. `on.picture(run, index, { blob, seed })` returns the tile to show for a
   * picture, `on.end(run)` follows the last, `on.key(error)` resolves to whether the user entered a key, `on.blame(param, since)`
   * marks a control, and `on.announce(text)` is read out.
   */
  constructor(asked, on) {
    Object.assign(this, { ...asked, on, id: newJobId(), created: Date.now(), state: "sending", pictures: 0 });
    this.abort = new AbortController();
    this.tiles = Array.from({ length: this.fields.n ?? 1 }, () => make("div", { class: "tile waiting" }));
    this.status = make("p", { class: "run-status" });
    this.note = make("p", { class: "run-note", hidden: "" });
    this.bar = label(make("progress", { max: "1" }), "progress");
    this.buttons = make("div", { class: "actions" });
    this.card = make(
      "article",
      { class: "run" },
      make("div", { class: "tiles" }, ...this.tiles),
      make("div", { class: "run-foot" }, make("div", { class: "run-text" }, this.status, this.note, this.bar), this.buttons),
    );
  }

  /** Let the tiles have the shape that was asked for, until the pictures show theirs. */
  shape() {
    const [width, height] = /^\d+x\d+$/.test(this.fields.size) ? this.fields.size.split("x") : [1, 1];
    fit(this.card, Number(width), Number(height));
  }

  get active() {
    return ["sending", "queued", "running", "waiting"].includes(this.state);
  }


  /** Draw. Resolves when it is over, however it ended. */
  async start() {
    this.shape();
    this.offer(["cancel", () => this.cancel()]);
    this.on.announce(t("run.sending"));
    const clock = setInterval(() => this.tell(), 1000);
    for (let tries = 1; ; tries += 1) {
      try {
        await this.once();
        this.finish("done");
        break;
      } catch (error) {
        if (this.state === "cancelled") break;
        const again = await this.again(error, tries);
        if (this.state === "cancelled") break;
        if (again) continue;
        this.fail(error);
        break;
      }
    }
    clearInterval(clock);
  }

  once() {
    this.since = Date.now();
    this.turn("sending");
    return draw(toRequest(this), {
      job: this.id,
      signal: this.abort.signal,
      on: {
        progress: (event) => this.progress(event),
        preview: (index, blob) => this.preview(index, blob),
        picture: (index, picture) => this.picture(index, picture),
        ignored: (names) => this.ignored(names),
      },
    });
  }

  /** Should it be tried again? After a wait where the server is busy, and with a key where it wants one. */
  async again(error, tries) {
    if (!(error instanceof ApiError) || this.pictures) return false;
    this.id = newJobId();
    if (error.status === 401) return this.on.key(error);
    if (error.status !== 429 || error.final || tries >= MOST_TRIES) return false; // a day's quota is 429 too, for hours
    this.until = Date.now() + 1000 * Math.max(1, error.retryAfter);
    this.turn("waiting");
    this.on.announce(this.status.textContent);
    await new Promise((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, this.until - Date.now());
    });
    return true;
  }

  turn(state) {
    this.state = state;
    this.latest = null;
    this.bar.hidden = !this.active;
    if (this.active) this.bar.removeAttribute("value");
    this.tell();
  }

  progress(event) {
    if (event.state !== this.state && event.state in { queued: 1, running: 1 }) {
      this.turn(event.state);
      this.on.announce(t(`run.${event.state}`));
    }
    this.latest = { ...event, at: Date.now() };
    if (event.of) this.bar.value = event.done / event.of;
    this.tell();
  }

  /** Say where it stands: the place in the queue, the time that is left, or at least the time that has passed. */
  tell() {
    const { state, latest } = this;
    if (state === "waiting") {
      say(this.status, "run.waiting", { n: Math.max(0, Math.ceil((this.until - Date.now()) / 1000)) });
      return;
    }
    if (!this.active) return;
    const left = latest?.eta_s == null ? null : latest.eta_s - (Date.now() - latest.at) / 1000;
    const parts = [];
    if (state === "queued" && latest?.place > 0) parts.push(t("run.place", { n: latest.place }));
    else parts.push(t(`run.${state}`));
    if (state === "running" && latest?.of) parts.push(t("run.steps", { done: latest.done, of: latest.of }));
    if (left !== null) parts.push(t("run.left", { time: { seconds: left } }));
    else if (Date.now() - this.since > 3000) parts.push(t("run.passed", { time: { seconds: (Date.now() - this.since) / 1000 } }));
    plain(this.status, parts.join(" · "));
  }

  /** Say which fields were sent for nothing: the picture is not what was asked for. */
  ignored(names) {
    say(this.note, "run.ignored", { names });
    this.note.hidden = false;
    this.on.announce(this.note.textContent);
  }

  preview(index, blob) {
    const tile = this.tiles[index];
    if (!tile?.classList.contains("waiting")) return;
    const image = tile.querySelector("img") ?? tile.appendChild(make("img", { alt: "" }));
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
  }

  picture(index, picture) {
    this.pictures += 1;
    const tile = this.on.picture(this, index, picture);
    const shown = this.tiles[index].querySelector("img");
    if (shown) URL.revokeObjectURL(shown.src);
    this.tiles[index].replaceWith(tile);
    this.tiles[index] = tile;
  }

  cancel() {
    if (!this.active) return;
    cancel(this.id);
    this.finish("cancelled");
    this.abort.abort();
    this.wake?.();
  }

  finish(state) {
    this.turn(state);
    this.card.dataset.over = state;
    if (state === "done") say(this.status, "run.done", { n: this.pictures, time: { seconds: (Date.now() - this.since) / 1000 } });
    else say(this.status, "run.cancelled");
    this.on.announce(this.status.textContent);
    this.settle();
    this.offer(...(state === "done" ? [] : [["again", () => this.on.repeat(this)], ["dismiss", () => this.dismiss()]]));
  }

  fail(error) {
    this.turn("failed");
    this.card.classList.add("failed");
    this.settle();
    const code = error instanceof ApiError ? error.code : "page";
    const key = [code, `status_${error.status}`, "unknown"].map((end) => `error.${end}`).find(known);
    const told = make("div", { role: "alert", class: "run-error" }, say(make("strong"), key));
    if (error.message) told.append(make("p", { lang: "en" }, error.message));
    this.status.replaceWith(told);
    this.offer(["again", () => this.on.repeat(this)], ["dismiss", () => this.dismiss()]);
    this.on.blame(error.param, this.created);
  }

  /** Take away the tiles that no picture came for. */
  settle() {
    for (const tile of this.card.querySelectorAll(".tile.waiting")) tile.remove();
    this.on.end(this);
  }

  dismiss() {
    const held = this.card.contains(document.activeElement);
    this.card.remove();
    if (held) byId("prompt").focus();
    this.on.dismissed();
  }

  /** Show these buttons. Whoever held one of those before them keeps their place: a button, or else the first picture. */
  offer(...buttons) {
    const held = this.buttons.contains(document.activeElement);
    this.buttons.replaceChildren(...buttons.map(([name, action]) => {
      const button = make("button", { type: "button", class: "button quiet" });
      if (name === "dismiss") {
        button.className = "tool";
        button.append(icon("close"));
        label(button, "dismiss");
      } else {
        say(button, name === "cancel" ? "cancel" : "run.again");
      }
      button.addEventListener("click", action);
      return button;
    }));
    if (held) (this.buttons.firstElementChild ?? this.card.querySelector("button"))?.focus();
  }
}
