// What the panels ask of the server. Knows its routes and the shapes of answers; knows nothing of the page.
import { blobOf, call } from "../api.js";

const json = async (path, options) => (await call(path, options)).json();
const named = (id) => id.split("/").map(encodeURIComponent).join("/");

/** Whose key this is: { name, admin }. */
export const principal = async () => (await json("usage?days=1")).principal;

/** The jobs of this key, oldest first. */
export const jobs = async () => (await json("images/jobs")).data;

/** The jobs of all keys, each with its `key`, oldest first. */
export async function everyones() {
  const all = (await json("images/jobs?all=true")).data;
  return all.sort((one, other) => one.created - other.created);
}

/** Stop a job of this key's. */
export const stop = (id) => json(`images/jobs/${named(id)}`, { method: "DELETE" });

/** The pictures of a job that was answered later, as { url } or { blob } each; null where they have gone. */
export async function results(id) {
  const { result } = await json(`images/jobs/${named(id)}`);
  if (!result) return null;
  const format = result.output_format ?? "png";
  return (result.data ?? result.images ?? []).map((item) => {
    const data = item.b64_json ?? item.data;
    return data ? { blob: blobOf(data, format) } : { url: item.url };
  });
}

/** What was used in the last so many days: by the key of this name, or by all that this one may see. */
export const usage = (days, name) => json(`usage?${new URLSearchParams(name ? { days, key: name } : { days })}`);

/** The models by the weights that they draw with: { id, names, state, devices, bytes }. */
export async function weights() {
  const found = new Map();
  for (const row of (await json("models")).data.filter(({ alias_of: other }) => !other)) {
    const id = row.weights ?? row.id;
    if (!found.has(id)) found.set(id, { id, names: [], state: row.state, devices: row.devices ?? {}, bytes: row.weight_bytes });
    found.get(id).names.push(row.id);
  }
  return [...found.values()];
}

/** Why models cannot be used, by their weights. The address is open; where a proxy hides it, nothing is known. */
export async function reasons() {
  try {
    const answer = await fetch(new URL("readyz", document.baseURI), { cache: "no-store", credentials: "omit" });
    return Object.fromEntries(Object.entries((await answer.json()).models).map(([id, { reason }]) => [id, reason]));
  } catch {
    return {};
  }
}

/** Have a model loaded or unloaded (`way`), on one device or on all. Resolves when the server answers. */
export function move(id, way, device) {
  return json(`models/${named(id)}/${way}${device ? `?${new URLSearchParams({ device })}` : ""}`, { method: "POST" });
}
