// A request as curl and as Python. Knows both languages' quoting; makes text only.
import { chosen, fileName } from "./request.js";

const quoteShell = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

// The parameters of the openai client's methods; all others go through extra_body.
const OWN = {
  generate: new Set(["prompt", "model", "size", "quality", "style", "n", "output_format"]),
  edit: new Set(["prompt", "model", "size", "quality", "n", "output_format"]),
};

/** Name of the file that a snippet writes. */
export const resultName = ({ fields }) => `darkroom-${fields.seed ?? "new"}.${fields.output_format ?? "png"}`;

/** A shell command that draws `{ fields, sources, mask }` and writes the (first) picture to a file. */
export function curl(base, { fields, sources, mask }) {
  const body = { ...chosen(fields), response_format: "b64_json" };
  const lines = [];
  if (!sources.length) {
    lines.push(
      `curl -sS --fail-with-body ${base}/images/generations`,
      `-H "Authorization: Bearer $DARKROOM_API_KEY"`,
      `-H "Content-Type: application/json"`,
      `-d ${quoteShell(JSON.stringify(body, null, 2))}`,
    );
  } else {
    lines.push(
      `curl -sS --fail-with-body ${base}/images/edits`,
      `-H "Authorization: Bearer $DARKROOM_API_KEY"`,
      ...Object.entries(body).map(([name, value]) => `--form-string ${quoteShell(`${name}=${value}`)}`),
      ...files(sources, mask).map(([name, file]) => `-F ${name}=@${file}`),
    );
  }
  const take = `grep -o '"b64_json":"[^"]*' | head -n 1 | cut -d'"' -f4 | base64 --decode`;
  return `${lines.join(" \\\n  ")} \\\n  | ${take} > ${resultName({ fields })}\n`;
}

function files(sources, mask) {
  const name = sources.length > 1 ? "image[]" : "image";
  return [
    ...sources.map((blob, index) => [`'${name}'`, fileName("source", blob, index)]),
    ...(mask ? [["mask", "mask.png"]] : []),
  ];
}

// JSON's strings, numbers and lists are Python's too.
const literal = (value) => JSON.stringify(value);

/** The same with the openai client. */
export function python(base, { fields, sources, mask }) {
  const method = sources.length ? "edit" : "generate";
  const body = { ...chosen(fields), response_format: "b64_json" };
  const own = Object.entries(body).filter(([name]) => OWN[method].has(name) || name === "response_format");
  const extra = Object.entries(body).filter(([name]) => !OWN[method].has(name) && name !== "response_format");
  const opened = sources.map((blob, index) => `open("${fileName("source", blob, index)}", "rb")`);
  const lines = [
    "import base64",
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=os.environ.get("DARKROOM_API_KEY") or "none")`,
    `answer = client.images.${method}(`,
  ];
  if (opened.length) lines.push(`    image=${opened.length > 1 ? `[${opened.join(", ")}]` : opened[0]},`);
  if (mask) lines.push(`    mask=open("mask.png", "rb"),`);
  lines.push(...own.map(([name, value]) => `    ${name}=${literal(value)},`));
  if (extra.length) {
    lines.push(`    extra_body={${extra.map(([name, value]) => `${literal(name)}: ${literal(value)}`).join(", ")}},`);
  }
  lines.push(
    ")",
    `with open("${resultName({ fields })}", "wb") as file:`,
    "    file.write(base64.b64decode(answer.data[0].b64_json))",
  );
  return `${lines.join("\n")}\n`;
}
