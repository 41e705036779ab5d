"""The web page as a person uses it: what can be seen on it, and what can be done with it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.running import eventually

REFUSED = "Failed to load resource"  # what the browser's console says of every status from 400 on


class Page:
    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome
        self.url = ""
        self.expects: tuple[str, ...] = ()  # complaints of the browser that a test provokes

    def open(self, url: str, *, storage: dict[str, str] | None = None, wait: bool = True) -> None:
        """Open the page as a newcomer, or with this in localStorage."""
        self.url = url
        self.chrome.get(f"{url}/page/docs/favicon.svg")  # the same origin, without the page
        self.chrome.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
        for name, value in (storage or {}).items():
            self.run("localStorage.setItem(arguments[0], arguments[1])", name, value)
        self.chrome.get(f"{url}/")
        self.ready(models=wait)

    def ready(self, *, models: bool = True) -> None:
        self.until("return document.documentElement.dataset.ready !== undefined")
        if models:
            self.until("return document.getElementById('model').options.length > 0")

    def reload(self) -> None:
        self.chrome.refresh()
        self.ready()

    def leave(self) -> None:
        """Nothing may be left open, and the console must be empty but for what was expected."""
        self.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        complaints = [entry["message"] for entry in self.log("browser") if entry["level"] == "SEVERE"]
        self.chrome.get("about:blank")
        unexpected = [text for text in complaints if not any(part in text for part in self.expects)]
        assert not unexpected, unexpected

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What the browser has logged since this was last asked."""
        entries: list[dict[str, Any]] = self.chrome.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def run(self, script: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any, within_s: float = 20.0) -> Any:
        return eventually(lambda: self.run(script, *arguments), within_s=within_s)

    def one(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What the first match says; empty when there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def choose(self, identity: str, value: str) -> None:
        """Choose in a list, as a person would."""
        self.one(f"#{identity} option[value='{value}']").click()

    def ask(self, prompt: str) -> None:
        """Write a prompt and send it off with the keyboard."""
        field = self.one("#prompt")
        field.clear()
        field.send_keys(prompt, Keys.CONTROL, Keys.ENTER)

    def paste(self, *colours: str) -> None:
        """Paste pictures of these colours, each 200 by 100 pixels."""
        self.run(
            """
            Promise.all([...arguments].map((colour) => {
              const canvas = new OffscreenCanvas(200, 100);
              const ink = canvas.getContext("2d");
              ink.fillStyle = colour;
              ink.fillRect(0, 0, 200, 100);
              return canvas.convertToBlob();
            })).then((blobs) => {
              const data = new DataTransfer();
              for (const blob of blobs) data.items.add(new File([blob], "pasted.png", { type: "image/png" }));
              dispatchEvent(Object.assign(new Event("paste", { cancelable: true }), { clipboardData: data }));
            });
            """,
            *colours,
        )

    def pictures(self, count: int = 1) -> None:
        """Wait until the latest run has given this many."""
        self.until("return document.querySelectorAll('#latest button.tile').length === arguments[0]", count)
        self.until("return document.querySelectorAll('#latest .tile img').length === arguments[0]", count)
        self.until("return !document.querySelector('#latest .run.active')")

    def kept(self) -> list[dict[str, Any]]:
        """The pictures that the browser keeps, newest first, without their bytes."""
        rows = self.chrome.execute_async_script(
            """
            const done = arguments[0];
            import("/page/app/store.js").then((store) => store.load()).then((all) => done(all.map((picture) => ({
              id: picture.id, seed: picture.seed, width: picture.width, height: picture.height,
              fields: picture.run.fields, sources: picture.run.sources.length, mask: Boolean(picture.run.mask),
              created: picture.created,
            }))));
            """
        )
        return sorted(rows, key=lambda row: -row["created"])

    def image(self, selector: str) -> Image.Image:
        """The picture that an <img> shows, from its own bytes."""
        # The policy keeps scripts from fetching blob: addresses, so the bytes come from the picture as it is drawn.
        text = self.chrome.execute_async_script(
            """
            const [selector, done] = arguments;
            const image = document.querySelector(selector);
            image.decode().then(() => {
              const canvas = document.createElement("canvas");
              [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
              canvas.getContext("2d").drawImage(image, 0, 0);
              done(canvas.toDataURL("image/png").split(",")[1]);
            });
            """,
            selector,
        )
        return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")

    def requested(self) -> set[str]:
        """The origins of every request since this was last asked, as the browser's network log has them."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {
            f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, urls) if parts.scheme not in ("blob", "data")
        }

    def nameless(self) -> list[str]:
        """The controls that assistive technology would find without a name."""
        controls = {"button", "link", "textbox", "combobox", "spinbutton", "slider", "radio", "tab", "image", "dialog"}
        nodes = self.chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return [
            json.dumps(node.get("properties", []))[:200] + node["role"]["value"]
            for node in nodes
            if not node["ignored"]
            and node["role"]["value"].lower() in controls
            and not node.get("name", {}).get("value", "").strip()
        ]
