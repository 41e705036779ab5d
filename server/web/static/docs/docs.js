// Fetches the OpenAPI document, with a key if the server wants one, and hands it to the viewer.
// The key stays in this tab's memory: nothing is stored, and a reload forgets it.
"use strict";

const viewer = document.getElementById("viewer");
const form = document.getElementById("key-form");
const note = document.getElementById("note");
const field = document.getElementById("key");

async function show(key) {
  const answer = await fetch(viewer.dataset.document, {
    headers: key ? { Authorization: `Bearer ${key}` } : {},
  });
  if (answer.status === 401) {
    return ask(key ? "The server does not know that key." : "This server asks for a key.");
  }
  if (!answer.ok) {
    return ask(`The server answered ${answer.status}.`);
  }
  const api = await answer.json();
  api.servers = [{ url: base() }];
  form.hidden = true;
  viewer.hidden = false;
  await customElements.whenDefined("openapi-explorer");
  await viewer.loadSpec(api);
  if (key) await unlock(api, key);
  return undefined;
}

// What "try it" asks: this page's own base. The origin's root would be wrong behind a path prefix of a proxy.
function base() {
  return new URL(`${viewer.dataset.root}/`, document.baseURI).href.replace(/\/+$/u, "");
}

// So that "try it" in the viewer sends the key that opened the page.
async function unlock(api, key) {
  const schemes = Object.entries(api.components?.securitySchemes ?? {});
  for (const [name, scheme] of schemes) {
    if (scheme.type === "http" && scheme.scheme?.toLowerCase() === "bearer") {
      await viewer.setAuthenticationConfiguration(name, { token: key });
    }
  }
}

function ask(why) {
  note.textContent = why;
  form.hidden = false;
  field.focus();
}

function attempt(key) {
  show(key).catch(() => ask("The server could not be reached."));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(field.value.trim());
});

attempt("");
