// This browser's pictures, newest first. Knows tiles and the store; knows nothing of how pictures are made.
import { byId, fit, make } from "./dom.js";
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
    } catch (error) {
      if (error?.name !== "QuotaExceededError" || !(await this.makeRoom(picture))) this.unkept();
    }
  }

  /** The browser is full: let the oldest picture go, and the next, until this one fits. Does it? */
  async makeRoom(picture) {
    let room = 0; // bytes; where twice its own did not help, more would not
    for (const old of [...this.pictures].reverse()) {
      // Its own run is just being looked at.
      if (old.run === picture.run || room >= 2 * picture.bytes) continue;
      await this.drop(old);
      room += old.bytes;
      try {
        await store.keep(picture);
        return true;
      } catch (error) {
        if (error?.name !== "QuotaExceededError") return false;
      }
    }
    return false;
  }

  async drop(picture) {
    this.pictures = this.pictures.filter((kept) => kept !== picture);
    forget(picture);
    for (const tile of document.querySelectorAll(`[data-picture="${picture.id}"]`)) (tile.closest("li") ?? tile).remove();
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
      fit(made, picture.width, picture.height);
      return made;
    });
    // Tiles that stay are left where they are: one that is taken out and put back has lost the focus.
    const grid = byId("grid");
    const kept = new Set(items);
    for (const item of [...grid.children]) if (!kept.has(item)) item.remove();
    items.forEach((item, at) => {
      if (grid.children[at] !== item) grid.insertBefore(item, grid.children[at] ?? null);
    });
    byId("earlier").hidden = below.length === 0;
    byId("older").hidden = below.length <= this.shown;
    say(byId("count"), "gallery.count", { n: this.pictures.length, most: store.MOST });
  }

  /** The button that shows a picture and opens it; in the grid, its pixels can wait until it is near. */
  tile(picture, loading = "lazy") {
    const image = make("img", { alt: "", loading, width: picture.width, height: picture.height });
    image.src = address(picture);
    const tile = make("button", { type: "button", class: "tile", "data-picture": picture.id }, image);
    tile.append(make("span", { class: "caption", "aria-hidden": "true" }, picture.run.fields.prompt));
    label(tile, "gallery.open", { prompt: picture.run.fields.prompt, seed: String(picture.seed) });
    fit(tile, picture.width, picture.height);
    tile.addEventListener("click", () => this.open(picture));
    return tile;
  }
}

/** The order of the gallery; within a run, that of the pictures. */
const newestFirst = (a, b) => b.created - a.created || a.index - b.index;

/** The picture's blob: at hand where it was made by this page, else as it is kept. */
export const blobOf = async (picture) => picture.blob ?? store.read(picture);

/** An address for the picture's blob, the same as long as the page lives. */
export function address(picture) {
  picture.url ??= URL.createObjectURL(picture.blob);
  return picture.url;
}

function forget(picture) {
  if (picture.url) URL.revokeObjectURL(picture.url);
}
