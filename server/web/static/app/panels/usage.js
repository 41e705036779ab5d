// The panel of usage: what is left of today, and what was used by day and model. Knows the answer of GET usage.
import { make } from "../dom.js";
import { label, say, spoken, t } from "../i18n.js";
import { usage } from "./asks.js";

const PERIODS = [7, 30, 90, 366]; // days
const MOST = 400; // rows
const QUOTAS = ["pictures", "megapixel_steps"];
const SUMS = [...QUOTAS, "device_s"];
const EACH_MS = 5000;

export class Usage {
  name = "usage";
  told = "";

  constructor(on) {
    this.days = make("select", {}, ...PERIODS.map((n) => say(make("option", { value: n }), "usage.days", { n })));
    this.days.value = "30";
    this.days.addEventListener("change", () => on.look());
    this.title = make("h3");
    this.today = make("div", { class: "quotas" });
    this.ends = make("p", { class: "muted" });
    this.incomplete = say(make("p", { class: "banner", role: "status", hidden: "" }), "usage.incomplete");
    this.empty = say(make("p", { class: "muted", hidden: "" }), "usage.empty");
    this.more = make("p", { class: "muted", hidden: "" });
    this.table = make("table");
    this.box = label(make("div", { class: "wide-table", role: "region", tabindex: "0" }, this.table), "usage.table");
    this.element = make("div", {},
      this.incomplete,
      this.title, this.today, this.ends,
      make("div", { class: "heading" },
        say(make("h3"), "usage.by_day"),
        make("label", { class: "period" }, say(make("span", { class: "hidden" }), "usage.period"), this.days)),
      this.empty, this.box, this.more,
      say(make("p", { class: "muted note" }), "usage.note"));
  }

  ask({ who, all }) {
    return usage(this.days.value, who.admin && !all ? who.name : null);
  }

  show(answer, { who, all }) {
    const told = JSON.stringify([answer, all, spoken()]);
    if (told !== this.told) {
      this.told = told;
      this.incomplete.hidden = answer.complete;
      say(this.title, who.name === "local" ? "usage.today" : "usage.today_key");
      this.today.replaceChildren(...QUOTAS.map((name) => quota(name, answer.quotas[name])));
      const time = new Date(answer.quotas.ends * 1000).toLocaleTimeString(spoken(), { timeStyle: "short" });
      say(this.ends, "usage.ends", { time });
      this.empty.hidden = answer.data.length > 0;
      this.box.hidden = answer.data.length === 0;
      this.table.replaceChildren(...table(answer, all));
      this.more.hidden = answer.data.length <= MOST;
      say(this.more, "usage.more", { n: answer.data.length - MOST });
    }
    return EACH_MS;
  }
}

/** One quota: how much of it is used, with a bar where there is an end to it. */
function quota(name, { limit, used, set_aside: aside, left }) {
  const bar = limit === null ? null : label(make("div", {
    class: "meter", role: "meter", "aria-valuemin": 0, "aria-valuemax": limit, "aria-valuenow": limit - left,
  }, share(limit ? (limit - left) / limit : 1)), `usage.${name}`);
  return make("div", { class: "quota" },
    make("p", { class: "first" },
      say(make("span"), `usage.${name}`),
      limit === null ? say(make("strong"), "usage.used", { n: used }) : say(make("strong"), "usage.left", { left, limit })),
    bar,
    limit === null ? say(make("p", { class: "muted" }), "usage.no_limit") : null,
    aside ? say(make("p", { class: "muted" }), "usage.set_aside", { n: aside }) : null);
}

/** A bar that is this part of its room. */
function share(part) {
  const bar = make("span", { class: "share", "aria-hidden": "true" });
  bar.style.setProperty("--share", part);
  return bar;
}

function table({ data, total }, all) {
  const most = Math.max(...data.map((row) => row.megapixel_steps), 1e-9);
  const rows = [...data].reverse().slice(0, MOST).map((row) => {
    return make("tr", {},
      make("td", { class: "day" }, day(row.day)),
      make("td", { class: "model" }, make("span", { lang: "en" }, row.model),
        all ? make("span", { class: "muted", lang: "en" }, row.key) : null, share(row.megapixel_steps / most)),
      ...numbers(row));
  });
  const head = ["usage.day", all ? "usage.model_key" : "model", ...SUMS.map((name) => `usage.${name}`)];
  return [
    make("thead", {}, make("tr", {}, ...head.map((key) => say(make("th", { scope: "col" }), key)))),
    make("tbody", {}, ...rows),
    make("tfoot", {}, make("tr", {}, say(make("th", { scope: "row", colspan: "2" }), "usage.total"), ...numbers(total))),
  ];
}

const numbers = (sums) => SUMS.map((name) => make("td", { class: "figure" }, figure(sums[name])));
const figure = (value) => value.toLocaleString(spoken(), { maximumFractionDigits: value < 100 ? 1 : 0 });

/** A day of UTC, as the reader writes days. */
function day(text) {
  const shown = new Date(`${text}T00:00Z`).toLocaleDateString(spoken(), { day: "numeric", month: "short", timeZone: "UTC" });
  return make("time", { datetime: text, title: text }, shown);
}
