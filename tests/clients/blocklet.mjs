import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { decoded, fetched, report } from "./report.mjs";

// Its ES modules name their files without extensions, which Node does not resolve.
const require = createRequire(import.meta.url);
const { imageGenerationsV2, checkStatus, getUserCreditInfo } = require("@blocklet/aigne-hub/api/call/v2");
const { createImageGenerationApi } = require("@blocklet/aigne-hub/api/ai-kit");
const axios = require("axios");

await report(async ({ task, url, key, model, size }) => {
  process.env.BLOCKLET_AIGNE_API_URL = url;
  process.env.BLOCKLET_AIGNE_API_CREDENTIAL = JSON.stringify({ apiKey: key });
  delete globalThis.window;
  if (task === "status") return checkStatus({ model });
  if (task === "user") return getUserCreditInfo();
  const fields = { model, size, prompt: "a red apple", n: 1, quality: "low" };
  if (task === "helper") {
    globalThis.window = { blocklet: { appPid: "zLocalApp" } };
    const make = createImageGenerationApi({
      axios: axios.create({ headers: { Authorization: `Bearer ${key}` } }),
      path: `${url}/api/images/generations`,
    });
    const { data } = await make({ ...fields, response_format: "b64_json" });
    return data.map((item) => decoded(item.b64_json));
  }
  if (task === "edit") {
    fields.image = [`data:image/png;base64,${(await readFile(process.env.SOURCE)).toString("base64")}`];
    const { data } = await imageGenerationsV2({ ...fields, responseFormat: "url" });
    return Promise.all(data.map((item) => fetched(item.url)));
  }
  const { images } = await imageGenerationsV2({ ...fields, responseFormat: "b64_json" });
  return images.map((item) => decoded(item.b64Json));
});
