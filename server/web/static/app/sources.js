// The pictures to edit and the mask on the first of them. Knows blobs and their thumbnails; sends nothing.
import { byId, icon, make } from "./dom.js";
import { label, say } from "./i18n.js";
import { paintMask } from "./mask.js";

const SENT_AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp"]);

export class Sources {
  /** `changed()` is called after every change; `refused(key)` says why a file was not taken. */
  constructor({ changed, refused }) {
    this.blobs = [];
    this.added = Promise.resolve(); // the last picture that was given
    this.mask = null;
    this.most = 1; // pictures that the model takes
    this.masks = true; // does it take a mask?
    this.changed = changed;
    this.refused = refused;
    this.box = byId("sources");
  }

  /** Take a picture, after those that were given before; where the model takes no more, it replaces the last. */
  add(file) {
    return (this.added = this.added.catch(() => {}).then(() => this.take(file)));
  }

  async take(file) {
    let blob;
    try {
      blob = await readable(file);
    } catch {
      this.refused("error.not_a_picture");
      return;
    }
    if (this.blobs.length >= this.most) this.blobs.splice(this.most - 1);
    if (this.blobs.length === 0) this.mask = null;
    this.blobs.push(blob);
    this.render();
  }

  set(blobs, mask) {
    this.blobs = [...blobs];
    this.mask = mask ?? null;
    this.render();
  }

  /** What the model can take. A picture that is there stays, and the form says what is wrong with it. */
  allow({ most, masks }) {
    this.most = most;
    this.masks = masks;
    this.render();
  }

  render() {
    for (const image of this.box.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.box.replaceChildren(...this.blobs.map((blob, index) => this.card(blob, index)));
    this.box.hidden = this.blobs.length === 0;
    this.changed();
  }

  card(blob, index) {
    const remove = label(make("button", { type: "button", class: "tool" }, icon("close")), "sources.remove");
    remove.addEventListener("click", () => {
      this.blobs.splice(index, 1);
      if (index === 0) this.mask = null;
      this.render();
      byId("prompt").focus();
    });
    const shown = make("div", { class: "thumb" }, picture(blob, "sources.picture"));
    const card = make("div", { class: "source" }, shown);
    if (index === 0) {
      if (this.mask) shown.append(picture(this.mask, "sources.mask", "veil"));
      const paint = make("button", { type: "button", class: "button quiet" }, icon("brush"));
      paint.append(say(make("span"), this.mask ? "mask.change" : "mask.paint"));
      paint.disabled = !this.masks;
      if (!this.masks) say(paint, "mask.impossible", {}, "i18nTitle");
      paint.addEventListener("click", async () => {
        const mask = await paintMask(blob, this.mask);
        if (mask === undefined) return;
        this.mask = mask;
        this.render();
        this.box.querySelector(".button")?.focus();
      });
      card.append(paint);
    }
    card.append(remove);
    return card;
  }
}

function picture(blob, key, style = "") {
  const image = say(make("img", { class: style }), key, {}, "i18nAlt");
  image.src = URL.createObjectURL(blob);
  return image;
}

/** The file's bytes, if it is of a kind that servers read; what else this browser can show, as PNG. */
async function readable(file) {
  const blob = new Blob([await file.arrayBuffer()], { type: file.type }); // the file itself may move or change
  const bitmap = await createImageBitmap(blob); // throws for what is no picture
  if (SENT_AS_THEY_ARE.has(blob.type)) {
    bitmap.close();
    return blob;
  }
  const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (png === null) throw new Error("larger than a canvas may be");
  return png;
}
