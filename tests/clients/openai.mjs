import { createReadStream } from "node:fs";
import OpenAI, { toFile } from "openai";
import { decoded, fetched, report } from "./report.mjs";

const pictures = (answer) =>
  Promise.all(answer.data.map((item) => (item.url ? fetched(item.url) : decoded(item.b64_json))));

await report(async ({ task, url, key, model, size }) => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
  const quick = { seed: 7, num_inference_steps: 2 };
  if (task === "models") {
    const ids = [];
    for await (const { id } of client.models.list()) ids.push(id);
    return ids;
  }
  if (task === "edit") {
    const source = createReadStream(process.env.SOURCE);
    return pictures(await client.images.edit({ model, size, prompt: "a red apple", image: source, ...quick }));
  }
  if (task === "mask") {
    const image = [await toFile(createReadStream(process.env.SOURCE), "a.png", { type: "image/png" })];
    const mask = await toFile(createReadStream(process.env.MASK), "m.png", { type: "image/png" });
    const fields = { model, size, prompt: "a red apple", image, mask, response_format: "b64_json", ...quick };
    return pictures(await client.images.edit(fields));
  }
  return pictures(await client.images.generate({ model, size, prompt: "a red apple", n: 2, ...quick }));
});
