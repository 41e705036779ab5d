// A dialog of what the server does: jobs, usage and models. Fetched when it is first opened; asks the server for what
// it shows while somebody looks at it, and only then. Knows tabs, time and failures; the panels know the rest.
import { make, icon, closable } from "../dom.js";
import { label, learn, say, t } from "../i18n.js";
import { enterKey, whyAsked } from "../key.js";
import { principal } from "./asks.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { complain, complaints } from "./rows.js";
import { Usage } from "./usage.js";

const SLOWEST_MS = 60_000; // after failures
const FIRST_MS = 4000;

let panels = null;

/** Open the dialog. `on.changed()`: a model was loaded or unloaded; `on.key()`: another key was entered. */
export async function openPanels(on) {
  await Promise.all([learn("panels/lang"), styled()]);
  panels ??= new Panels(on);
  panels.open();
}

/** The style sheet of the panels is there. Throws where it does not come. */
function styled() {
  const found = document.querySelector("link[data-panels]");
  if (found) return null;
  const sheet = make("link", { rel: "stylesheet", href: "page/app/panels/panels.css", "data-panels": true });
  return new Promise((resolve, reject) => {
    sheet.addEventListener("load", resolve);
    sheet.addEventListener("error", () => {
      sheet.remove();
      reject(new Error("no style sheet"));
    });
    document.head.append(sheet);
  });
}

class Panels {
  turn = 0;
  failures = 0;
  timer = 0;

  constructor(on) {
    Object.assign(this, { on, who: null, all: true });
    const heard = {
      look: () => this.look(),
      say: (key, values) => { this.status.textContent = t(key, values); },
      changed: () => on.changed(),
    };
    this.panels = [new Jobs(heard), new Usage(heard), new Models(heard)];
    this.status = make("p", { class: "hidden said", role: "status" });
    this.problem = complaints();
    this.scope = this.scopes();
    this.loading = say(make("p", { class: "muted" }), "panels.loading");
    this.tabs = this.panels.map((panel, at) => this.tab(panel, at));
    for (const { name, element } of this.panels) {
      element.id = `panel-${name}`;
      element.setAttribute("role", "tabpanel");
      element.setAttribute("aria-labelledby", `tab-${name}`);
      element.tabIndex = -1;
    }
    const close = label(make("button", { class: "tool close", type: "button", "data-close": true }, icon("close")), "close");
    this.dialog = make("dialog", { id: "panels", class: "panels", "aria-labelledby": "panels-title" },
      make("div", { class: "title" }, say(make("h2", { id: "panels-title" }), "panels.title"), close),
      make("div", { class: "tab-bar" }, label(make("div", { role: "tablist" }, ...this.tabs), "panels.tabs"), this.scope),
      make("div", { class: "body" }, this.problem, this.loading, ...this.panels.map(({ element }) => element)),
      this.status);
    closable(this.dialog);
    this.dialog.addEventListener("close", () => this.rest());
    document.addEventListener("visibilitychange", () => this.look());
    document.body.append(this.dialog);
  }

  open() {
    if (this.dialog.open) return;
    this.who = null; // the key may be another
    this.failures = 0;
    complain(this.problem, null);
    this.dialog.showModal();
    this.choose(this.chosen ?? 0);
    this.tabs[this.chosen].focus();
  }

  tab({ name }, at) {
    const tab = make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}` });
    tab.addEventListener("click", () => this.choose(at));
    tab.addEventListener("keydown", ({ key }) => {
      const last = this.tabs.length - 1;
      const next = { ArrowLeft: at ? at - 1 : last, ArrowRight: at === last ? 0 : at + 1, Home: 0, End: last }[key];
      if (next === undefined) return;
      this.choose(next);
      this.tabs[next].focus();
    });
    return say(tab, `panels.${name}`);
  }

  /** An admin's choice: its own key, or all. */
  scopes() {
    const choices = [["mine", false], ["all", true]].map(([name, all]) => {
      const radio = make("input", { type: "radio", name: "scope", value: name, checked: all });
      radio.addEventListener("change", () => {
        this.all = all;
        this.look();
      });
      return make("label", {}, radio, say(make("span"), `panels.${name}`));
    });
    return label(make("div", { class: "toggle", role: "radiogroup", hidden: "" }, ...choices), "panels.scope");
  }

  choose(at) {
    this.chosen = at;
    this.tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === at));
      tab.tabIndex = index === at ? 0 : -1;
    });
    this.panels.forEach(({ element }) => { element.hidden = true; }); // until it is known what it shows
    this.loading.hidden = false;
    this.look();
  }

  rest() {
    this.turn += 1;
    clearTimeout(this.timer);
  }

  /** Ask for what the chosen panel shows, and again as long as it is looked at. */
  async look() {
    this.rest();
    if (!this.dialog.open || document.hidden) return;
    const { turn } = this;
    const panel = this.panels[this.chosen];
    let wait;
    try {
      const who = this.who ?? await principal();
      // A server without keys has one for all: nobody else's are to be told apart.
      const scope = { who, all: this.all && who.admin && who.name !== "local" };
      const found = await panel.ask(scope);
      if (turn !== this.turn) return; // once more meanwhile
      Object.assign(this, { who, failures: 0 });
      wait = this.show(panel, found, scope);
    } catch (error) {
      if (turn !== this.turn) return;
      this.loading.hidden = true;
      if (error.status === 401) return this.askKey(error);
      complain(this.problem, error);
      this.failures += 1;
      wait = Math.min(SLOWEST_MS, Math.max(1000 * (error.retryAfter ?? 0), FIRST_MS * 2 ** this.failures));
    }
    this.timer = setTimeout(() => this.look(), wait);
  }

  show(panel, found, scope) {
    const held = document.activeElement;
    this.loading.hidden = true;
    this.scope.hidden = !scope.who.admin || scope.who.name === "local" || panel.name === "models";
    complain(this.problem, null);
    panel.element.hidden = false;
    const wait = panel.show(found, scope);
    // Whoever held a button that has gone keeps their place, unless the panel has found them another.
    if (this.dialog.contains(held) && !held.checkVisibility() && [held, document.body].includes(document.activeElement)) {
      panel.element.focus();
    }
    return wait;
  }

  /** No use asking again before there is another key. */
  askKey(error) {
    const enter = say(make("button", { type: "button", class: "button" }), "panels.enter_key");
    enter.addEventListener("click", async () => {
      if (!(await enterKey(whyAsked(error)))) return;
      this.who = null;
      this.on.key();
      this.look();
    });
    complain(this.problem, error, enter);
  }
}
