import { DoubaoImageModel } from "@aigne/doubao";
import { decoded, report } from "./report.mjs";

await report(async ({ task, url, key, model, size }) => {
  const client = new DoubaoImageModel({ baseURL: `${url}/api`, apiKey: key, model });
  const input = { prompt: "a red apple", size, outputFileType: "file" };
  if (task === "edit") input.image = [{ type: "local", path: process.env.SOURCE }];
  const { images } = await client.invoke(input);
  return images.map((image) => decoded(image.data)); // it calls every picture image/jpeg, whatever it is
});
