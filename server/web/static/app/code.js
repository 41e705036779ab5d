// The two snippets, to look at and to copy. Knows tabs and the clipboard; the text comes from snippets.js.
import { base } from "./api.js";
import { make } from "./dom.js";
import { label, say, t } from "./i18n.js";
import { curl, python } from "./snippets.js";

let count = 0;

/** A panel that shows `asked` as code. `announce(text)` is read out. */
export function codePanel(asked, announce) {
  const id = `code-${(count += 1)}`;
  const texts = { curl: curl(base(), asked), python: python(base(), asked) };
  const code = make("code");
  const box = make("pre", { id, role: "tabpanel", tabindex: "0", translate: "no" }, code);
  const tabs = Object.keys(texts).map((name) =>
    make("button", { type: "button", role: "tab", "aria-controls": id, id: `${id}-${name}` }, name === "curl" ? "curl" : "Python"));
  const show = (index) => {
    tabs.forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === index));
      tab.tabIndex = at === index ? 0 : -1;
    });
    box.setAttribute("aria-labelledby", tabs[index].id);
    code.textContent = Object.values(texts)[index];
  };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => show(index));
    tab.addEventListener("keydown", ({ key }) => {
      if (key !== "ArrowLeft" && key !== "ArrowRight") return;
      show(1 - index);
      tabs[1 - index].focus();
    });
  });
  const copy = say(make("button", { type: "button", class: "button quiet" }), "code.copy");
  copy.addEventListener("click", async () => {
    const copied = await toClipboard(code);
    say(copy, copied ? "code.copied" : "code.selected");
    announce(t(copied ? "code.copied" : "code.selected"));
    setTimeout(() => say(copy, "code.copy"), 2500);
  });
  show(0);
  const list = label(make("div", { role: "tablist" }, ...tabs), "code.title");
  return make("div", { class: "code" }, make("div", { class: "code-bar" }, list, copy), box);
}

/** Copy an element's text; where a browser forbids it (no TLS), select it at least. */
async function toClipboard(element) {
  getSelection().selectAllChildren(element);
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    return document.execCommand("copy");
  }
}
