// Painting a mask over a picture. Knows canvases, pointers and keys; knows nothing of requests.
//
// The mask that comes out is what the API reads: a PNG of the picture's shape, transparent where it was painted.
import { byId, closable } from "./dom.js";

const LONGEST_SIDE = 1024; // of the mask, pixels; the server brings it to the picture's size
const MOST_UNDO = 20;
const KEY_STEP = 0.02; // of the longest side

let session = null;

/** Let the user paint. Resolves to the mask, to null for "nothing painted", to undefined when given up. */
export async function paintMask(blob, before) {
  const picture = await createImageBitmap(blob);
  const painted = new Painting(byId("mask-canvas"), picture);
  if (before) painted.load(await createImageBitmap(before));
  return new Promise((resolve) => {
    session = { painted, resolve };
    byId("mask").showModal();
    painted.show();
    byId("mask-canvas").focus();
  });
}

/** What is painted: `layer` is opaque where the picture will be drawn anew. */
class Painting {
  constructor(canvas, picture) {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
    this.picture = picture;
    this.canvas = canvas;
    this.width = canvas.width = Math.max(1, Math.round(picture.width * scale));
    this.height = canvas.height = Math.max(1, Math.round(picture.height * scale));
    this.layer = new OffscreenCanvas(this.width, this.height);
    this.ink = this.layer.getContext("2d", { willReadFrequently: true });
    this.undone = [];
    this.cursor = null; // for painting by keyboard
    this.last = null;
  }

  get radius() {
    return (Number(byId("mask-brush").value) / 200) * Math.max(this.width, this.height);
  }

  /** Take up a mask that was made before. */
  load(mask) {
    this.ink.fillRect(0, 0, this.width, this.height);
    this.ink.globalCompositeOperation = "destination-out";
    this.ink.drawImage(mask, 0, 0, this.width, this.height);
  }

  remember() {
    this.undone.push(this.ink.getImageData(0, 0, this.width, this.height));
    if (this.undone.length > MOST_UNDO) this.undone.shift();
  }

  stroke(x, y) {
    const erases = document.querySelector("#mask [name=tool]:checked").value === "eraser";
    this.ink.globalCompositeOperation = erases ? "destination-out" : "source-over";
    this.ink.lineWidth = this.radius * 2;
    this.ink.lineCap = this.ink.lineJoin = "round";
    this.ink.beginPath();
    this.ink.moveTo(this.last?.x ?? x, this.last?.y ?? y);
    this.ink.lineTo(x + 0.01, y); // a line of no length paints nothing
    this.ink.stroke();
    this.last = { x, y };
    this.show();
  }

  undo() {
    const before = this.undone.pop();
    if (before) this.ink.putImageData(before, 0, 0);
    this.show();
  }

  clear() {
    this.remember();
    this.ink.clearRect(0, 0, this.width, this.height);
    this.show();
  }

  invert() {
    this.remember();
    this.ink.globalCompositeOperation = "xor";
    this.ink.fillRect(0, 0, this.width, this.height);
    this.show();
  }

  show() {
    const view = this.canvas.getContext("2d");
    view.clearRect(0, 0, this.width, this.height); // or what was shown before stays where the picture is transparent
    view.globalAlpha = 1;
    view.drawImage(this.picture, 0, 0, this.width, this.height);
    const tint = new OffscreenCanvas(this.width, this.height);
    const colour = tint.getContext("2d");
    colour.drawImage(this.layer, 0, 0);
    colour.globalCompositeOperation = "source-in";
    colour.fillStyle = "#ff5a36";
    colour.fillRect(0, 0, this.width, this.height);
    view.globalAlpha = 0.6;
    view.drawImage(tint, 0, 0);
    if (this.cursor) this.showCursor(view);
    byId("mask-undo").disabled = this.undone.length === 0;
  }

  showCursor(view) {
    view.globalAlpha = 1;
    for (const [width, colour] of [[4, "#000"], [2, "#fff"]]) {
      view.lineWidth = (width * this.width) / (this.canvas.clientWidth || this.width);
      view.strokeStyle = colour;
      view.beginPath();
      view.arc(this.cursor.x, this.cursor.y, this.radius, 0, 7);
      view.stroke();
    }
  }

  /** The mask for the API, or null where nothing is painted. */
  async result() {
    const pixels = this.ink.getImageData(0, 0, this.width, this.height).data;
    let painted = false;
    for (let at = 3; at < pixels.length; at += 4) painted ||= pixels[at] > 127;
    if (!painted) return null;
    const mask = new OffscreenCanvas(this.width, this.height);
    const ink = mask.getContext("2d");
    ink.fillRect(0, 0, this.width, this.height);
    ink.globalCompositeOperation = "destination-out";
    ink.drawImage(this.layer, 0, 0);
    return mask.convertToBlob({ type: "image/png" });
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * this.width) / box.width,
      ((event.clientY - box.top) * this.height) / box.height,
    ];
  }
}

function onKey(event, painted) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = Math.max(painted.width, painted.height) * KEY_STEP;
  painted.cursor ??= { x: painted.width / 2, y: painted.height / 2 };
  if (event.key in moves) {
    const [dx, dy] = moves[event.key];
    painted.cursor.x = Math.min(painted.width, Math.max(0, painted.cursor.x + dx * step));
    painted.cursor.y = Math.min(painted.height, Math.max(0, painted.cursor.y + dy * step));
  } else if (event.key === " ") {
    painted.remember();
    painted.last = null;
    painted.stroke(painted.cursor.x, painted.cursor.y);
  } else {
    return;
  }
  event.preventDefault();
  painted.show();
}

/** Bind the dialog's controls, once. */
export function prepareMask() {
  const dialog = byId("mask");
  const canvas = byId("mask-canvas");
  closable(dialog);
  let painting = false;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    painting = true;
    canvas.setPointerCapture(event.pointerId);
    session.painted.cursor = null;
    session.painted.remember();
    session.painted.last = null;
    session.painted.stroke(...session.painted.at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!painting) return;
    for (const point of event.getCoalescedEvents?.() ?? [event]) session.painted.stroke(...session.painted.at(point));
  });
  // The last comes alone where the dialog closes in the midst of a stroke.
  for (const over of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(over, () => { painting = false; });
  canvas.addEventListener("keydown", (event) => onKey(event, session.painted));
  dialog.addEventListener("keydown", (event) => {
    const brush = byId("mask-brush");
    if (event.key === "[") brush.stepDown(3);
    else if (event.key === "]") brush.stepUp(3);
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) session.painted.undo();
    else return;
    session.painted.show();
  });
  byId("mask-undo").addEventListener("click", () => session.painted.undo());
  byId("mask-invert").addEventListener("click", () => session.painted.invert());
  byId("mask-clear").addEventListener("click", () => session.painted.clear());
  byId("mask-done").addEventListener("click", async () => {
    session.resolve(await session.painted.result());
    dialog.close();
  });
  dialog.addEventListener("close", () => session.resolve(undefined)); // no effect after a result
}
