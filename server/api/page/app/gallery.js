// This browser's pictures, newest first. Knows tiles and the store; knows nothing of how pictures are made.
import { byId, make } from "./dom.js";
import { label, say } from "./i18n.js";
import * as store from "./store.js";

const PAGE = 40; // tiles at a time

export class Gallery {
  /** `open(picture)` shows one; `unkept()` is called when the browser will not keep a picture. */
  constructor({ open, unkept }) {
    Object.assign(this, { open, unkept, pictures: [], shown: PAGE });
    byId("older").addEventListener("click", () => {
      this.shown += PAGE;
      this.render();
    });
    new IntersectionObserver(([entry]) => {
      if (entry.isIntersecting) byId("older").click();
    }, { rootMargin: "400px" }).observe(byId("older"));
  }

  async load() {
    try {
      const kept = await store.load();
      const there = new Set(kept.map(({ id }) => id));
      const meanwhile = this.pictures.filter(({ id }) => !there.has(id)); // a slow disk, a quick server
      this.pictures = [...kept, ...meanwhile].sort(newestFirst);
    } catch {
      this.unkept();
    }
    this.render();
  }

  /** Take a new picture in. It stays out of the grid while the card of its run shows it. */
  async keep(picture) {
    this.pictures.push(picture);
    this.pictures.sort(newestFirst);
    this.render();
    while (this.pictures.length > store.MOST) await this.drop(this.pictures.at(-1));
    try {
      await store.keep(picture);
    } catch {
      await this.makeRoom(picture);
    }
  }

  /** The browser is full: let the older half of the pictures go, and try once more. */
  async makeRoom(picture) {
    const older = this.pictures.slice(Math.ceil(this.pictures.length / 2));
    try {
      for (const old of older) await store.drop({ id: old.id, run: old.run });
      await store.keep(picture);
      this.pictures = this.pictures.filter((kept) => !older.includes(kept));
    } catch {
      this.unkept();
    }
    this.render();
  }

  async drop(picture) {
    this.pictures = this.pictures.filter((kept) => kept !== picture);
    forget(picture);
    for (const tile of document.querySelectorAll(`[data-picture="${picture.id}"]`)) tile.remove();
    await store.drop(picture).catch(() => {});
    this.render();
  }

  async clear() {
    this.pictures.forEach(forget);
    this.pictures = [];
    await store.clear().catch(() => {});
    this.render();
  }

  /** Draw the grid: what is in no card above it. */
  render() {
    const above = new Set([...byId("latest").querySelectorAll("[data-picture]")].map((tile) => tile.dataset.picture));
    const below = this.pictures.filter(({ id }) => !above.has(id));
    const there = new Map([...byId("grid").children].map((item) => [item.firstElementChild.dataset.picture, item]));
    const items = below.slice(0, this.shown).map((picture) => {
      const item = there.get(picture.id);
      if (item) return item;
      const made = make("li", {}, this.tile(picture));
      made.style.setProperty("--ratio", picture.width / picture.height);
      return made;
    });
    byId("grid").replaceChildren(...items);
    byId("earlier").hidden = below.length === 0;
    byId("older").hidden = below.length <= this.shown;
    say(byId("count"), "gallery.count", { n: this.pictures.length, most: store.MOST });
  }

  /** The button that shows a picture and opens it. */
  tile(picture) {
    const image = make("img", { alt: "", loading: "lazy", width: picture.width, height: picture.height });
    image.src = address(picture);
    const tile = make("button", { type: "button", class: "tile", "data-picture": picture.id }, image);
    tile.append(make("span", { class: "caption", "aria-hidden": "true" }, picture.run.fields.prompt));
    label(tile, "gallery.open", { prompt: picture.run.fields.prompt, seed: String(picture.seed) });
    tile.style.setProperty("--ratio", picture.width / picture.height);
    tile.addEventListener("click", () => this.open(picture));
    return tile;
  }
}

/** The order of the gallery; within a run, that of the pictures. */
const newestFirst = (a, b) => b.created - a.created || a.index - b.index;

/** An address for the picture's blob, the same as long as the page lives. */
export function address(picture) {
  picture.url ??= URL.createObjectURL(picture.blob);
  return picture.url;
}

function forget(picture) {
  if (picture.url) URL.revokeObjectURL(picture.url);
}
