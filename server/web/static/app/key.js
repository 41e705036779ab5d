// Two small dialogs: entering a key, and "are you sure?". Knows dialogs; the key itself is api.js's.
import { hasKey, isKey, setKey } from "./api.js";
import { byId, closable } from "./dom.js";
import { say } from "./i18n.js";

let answer = () => {};
let pending = null;

/** What to say to whoever was answered 401. */
export function whyAsked(error) {
  if (error?.code === "expired_api_key") return "key.expired";
  return hasKey() ? "key.wrong" : "key.wanted";
}

/** Ask for a key. Resolves to whether one was entered. Whoever asks meanwhile gets the same answer. */
export function enterKey(why) {
  pending ??= new Promise((resolve) => {
    say(byId("key-note"), why ?? whyAsked());
    byId("key-input").value = "";
    byId("key-forget").hidden = !hasKey();
    answer = resolve;
    byId("key").showModal();
  }).finally(() => { pending = null; });
  return pending;
}

/** Ask whether to go on. */
export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    say(byId("confirm-title"), title);
    say(byId("confirm-text"), text);
    say(byId("confirm-yes"), yes);
    byId("confirm").returnValue = "";
    byId("confirm").addEventListener("close", () => resolve(byId("confirm").returnValue === "yes"), { once: true });
    byId("confirm").showModal();
  });
}

/** Bind both dialogs' controls, once. */
export function prepareKey() {
  closable(byId("key"));
  closable(byId("confirm"));
  byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
  byId("key-form").addEventListener("submit", (event) => {
    const entered = byId("key-input").value.trim();
    if (entered && !isKey(entered)) {
      event.preventDefault();
      say(byId("key-note"), "key.wrong");
      byId("key-input").select();
      return;
    }
    if (entered) setKey(entered);
    answer(entered !== "");
  });
  byId("key-forget").addEventListener("click", () => {
    setKey("");
    byId("key").close();
  });
  byId("key").addEventListener("close", () => answer(false)); // no effect after a key was entered
}
