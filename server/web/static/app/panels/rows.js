// A list whose rows stay in place while what they tell changes: what somebody presses is never taken away under the
// finger. Knows elements; knows nothing of what they show. Also how a failure is told.
import { ApiError } from "../api.js";
import { make } from "../dom.js";
import { known, say } from "../i18n.js";

export class Rows {
  rows = new Map();

  /** `row()` makes one: { element, tell(data) }. */
  constructor(list, row) {
    Object.assign(this, { list, row });
  }

  /** Show these pairs of a name and what to tell, in this order. */
  show(pairs) {
    const found = new Set(pairs.map(([name]) => name));
    for (const [name, { element }] of this.rows) {
      if (found.has(name)) continue;
      element.remove();
      this.rows.delete(name);
    }
    pairs.forEach(([name, data], at) => {
      if (!this.rows.has(name)) this.rows.set(name, this.row());
      const row = this.rows.get(name);
      row.tell(data);
      if (this.list.children[at] !== row.element) this.list.insertBefore(row.element, this.list.children[at] ?? null);
    });
  }
}

/** Let `box` say what went wrong, our words first, then the server's; null takes it away. Says nothing twice. */
export function complain(box, error, ...more) {
  const code = error instanceof ApiError ? error.code : "page";
  const key = error && [code, `status_${error.status}`, "unknown"].map((end) => `error.${end}`).find(known);
  const message = error instanceof ApiError ? error.message : "";
  const told = error ? `${key} ${message}` : "";
  if (told === (box.dataset.told ?? "")) return;
  box.dataset.told = told;
  box.hidden = !error;
  box.replaceChildren();
  if (error) box.append(say(make("strong"), key), message ? make("p", { lang: "en" }, message) : "", ...more);
}

/** A place for that. */
export const complaints = () => make("div", { class: "run-error", role: "alert", hidden: "" });

/** Set text only where it is another: what is selected stays so, and nothing is read out twice. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
