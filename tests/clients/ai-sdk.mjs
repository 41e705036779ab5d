import { readFile } from "node:fs/promises";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import { report } from "./report.mjs";

await report(async ({ task, url, key, model, size }) => {
  const provider = createOpenAICompatible({ name: "darkroom", baseURL: `${url}/v1`, apiKey: key });
  const { images } = await generateImage({
    model: provider.imageModel(model),
    prompt: task === "edit" ? { text: "a red apple", images: [await readFile(process.env.SOURCE)] } : "a red apple",
    n: 1,
    size,
    providerOptions: { darkroom: { num_inference_steps: 2 } },
  });
  return images.map((image) => ({ bytes: image.uint8Array, mime: image.mediaType }));
});
