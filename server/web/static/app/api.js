// Speaks to the server. Knows its routes, the key and the shapes of answers; knows nothing of the page.
import { memory } from "./dom.js";
import { readEvents } from "./sse.js";

/** Where the API is: beside this page, behind whatever path a proxy put both. */
export const base = () => new URL("v1", document.baseURI).href;

/** Can this be a key? What a header cannot carry would fail before it is sent, as if the server were away. */
export const isKey = (text) => /^[!-~]{1,512}$/.test(text);

let key = memory.get("key") ?? "";
if (!isKey(key)) key = "";
let streams = true; // until a server says that it does not

export const hasKey = () => key !== "";

export function setKey(value) {
  key = value;
  memory.set("key", value || null);
}

/**
 * A failure, in the server's words. `code` says which kind, also of those that no server reported; `final`, that the
 * same request will not succeed by being repeated.
 */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "network", param = null, retryAfter = 0, final = false } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter, final });
  }
}

/** The answer to a request below /v1. Throws ApiError. */
export async function call(path, { headers = {}, ...options } = {}) {
  let answer;
  try {
    answer = await fetch(`${base()}/${path}`, {
      cache: "no-store",
      credentials: "omit",
      ...options,
      headers: { ...headers, ...(key ? { authorization: `Bearer ${key}` } : {}) },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch { /* not ours: a proxy's page, say */ }
  return new ApiError(error.message ?? "", {
    status: answer.status,
    code: error.code ?? "unknown",
    param: error.param,
    retryAfter: Number(answer.headers.get("retry-after")) || 0,
    final: answer.headers.get("x-should-retry") === "false",
  });
}

/** The rows of /v1/models, without those of aliases: each is named by its model's row. */
export async function models() {
  return (await (await call("models")).json()).data.filter((row) => !row.alias_of);
}

/** What /readyz says of each device: the address is open, and answers also where the server is not ready. */
export async function devices() {
  const answer = await fetch(new URL("readyz", document.baseURI), { cache: "no-store", credentials: "omit" });
  return (await answer.json()).devices ?? [];
}

/** Ask the server to stop a job. It may be over already, and the server may not know jobs: both are fine. */
export function cancel(job) {
  call(`images/jobs/${job}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/** A picture's blob, so many times as large. */
export async function enlarge(blob, scale) {
  const form = new FormData();
  form.set("image", blob, "picture");
  form.set("scale", scale);
  form.set("response_format", "b64_json");
  form.set("output_format", blob.type.split("/")[1]);
  const { data, size, output_format: format } = await (await call("images/upscale", { method: "POST", body: form })).json();
  const [width, height] = size.split("x").map(Number);
  return { blob: blobOf(data[0].b64_json, format), width, height };
}

/**
 * Draw what `request` says (see request.js). `on.progress({ state, place, eta_s, done, of })`,
 * `on.preview(index, blob)`, `on.picture(index, { blob, seed })` and `on.ignored(names)`, of fields that meant nothing
 * to the server, are called as things happen.
 * Throws ApiError, or AbortError where `signal` ends it.
 */
export async function draw(request, { job, signal, on }) {
  const send = (more) => {
    const { headers = {}, body } = request.encode(more);
    return call(request.path, { method: "POST", signal, body, headers: { ...headers, "x-job-id": job } });
  };
  const asked = { response_format: "b64_json" };
  if (streams) {
    try {
      return await receive(request, await send({ ...asked, stream: true, partial_images: 2, stream_progress: true }), on);
    } catch (error) {
      if (error.status !== 400 || error.param !== "stream") throw error;
      streams = false;
    }
  }
  return receive(request, await send(asked), on);
}

async function receive({ count }, answer, on) {
  const ignored = answer.headers.get("x-ignored-fields");
  if (ignored) on.ignored(ignored);
  if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) {
    const { data, output_format: format = "png" } = await answer.json();
    data.forEach((item, index) => on.picture(index, { blob: blobOf(item.b64_json, format), seed: item.seed }));
    return;
  }
  let come = 0;
  try {
    for await (const { type, data } of readEvents(answer.body)) {
      const event = JSON.parse(data);
      come += heard(type, event, on);
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("", { code: "cut" });
  }
  if (come < count) throw new ApiError("", { code: "cut" });
}

/** Pass one event on. Returns how many finished pictures it brought. */
function heard(type, event, on) {
  if (type === "error") throw new ApiError(event.error.message, { status: 500, ...event.error });
  if (type === "darkroom.progress") on.progress(event);
  if (type.endsWith(".partial_image")) on.preview(event.index, blobOf(event.b64_json, event.output_format));
  if (!type.endsWith(".completed")) return 0;
  on.picture(event.index, { blob: blobOf(event.b64_json, event.output_format), seed: event.seed });
  return 1;
}

/** The picture of this text and format. */
export function blobOf(base64, format) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return new Blob([bytes], { type: `image/${format}` });
}
