import { OpenAIImageModel } from "@aigne/openai";
import { decoded, report } from "./report.mjs";

await report(async ({ task, url, key, model, size }) => {
  const client = new OpenAIImageModel({ baseURL: `${url}/api`, apiKey: key, model });
  const input = { prompt: "a red apple", size, outputFileType: "file", modelOptions: { quality: "low" } };
  if (task === "edit") input.image = [{ type: "local", path: process.env.SOURCE }];
  const { images } = await client.invoke(input);
  return images.map((image) => decoded(image.data, image.mimeType));
});
