// The panel of jobs: how far each is, and the way to stop it. Knows the rows of GET images/jobs.
import { make } from "../dom.js";
import { label, say, spoken, t } from "../i18n.js";
import { everyones, jobs, results, stop } from "./asks.js";
import { complain, complaints, Rows, write } from "./rows.js";

const MOST = 100; // of those that have ended
const LIVE = { running: 0, queued: 1 }; // in this order
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

export class Jobs {
  name = "jobs";

  /** `on.say(key)` is read out; `on.look()` asks again at once. */
  constructor(on) {
    this.empty = say(make("p", { class: "muted" }), "jobs.empty");
    this.older = make("p", { class: "muted", hidden: "" });
    this.list = make("ul", { class: "rows" });
    this.element = make("div", {}, this.empty, this.list, this.older);
    this.rows = new Rows(this.list, () => new Row(on));
  }

  ask({ who, all }) {
    return all ? everyones() : jobs();
  }

  /** Show these rows. Returns in how many milliseconds to ask again. */
  show(found, { who, all }) {
    const live = found.filter(({ status }) => status in LIVE)
      .sort((one, other) => LIVE[one.status] - LIVE[other.status] || one.place - other.place);
    const ended = found.filter(({ status }) => !(status in LIVE)).reverse();
    const shown = [...live, ...ended.slice(0, MOST)];
    this.rows.show(shown.map((job) => [
      `${job.key ?? who.name} ${job.id}`,
      { ...job, key: all ? job.key : null, mine: !all || job.key === who.name },
    ]));
    this.empty.hidden = shown.length > 0;
    this.older.hidden = ended.length <= MOST;
    say(this.older, "jobs.older", { n: ended.length - MOST });
    return live.length ? 1500 : 5000;
  }
}

class Row {
  constructor(on) {
    Object.assign(this, { on, urls: [] });
    this.model = make("strong", { lang: "en" });
    this.state = make("span", { class: "state" });
    this.bar = label(make("progress", { max: "1" }), "progress");
    this.facts = make("p", { class: "muted facts" });
    this.error = make("p", { class: "reason", lang: "en", hidden: "" });
    this.problem = complaints();
    this.cancel = say(make("button", { class: "button quiet", type: "button" }), "cancel");
    this.cancel.addEventListener("click", () => this.stop());
    this.fetch = say(make("button", { class: "button quiet", type: "button", hidden: "" }), "jobs.show");
    this.fetch.addEventListener("click", () => this.fetchPictures());
    this.pictures = make("p", { class: "pictures", hidden: "" });
    this.element = make("li", {},
      make("div", { class: "about" },
        make("p", { class: "first" }, this.model, this.state), this.bar, this.facts, this.error, this.pictures, this.problem),
      make("div", { class: "actions" }, this.fetch, this.cancel));
  }

  tell(job) {
    this.job = job;
    this.element.dataset.state = job.status;
    this.element.title = job.id;
    write(this.model, job.model);
    write(this.state, standing(job));
    this.bar.hidden = job.status !== "running";
    if (job.progress.of) this.bar.value = job.progress.done / job.progress.of;
    else this.bar.removeAttribute("value");
    write(this.facts, facts(job).join(" · "));
    this.error.hidden = !job.error;
    write(this.error, job.error?.message ?? "");
    this.cancel.hidden = !(job.status in LIVE && job.mine);
    label(this.cancel, "jobs.cancel", { id: job.id });
    this.fetch.hidden = !(job.result_state === "ready" && job.mine);
    label(this.fetch, "jobs.show_of", { id: job.id });
    if (job.result_state !== "ready") this.forget();
  }

  async stop() {
    if (this.stopping) return;
    this.busy(true);
    try {
      await stop(this.job.id);
      complain(this.problem, null);
      this.on.say("jobs.stopped");
      this.on.look();
    } catch (error) {
      complain(this.problem, error);
    }
    this.busy(false);
  }

  // Not disabled: that would take the focus away from whoever pressed it.
  busy(stopping) {
    this.stopping = stopping;
    this.cancel.setAttribute("aria-disabled", String(stopping));
  }

  /** Links to the pictures of a job that nobody waited for: their addresses are signed as the server is asked. */
  async fetchPictures() {
    try {
      const found = await results(this.job.id);
      this.forget();
      this.pictures.hidden = !found;
      (found ?? []).forEach(({ url, blob }, at) => {
        const link = say(make("a", { class: "button", target: "_blank", rel: "noopener" }), "jobs.picture", { n: at + 1 });
        if (blob) {
          this.urls.push(link.href = URL.createObjectURL(blob));
          link.download = `${this.job.id}-${at + 1}.${blob.type.split("/")[1]}`;
        } else {
          link.href = url;
        }
        this.pictures.append(link);
      });
      complain(this.problem, null);
      this.pictures.querySelector("a")?.focus();
    } catch (error) {
      complain(this.problem, error);
    }
  }

  forget() {
    for (const url of this.urls.splice(0)) URL.revokeObjectURL(url);
    this.pictures.hidden = true;
    this.pictures.replaceChildren();
  }
}

/** Where it stands, in a few words. */
function standing({ status, place, eta_s: left, progress: { done, of } }) {
  if (!(status in LIVE)) return t(`jobs.${status}`);
  const parts = [status === "queued" && place > 0 ? t("run.place", { n: place }) : t(`run.${status}`)];
  if (status === "running" && of) parts.push(t("run.steps", { done, of }));
  if (left != null) parts.push(t("run.left", { time: { seconds: left } }));
  return parts.join(" · ");
}

function facts({ n, created, key, result_state: kept, result_expires: until }) {
  return [
    key ? t("jobs.key", { name: key }) : "",
    n ? t("jobs.pictures", { n }) : "",
    ago(created),
    kept === "pending" ? t("jobs.kept") : "",
    kept === "gone" ? t("jobs.gone") : "",
    kept === "ready" ? t("jobs.until", { time: new Date(until * 1000).toLocaleTimeString(spoken(), { timeStyle: "short" }) }) : "",
  ].filter(Boolean);
}

/** "12 seconds ago". The server's clock may be another: nothing was in the future. */
function ago(created) {
  const age = Math.max(0, Math.round(Date.now() / 1000 - created));
  const [unit, size] = UNITS.find(([, seconds]) => age >= seconds) ?? UNITS.at(-1);
  return new Intl.RelativeTimeFormat(spoken(), { numeric: "auto" }).format(-Math.floor(age / size), unit);
}
