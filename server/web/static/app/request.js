// What to draw, and how that is written for the wire. Knows field names; knows neither the form nor the server.

/** Fields in the order in which people read them; the snippets show the same. */
export const FIELDS = [
  "prompt", "model", "size", "quality", "style", "n", "seed", "negative_prompt", "num_inference_steps",
  "guidance_scale", "strength", "scheduler", "output_format",
];

// What the server takes for granted; left out, so that a request says only what somebody chose.
const DEFAULTS = { n: 1, output_format: "png" };

/** `fields` without what is empty or the default, in FIELDS' order. */
export function chosen(fields) {
  const kept = {};
  for (const name of FIELDS) {
    const value = fields[name];
    if (value !== undefined && value !== "" && value !== DEFAULTS[name]) kept[name] = value;
  }
  return kept;
}

/** The request for `{ fields, sources, mask }`: where it goes, for how many pictures, and how it is encoded. */
export function toRequest({ fields, sources, mask }) {
  const own = chosen(fields);
  const count = fields.n ?? 1;
  if (!sources.length) {
    return {
      path: "images/generations",
      count,
      encode: (more) => ({
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ ...own, ...more }),
      }),
    };
  }
  return {
    path: "images/edits",
    count,
    encode: (more) => {
      const form = new FormData();
      for (const [name, value] of Object.entries({ ...own, ...more })) form.append(name, String(value));
      sources.forEach((blob, index) => {
        form.append(sources.length > 1 ? "image[]" : "image", blob, fileName("source", blob, index));
      });
      if (mask) form.append("mask", mask, "mask.png");
      return { body: form };
    },
  };
}

/** The name under which a source picture goes, is saved, and stands in the snippets. */
export function fileName(stem, blob, index = 0) {
  const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[blob.type] ?? "png";
  return `${stem}${index ? `-${index + 1}` : ""}.${ending}`;
}

/** 32 bits, as the server draws them: one for each request, so that no two are taken for the same. */
export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** An ID for a job: ours to choose, so that it can be cancelled before the server has answered. */
export const newJobId = () =>
  `page-${[...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
