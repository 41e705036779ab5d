// The form: what to draw. Knows the controls and what each model can do; sends nothing.
import { byId, make, memory } from "./dom.js";
import { plain, say, t } from "./i18n.js";
import { Sources } from "./sources.js";

const USUAL_SIZES = ["1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792", "768x768", "512x512", "256x256"];
const REMEMBERED = ["model", "size", "quality", "style", "n", "output_format"];
const CUSTOM = "custom";
const INTEGERS = new Set(["n", "seed", "num_inference_steps"]);
const NUMBERS = new Set(["guidance_scale", "strength"]);
const TEXTS = ["prompt", "model", "quality", "style", "negative_prompt", "scheduler", "output_format"];

export class Composer {
  constructor({ submit, refused }) {
    this.rows = [];
    this.form = byId("composer");
    this.touched = 0; // when somebody last wrote, chose or moved in the form
    this.sources = new Sources({
      changed: () => {
        byId("add").removeAttribute("aria-invalid");
        this.adapt();
      },
      refused,
    });
    byId("n").append(...Array.from({ length: 10 }, (_, index) => make("option", { value: index + 1 }, String(index + 1))));
    byId("shortcut").textContent = /Mac|iP/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!byId("generate").disabled) submit();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.form.requestSubmit();
      }
    });
    this.form.addEventListener("input", ({ target }) => {
      target.removeAttribute("aria-invalid");
      if (REMEMBERED.includes(target.id)) memory.set(`last.${target.id}`, target.value);
    });
    for (const event of ["input", "focusin"]) this.form.addEventListener(event, () => { this.touched = Date.now(); });
    for (const id of ["model", "quality", "style", "size"]) byId(id).addEventListener("change", () => this.adapt());
    byId("prompt").addEventListener("input", () => grow(byId("prompt")));
    byId("seed-clear").addEventListener("click", () => { byId("seed").value = ""; });
    byId("add").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", ({ target }) => {
      for (const file of target.files) this.sources.add(file);
      target.value = "";
    });
    for (const id of REMEMBERED) if (memory.get(`last.${id}`)) byId(id).value = memory.get(`last.${id}`) || byId(id).value;
  }

  /** The rows of /v1/models. What was chosen stays chosen, where it can. */
  offer(rows) {
    if (JSON.stringify(rows) === JSON.stringify(this.rows)) return; // and an open list stays open
    this.rows = rows;
    const before = byId("model").value || memory.get("last.model");
    byId("model").replaceChildren(...rows.map(({ id }) => make("option", { value: id }, id)));
    const first = rows.find((row) => row.default) ?? rows[0];
    byId("model").value = rows.some(({ id }) => id === before) ? before : first?.id;
    this.adapt();
  }

  get row() {
    return this.rows.find(({ id }) => id === byId("model").value);
  }

  /** Show what the chosen model can do, and say what it cannot. */
  adapt() {
    const row = this.row;
    if (!row) return;
    const { tasks } = row;
    const edits = tasks.includes("image-to-image") || tasks.includes("inpainting");
    const most = edits ? (row.references ?? 1) : 0;
    if (this.sources.most !== most || this.sources.masks !== tasks.includes("inpainting")) {
      this.sources.allow({ most, masks: tasks.includes("inpainting") });
      return; // and that came here again
    }
    const editing = this.sources.blobs.length > 0;
    byId("add").disabled = !edits;
    byId("file").multiple = most > 1;
    byId("strength-field").hidden = !editing || row.by_instruction === true;
    say(byId("generate").firstElementChild, editing ? "generate.edit" : "generate");
    say(byId("prompt"), editing ? "prompt.edit" : "prompt.placeholder", {}, "i18nPlaceholder");
    this.offerSizes(row, editing);
    this.offerSchedulers(row);
    const preset = (row.style_presets?.[byId("style").value] ?? row.presets)?.[byId("quality").value];
    byId("num_inference_steps").max = row.max_steps ?? 150;
    byId("num_inference_steps").placeholder = preset?.steps ?? "";
    byId("guidance_scale").placeholder = preset?.guidance ?? "";
    byId("strength").placeholder = this.sources.mask ? "1" : String(row.edit_strength ?? 0.8);
    byId("prompt").maxLength = row.max_prompt ?? 4000;
    this.hint(row, { editing, edits, most });
  }

  hint(row, { editing, edits, most }) {
    const model = row.id;
    let problem = null;
    if (editing && !edits) problem = "hint.cannot_edit";
    else if (editing && this.sources.blobs.length > most) problem = "hint.too_many";
    else if (this.sources.mask && !this.sources.masks) problem = "hint.no_mask";
    else if (!editing && !row.tasks.includes("text-to-image")) problem = "hint.needs_picture";
    byId("generate").disabled = problem !== null;
    // A broken model may be asked for: the server then looks whether it was mended.
    if (row.state === "broken") problem ??= "hint.broken";
    const note = !edits ? "hint.text_only" : row.state === "unloaded" ? "hint.unloaded" : null;
    const key = problem ?? note;
    byId("hint").hidden = key === null;
    byId("hint").classList.toggle("problem", problem !== null);
    if (key) say(byId("hint"), key, { model, n: most });
    else plain(byId("hint"), ""); // it describes the prompt, hidden or not
  }

  offerSizes(row, editing) {
    const any = row.sizes === "any";
    const most = row.max_side ?? 2048;
    const usual = USUAL_SIZES.filter((size) => size.split("x").every((side) => Number(side) <= most));
    const sizes = any ? [...new Set([row.default_size, ...usual])] : row.sizes;
    const before = byId("size").value || memory.get("last.size");
    const options = sizes.map((size) => make("option", { value: size }, sizeName(size)));
    if (any && editing) options.unshift(say(make("option", { value: "auto" }), "size.same"));
    if (any) options.push(say(make("option", { value: CUSTOM }), "size.other"));
    byId("size").replaceChildren(...options);
    // A picture keeps its own size unless somebody says otherwise.
    const fallback = any && editing ? "auto" : row.default_size;
    const wanted = any && editing && !this.wasEditing ? "auto" : before;
    byId("size").value = options.some(({ value }) => value === wanted) ? wanted : fallback;
    this.wasEditing = editing;
    byId("custom-size").hidden = byId("size").value !== CUSTOM;
    byId("width").max = byId("height").max = most;
  }

  offerSchedulers(row) {
    const select = byId("scheduler");
    const before = select.value;
    const own = say(make("option", { value: "" }), "scheduler.own");
    select.replaceChildren(own, ...row.schedulers.map((name) => make("option", { value: name }, name)));
    select.value = row.schedulers.includes(before) ? before : "";
  }

  /** Put names in the reader's language where data-i18n does not reach. */
  translate() {
    for (const option of byId("size").options) if (/^\d/.test(option.value)) option.textContent = sizeName(option.value);
  }

  /** What the form says now. */
  read() {
    const fields = {};
    for (const id of TEXTS) fields[id] = byId(id).value;
    fields.prompt = fields.prompt.trim();
    for (const id of [...INTEGERS, ...NUMBERS]) {
      const text = byId(id).value.trim();
      if (text !== "") fields[id] = Number(text);
    }
    if (byId("strength-field").hidden) delete fields.strength;
    const size = byId("size").value;
    fields.size = size === CUSTOM ? `${byId("width").value}x${byId("height").value}` : size;
    return { fields, sources: [...this.sources.blobs], mask: this.sources.mask };
  }

  /** Bring the form to what a picture was made from. */
  fill({ fields, sources, mask }) {
    const known = this.rows.some(({ id }) => id === fields.model);
    if (known) byId("model").value = fields.model;
    this.sources.set(sources, mask);
    for (const id of [...TEXTS, ...INTEGERS, ...NUMBERS]) {
      if (id === "model" || id === "scheduler") continue;
      const usual = { n: "1", output_format: "png", quality: "standard", style: "vivid" }[id] ?? "";
      byId(id).value = fields[id] ?? usual;
    }
    this.adapt();
    byId("scheduler").value = fields.scheduler ?? "";
    this.size = fields.size;
    grow(byId("prompt"));
    if (["negative_prompt", "num_inference_steps", "guidance_scale", "strength", "scheduler"].some((id) => fields[id])) {
      byId("more").open = true;
    }
  }

  set size(size) {
    const listed = [...byId("size").options].some(({ value }) => value === size);
    byId("size").value = listed ? size : CUSTOM;
    byId("custom-size").hidden = byId("size").value !== CUSTOM;
    if (!listed && /^\d+x\d+$/.test(size ?? "")) [byId("width").value, byId("height").value] = size.split("x");
  }

  /** Take all marks away: what they were about is asked anew. */
  forgive() {
    for (const control of this.form.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  }

  /** Show which control a refusal is about, and go there, unless somebody has used the form since then. */
  blame(param, since = Infinity) {
    const id = { size: "size", image: "add", mask: "add" }[param] ?? param;
    const control = id && byId(id);
    if (!control || !this.form.contains(control)) return;
    if (byId("more").contains(control)) byId("more").open = true;
    control.setAttribute("aria-invalid", "true");
    if (this.touched <= since) control.focus();
  }
}

function sizeName(size) {
  const [width, height] = size.split("x").map(Number);
  const shape = width === height ? "size.square" : width > height ? "size.landscape" : "size.portrait";
  return `${width}×${height} · ${t(shape)}`;
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 320)}px`;
}
