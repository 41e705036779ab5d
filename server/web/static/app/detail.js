// One picture, large, with its parameters and what can be done with it. Knows records; makes no request.
import { codePanel } from "./code.js";
import { byId, closable, fit, make } from "./dom.js";
import { address } from "./gallery.js";
import { duration, say, spoken, t } from "./i18n.js";
import { fileName } from "./request.js";
import { resultName } from "./snippets.js";

const SHOWN = {
  model: "model", quality: "quality", style: "style", num_inference_steps: "steps", guidance_scale: "guidance",
  strength: "strength", scheduler: "scheduler", negative_prompt: "negative",
};

/** What draws this picture again, alone: its run's fields with its own seed. */
export function alone({ run, seed }) {
  return { fields: { ...run.fields, seed, n: 1 }, sources: run.sources, mask: run.mask };
}

export class Detail {
  /** `on.again`, `on.another` and `on.edit` get a picture; `on.remove` too, and asks first; `on.enlarge` makes another of it. */
  constructor(gallery, on) {
    Object.assign(this, { gallery, on, picture: null, urls: [] });
    this.dialog = byId("detail");
    closable(this.dialog);
    for (const name of ["again", "another", "edit"]) {
      byId(name).addEventListener("click", () => {
        this.dialog.close();
        this.leaving = true; // the action says where the focus goes
        on[name](this.picture);
      });
    }
    byId("enlarge").addEventListener("click", () => this.enlarge());
    byId("delete").addEventListener("click", async () => {
      const gone = this.picture;
      const next = this.beside(1) ?? this.beside(-1);
      if (!(await on.remove(gone))) return;
      if (next) this.show(next);
      else this.dialog.close();
    });
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("next").addEventListener("click", () => this.step(1));
    this.dialog.addEventListener("keydown", ({ key, target }) => {
      if (target.closest("[role=tablist], pre")) return;
      if (key === "ArrowLeft") this.step(-1);
      if (key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("close", () => {
      if (!this.leaving) document.querySelector(`[data-picture="${this.picture.id}"]`)?.focus();
    });
  }

  open(picture) {
    this.show(picture);
    this.leaving = false;
    this.dialog.showModal();
    byId("download").focus();
  }

  beside(way) {
    return this.gallery.pictures[this.gallery.pictures.indexOf(this.picture) + way];
  }

  step(way) {
    const other = this.beside(way);
    if (other) this.show(other);
  }

  async enlarge() {
    if (this.enlarging) return;
    const from = this.picture;
    this.busy(true);
    this.on.announce(t("enlarge.begun"));
    const made = await this.on.enlarge(from);
    this.busy(false);
    if (!made || !this.dialog.open || this.picture !== from) return; // whoever has gone on stays there
    this.show(made);
    this.on.announce(t("enlarge.done", { size: `${made.width} × ${made.height}` }));
  }

  // Not disabled: that would take the focus away from whoever pressed it.
  busy(enlarging) {
    this.enlarging = enlarging;
    byId("enlarge").setAttribute("aria-disabled", String(enlarging));
  }

  show(picture) {
    this.picture = picture;
    const held = document.activeElement;
    const { run, type } = picture;
    const asked = alone(picture);
    fit(byId("detail-image"), picture.width, picture.height);
    byId("detail-image").src = address(picture);
    byId("detail-image").alt = run.fields.prompt;
    byId("detail-prompt").textContent = run.fields.prompt;
    byId("download").href = address(picture);
    byId("download").download = resultName({ fields: { ...asked.fields, output_format: type.split("/")[1] } });
    byId("previous").disabled = !this.beside(-1);
    byId("next").disabled = !this.beside(1);
    // The button at an end goes; without the focus in here, the arrow keys would lead nowhere.
    if (held?.disabled && this.dialog.contains(held)) {
      const other = held === byId("next") ? byId("previous") : byId("next");
      (other.disabled ? byId("download") : other).focus();
    }
    byId("parameters").replaceChildren(...this.parameters(picture));
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.urls = [];
    byId("detail-files").replaceChildren(...this.files(run));
    byId("detail-code").replaceChildren(codePanel(asked, this.on.announce));
  }

  parameters({ run, seed, type, bytes, width, height, created }) {
    const rows = [["seed", make("dd", { class: "number" }, String(seed))], ["size", make("dd", {}, `${width} × ${height}`)]];
    for (const [name, key] of Object.entries(SHOWN)) {
      const value = run.fields[name];
      if (value === undefined || value === "") continue;
      const own = { quality: `quality.${value}`, style: `style.${value}` }[name];
      rows.push([key, own ? say(make("dd"), own) : make("dd", {}, String(value))]);
    }
    if (run.took) rows.push(["took", make("dd", {}, duration(run.took))]);
    rows.push(["created", make("dd", {}, new Date(created).toLocaleString(spoken(), { dateStyle: "medium", timeStyle: "short" }))]);
    rows.push(["file", make("dd", {}, `${type.split("/")[1].toUpperCase()}, ${t("kilobytes", { n: Math.ceil(bytes / 1000) })}`)]);
    return rows.flatMap(([key, value]) => [say(make("dt"), key), value]);
  }

  /** The source pictures and the mask: the snippets need them. */
  files({ sources, mask }) {
    const all = sources.map((blob, index) => [blob, fileName("source", blob, index)]);
    if (mask) all.push([mask, "mask.png"]);
    if (!all.length) return [];
    const links = all.map(([blob, name]) => {
      const url = URL.createObjectURL(blob);
      this.urls.push(url);
      const image = make("img", { alt: "" });
      image.src = url;
      return make("a", { class: "button quiet", href: url, download: name }, image, name);
    });
    return [say(make("p", { class: "muted" }), "files"), make("div", { class: "actions" }, ...links)];
  }
}
