// Runs the cases that a test gives in CASES, and prints one JSON line for each: the files it got, or the error as
// its user sees it. Pictures are written below OUT, for the test to decode.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

const write = console.log;
console.log = console.error; // what libraries say must not come between our lines

async function keep(name, { bytes, mime }, index) {
  const file = join(process.env.OUT, `${name}-${index}`);
  await writeFile(file, bytes);
  return { file, mime };
}

// Bytes of a URL as its user fetches it: without a key.
export async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} for ${url}`);
  return { bytes: Buffer.from(await answer.arrayBuffer()), mime: answer.headers.get("content-type") };
}

export function decoded(base64, mime = "image/png") {
  return { bytes: Buffer.from(base64, "base64"), mime };
}

// `call(case)` returns a list of {bytes, mime}, or anything else that JSON can carry.
export async function report(call) {
  for (const one of JSON.parse(process.env.CASES)) {
    const line = { case: one.name };
    try {
      const result = await call(one);
      if (Array.isArray(result) && result[0]?.bytes) {
        line.pictures = await Promise.all(result.map((picture, index) => keep(one.name, picture, index)));
      } else {
        line.result = result;
      }
    } catch (error) {
      const { name, message, status, type, code } = error;
      line.error = { name, message, status: status ?? error.statusCode, type, code };
    }
    write(JSON.stringify(line));
  }
}
