// Wires the page together. The only module that knows all the others.
import { enlarge, models } from "./api.js";
import { codePanel } from "./code.js";
import { Composer } from "./composer.js";
import { alone, Detail } from "./detail.js";
import { Devices } from "./devices.js";
import { byId, closable, fit, make, memory } from "./dom.js";
import { blobOf, Gallery } from "./gallery.js";
import { known, label, LANGUAGES, preferred, say, speak, spoken, t } from "./i18n.js";
import { confirmed, enterKey, prepareKey, whyAsked } from "./key.js";
import { prepareMask } from "./mask.js";
import { randomSeed } from "./request.js";
import { Run } from "./run.js";

const EXAMPLES = ["a panda on a yellow background", "a red apple on a blue background", "a rocket on a purple background"];
const THEMES = ["auto", "light", "dark"];

const runs = new Set();
// Beside an open dialog nothing is read out.
const announce = (text) => { (document.querySelector("dialog[open] .said") ?? byId("status")).textContent = text; };

const gallery = new Gallery({ open: (picture) => detail.open(picture), unkept: () => warn("error.unkept") });
const devices = new Devices();
const composer = new Composer({ submit: () => start(composer.read()), refused: warn });
const detail = new Detail(gallery, {
  announce,
  again: (picture) => {
    composer.fill(alone(picture));
    toComposer();
  },
  another: (picture) => start({ ...alone(picture), fields: { ...alone(picture).fields, seed: undefined } }),
  edit: async (picture) => {
    composer.sources.set([], null);
    await composer.sources.add(await blobOf(picture).catch(() => null));
    toComposer();
  },
  enlarge: async (picture) => {
    try {
      const { blob, width, height } = await enlarge(await blobOf(picture), 2);
      const id = `${picture.id}-${width}x${height}`;
      const made = gallery.pictures.find((kept) => kept.id === id);
      if (made) return made;
      const larger = { ...picture, id, index: picture.index + 0.01, blob, type: blob.type, bytes: blob.size, width, height, url: undefined };
      await gallery.keep(larger);
      return larger;
    } catch (error) {
      byId("detail").close();
      warn([`error.${error.code}`, `error.status_${error.status}`].find(known) ?? "error.unknown", error.message);
      return null;
    }
  },
  remove: async (picture) => {
    if (!(await confirmed("delete.title", "delete.text", "delete"))) return false;
    await gallery.drop(picture);
    tidy();
    return true;
  },
});

/** Start a run of what is asked: { fields, sources, mask }. Returns it, where it says what to draw. */
function start({ fields, sources, mask }) {
  composer.forgive();
  if (!fields.prompt) {
    warn("error.no_prompt");
    composer.blame("prompt");
    return null;
  }
  warn(null);
  for (const card of byId("latest").children) if (!card.classList.contains("active")) card.remove();
  const run = new Run({ fields: { ...fields, seed: fields.seed ?? randomSeed() }, sources, mask }, {
    announce,
    picture: (run, index, { blob, seed }) => take(run, index, blob, seed),
    end: (run) => {
      runs.delete(run);
      run.card.classList.remove("active");
      tidy();
      refreshModels();
    },
    key: async (error) => {
      const entered = await enterKey(whyAsked(error));
      if (entered) refreshModels();
      return entered;
    },
    blame: (param, since) => composer.blame(param, since),
    repeat: ({ card, fields, sources, mask }) => {
      const held = card.contains(document.activeElement);
      card.remove();
      const again = start({ fields, sources, mask });
      if (held) again.card.querySelector("button").focus();
    },
    dismissed: tidy,
  });
  runs.add(run);
  if (devices.shown) devices.look();
  run.card.classList.add("active");
  byId("latest").prepend(run.card);
  tidy();
  const { top } = run.card.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.75) run.card.scrollIntoView({ block: "nearest", behavior: calm() ? "auto" : "smooth" });
  run.start();
  return run;
}

/** A picture has come: keep it, and show it in its run's card. */
function take(run, index, blob, seed) {
  const record = run.record ??= {
    id: run.id, created: run.created, fields: run.fields, sources: run.sources, mask: run.mask,
    took: (Date.now() - run.since) / 1000,
  };
  const [width, height] = run.fields.size.split("x").map(Number);
  const picture = {
    id: `${run.id}-${index}`, run: record, index, seed, blob, type: blob.type, bytes: blob.size, created: run.created,
    width: width || 1, height: height || 1,
  };
  const tile = gallery.tile(picture, "eager");
  // Measured from its bytes: the image itself may never be decoded, in a tab that nobody looks at.
  createImageBitmap(blob).then((bitmap) => {
    [picture.width, picture.height] = [bitmap.width, bitmap.height];
    bitmap.close();
    fit(tile, picture.width, picture.height);
    fit(run.card, picture.width, picture.height);
  }).catch(() => {}).then(() => gallery.keep(picture));
  return tile;
}

/** Bring what depends on the cards in line with them. */
function tidy() {
  for (const card of byId("latest").querySelectorAll("[data-over=done]:not(:has(.tile))")) card.remove(); // all deleted
  gallery.render();
  byId("welcome").hidden = gallery.pictures.length > 0 || byId("latest").children.length > 0;
}

function toComposer() {
  byId("composer").scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  byId("prompt").focus();
  byId("prompt").select();
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Say what is wrong above the form; null takes it away. `about`: what will take it away when it is right again. */
function warn(key, message = "", about = "") {
  byId("banner").hidden = key === null;
  byId("banner").dataset.about = about;
  byId("banner").replaceChildren();
  if (key) byId("banner").append(say(make("span"), key), ...(message ? [make("span", { lang: "en" }, ` ${message}`)] : []));
}

/** What was said of this is so no more. Whatever else is said there stays. */
function unwarn(about) {
  if (byId("banner").dataset.about === about) warn(null);
}

function offer(rows) {
  composer.offer(rows);
  devices.offer(rows);
}

async function offerModels() {
  try {
    offer(await models());
    unwarn("models");
  } catch (error) {
    if (error.status === 401) {
      if (await enterKey(whyAsked(error))) return offerModels();
      return warn(error.code === "expired_api_key" ? "error.expired_api_key" : "error.invalid_api_key", "", "models");
    }
    warn([`error.${error.code}`, `error.status_${error.status}`].find(known) ?? "error.unknown", error.message, "models");
    const retry = say(make("button", { type: "button", class: "button quiet" }), "run.again");
    retry.addEventListener("click", offerModels);
    byId("banner").append(retry);
  }
}

/** A model may have been loaded, broken or mended since. A failure to ask is of no interest here. */
async function refreshModels() {
  try {
    const rows = await models();
    offer(rows);
    unwarn("models");
  } catch { /* the next request says what is wrong */ }
}

function offerLanguages() {
  const select = byId("language");
  for (const [code, name] of Object.entries(LANGUAGES)) select.append(make("option", { value: code, lang: code }, name));
  select.value = preferred();
  select.addEventListener("change", async () => {
    try {
      await speak(select.value);
    } catch {
      select.value = spoken();
      return warn("error.network", "", "language");
    }
    memory.set("language", spoken());
    unwarn("language");
    composer.translate();
    nameTheme();
    for (const run of runs) run.tell();
  });
}

function nameTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  label(byId("theme"), `theme.${theme}`);
  say(byId("theme"), `theme.${theme}`, {}, "i18nTitle");
}

byId("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  memory.set("theme", theme === "auto" ? null : theme);
  nameTheme();
  announce(t(`theme.${theme}`));
});

byId("key-button").addEventListener("click", async () => {
  if (await enterKey("key.note")) offerModels();
});

// Jobs, usage and models are fetched when somebody asks for them.
byId("server").addEventListener("click", async () => {
  let why = "error.network";
  try {
    // Browsers remember a script that did not come, until the page is loaded anew: first, see that the server is there.
    if (!(await fetch(new URL("./panels/panels.js", import.meta.url))).ok) throw new Error("not served");
    why = "error.page";
    const { openPanels } = await import("./panels/panels.js");
    why = "error.network";
    await openPanels({ changed: refreshModels, key: offerModels });
    unwarn("panels");
  } catch {
    warn(why, "", "panels");
  }
});

byId("code").addEventListener("click", () => {
  byId("composer-code").replaceChildren(codePanel(composer.read(), announce));
  byId("code-dialog").showModal();
});

byId("clear").addEventListener("click", async () => {
  if (!(await confirmed("clear.title", "clear.text", "gallery.clear"))) return;
  for (const card of byId("latest").querySelectorAll(".run:not(.active)")) card.remove();
  await gallery.clear();
  tidy();
  byId("prompt").focus();
});

// Drop a picture anywhere, or paste one.
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  byId("drop").hidden = byId("add").disabled;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
addEventListener("drop", (event) => {
  byId("drop").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  takeFiles(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  const { files = [], types = [] } = event.clipboardData ?? {};
  // Office programs put a picture of the text beside it. Whoever is writing means the text.
  const writes = event.target.matches?.("input, textarea") && ["text/plain", "text/html"].every((type) => types.includes(type));
  if (files.length && !writes && takeFiles(files)) event.preventDefault();
});

/** Take pictures to edit, where that can be. Are they taken? */
function takeFiles(files) {
  if (byId("add").disabled || document.querySelector("dialog[open]")) return false;
  for (const file of [...files].slice(0, 8)) composer.sources.add(file);
  return true;
}

addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog[open]")) return; // Escape may be for an input method
  if (event.key === "Escape") [...runs].at(-1)?.cancel();
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    byId("prompt").focus();
  }
});

// Leaving the page cancels what it waits for: the connection closes.
addEventListener("beforeunload", (event) => { if (runs.size) event.preventDefault(); });

offerLanguages();
await speak(preferred());
nameTheme();
prepareMask();
prepareKey();
closable(byId("code-dialog"));
for (const prompt of EXAMPLES) {
  const button = make("button", { type: "button", class: "button", lang: "en" }, prompt);
  button.addEventListener("click", () => {
    byId("prompt").value = prompt;
    byId("composer").requestSubmit();
  });
  byId("examples").append(button);
}
document.documentElement.dataset.ready = "";
await gallery.load();
tidy();
await offerModels();
