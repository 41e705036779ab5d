// Makes and finds elements. Knows the page's markup conventions; knows nothing of pictures.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element: `make("p", { class: "note" }, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Let `element` show a picture of this size in its shape, at most twice as large, but large enough to press. */
export function fit(element, width, height) {
  element.style.setProperty("--ratio", width / height);
  element.style.setProperty("--most", width > 1 ? `${Math.max(2 * width, 48)}px` : "100%");
}

/** One of the icons at the end of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Buttons marked data-close close their dialog, and so does a press on the backdrop. */
export function closable(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => dialog.close());
  }
  let pressed = null;
  dialog.addEventListener("pointerdown", (event) => { pressed = event.target; });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog && pressed === dialog) dialog.close();
  });
}

/** localStorage that does not throw where a browser forbids it. */
export const memory = {
  get(name) {
    try { return localStorage.getItem(`darkroom.${name}`); } catch { return null; }
  },
  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(`darkroom.${name}`);
      else localStorage.setItem(`darkroom.${name}`, value);
    } catch { /* then it lasts as long as the page */ }
  },
};
