import { readFile } from "node:fs/promises";
import { AIGNEHubImageModel } from "@aigne/aigne-hub";
import { decoded, fetched, report } from "./report.mjs";

await report(async ({ task, url, key, model, size, outputFileType = "file" }) => {
  const client = new AIGNEHubImageModel({ baseURL: url, apiKey: key, model });
  if (task === "models") {
    process.env.AIGNE_HUB_API_URL = url; // models() reads nothing else
    return client.models();
  }
  const quick = { seed: 7, numInferenceSteps: 2 };
  const input = { prompt: "a red apple", size, n: 2, outputFileType, modelOptions: quick };
  if (task === "edit") {
    const data = (await readFile(process.env.SOURCE)).toString("base64");
    input.image = [{ type: "file", data, filename: "a.png", mimeType: "image/png" }];
    input.n = 1;
  }
  if (task === "edit by url") {
    // A URL that this server signed itself: it is sent as it stands, and read back from the store.
    const first = await client.invoke({ ...input, n: 1, outputFileType: "url" });
    input.image = first.images;
    input.modelOptions = { ...quick, preferInputFileType: "url" };
    input.n = 1;
  }
  const { images } = await client.invoke(input);
  return Promise.all(
    images.map(async (image) => {
      if (image.type === "url") return fetched(image.url);
      if (image.type === "local") return { bytes: await readFile(image.path), mime: image.mimeType };
      return decoded(image.data, image.mimeType);
    }),
  );
});
