// The page's words in the reader's language. Knows the folders of words and the data-i18n attributes; knows no other text.
//
// An element says which words it shows: data-i18n for its text, data-i18n-label, -title, -placeholder and -alt for those
// attributes, and data-i18n-values for the numbers in them. So a change of language can translate all that is there.
import { memory } from "./dom.js";

export const LANGUAGES = { en: "English", "zh-Hans": "简体中文", "zh-Hant": "繁體中文" };

const ATTRIBUTES = {
  i18n: null, i18nLabel: "aria-label", i18nTitle: "title", i18nPlaceholder: "placeholder", i18nAlt: "alt",
};
const SELECTOR = "[data-i18n], [data-i18n-label], [data-i18n-title], [data-i18n-placeholder], [data-i18n-alt]";

const folders = ["lang"]; // of words, those of this page first

let words = {};
let language = "en";
let plural = new Intl.PluralRules("en");
let asked = { code: "en" }; // the latest change

/** The language that the reader chose, or the first of theirs that there is. */
export function preferred() {
  const chosen = memory.get("language");
  if (chosen in LANGUAGES) return chosen;
  for (const tag of navigator.languages ?? []) {
    if (/^zh\b.*(hant|tw|hk|mo)/i.test(tag)) return "zh-Hant";
    if (/^zh\b/i.test(tag)) return "zh-Hans";
    if (/^en\b/i.test(tag)) return "en";
  }
  return "en";
}

async function wordsOf(folder, code) {
  const answer = await fetch(new URL(`${folder}/${code}.json`, import.meta.url));
  if (!answer.ok) throw new Error("no words"); // a refusal is JSON too
  return answer.json();
}

/** Translate the page. Throws where the words do not come; then it speaks as before. */
export async function speak(code) {
  const change = asked = { code };
  let parts;
  try {
    parts = await Promise.all(folders.map((folder) => wordsOf(folder, code)));
  } catch (error) {
    if (change === asked) asked = { code: language };
    throw error;
  }
  if (change !== asked) return; // another came meanwhile
  words = Object.assign({}, ...parts);
  language = code;
  plural = new Intl.PluralRules(code);
  document.documentElement.lang = code;
  for (const element of document.querySelectorAll(SELECTOR)) translate(element);
}

/** Learn the words of a part of the page that is fetched later: those in this folder. */
export async function learn(folder) {
  if (folders.includes(folder)) return;
  folders.push(folder);
  try {
    await speak(asked.code);
  } catch (error) {
    folders.splice(folders.indexOf(folder), 1);
    throw error;
  }
}

export const spoken = () => language;

/** The words of a key, with `values` filled in. */
export function t(key, values = {}) {
  let text = words[key] ?? key;
  if (typeof text === "object") text = text[plural.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

// Numbers as the language writes them; { seconds } as a duration in its words.
function shown(value) {
  if (typeof value === "object") return duration(value.seconds);
  return typeof value === "number" ? value.toLocaleString(language, { maximumFractionDigits: 2 }) : value;
}

/** Is there text for this key? */
export const known = (key) => key in words;

/** Let `element` say the words of `key`, now and after every change of language. */
export function say(element, key, values = {}, where = "i18n") {
  element.dataset[where] = key;
  if (Object.keys(values).length) element.dataset.i18nValues = JSON.stringify(values);
  else delete element.dataset.i18nValues;
  translate(element);
  return element;
}

/** The same for what assistive technology and tooltips say. */
export const label = (element, key, values) => say(element, key, values, "i18nLabel");

/** Let `element` show this text as it is: it belongs to no language of the page. */
export function plain(element, text) {
  delete element.dataset.i18n;
  element.textContent = text;
}

function translate(element) {
  const values = JSON.parse(element.dataset.i18nValues ?? "{}");
  for (const [name, attribute] of Object.entries(ATTRIBUTES)) {
    const key = element.dataset[name];
    if (key === undefined) continue;
    if (attribute === null) element.textContent = t(key, values);
    else element.setAttribute(attribute, t(key, values));
  }
}

/** "about 12 s", "about 3 min" */
export function duration(seconds) {
  const s = Math.max(1, Math.round(seconds));
  return s < 90 ? t("seconds", { n: s }) : t("minutes", { n: Math.round(s / 60) });
}
