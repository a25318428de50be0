// The picture on the page: fitted into its frame, drawn with its result, saved as files.

import { drawMask, drawPeople, drawPicture, drawRows, plain } from "./draw.js";
import { edgeLayer, fillLayer, sampleMask } from "./mask.js";
import { bySize, percent } from "./results.js";

const LARGEST_ZOOM = 4; // Small pictures are not enlarged beyond it
const SMALLEST_SHARE = 0.005; // Classes that cover less are left out of the legend on the picture
const GREY = [128, 128, 128]; // Of classes without a colour of their own
const narrow = matchMedia("(max-width: 56rem)");

/** The frame with the canvas. `settings()` returns what the display card says. */
export class Stage {
  constructor(settings) {
    const at = (id) => document.getElementById(id);
    Object.assign(this, { settings, frame: at("frame"), view: at("view"), canvas: at("canvas"), picture: null });
    this.setResult(null, null);
    new ResizeObserver(() => this.fit()).observe(this.frame);
    addEventListener("resize", () => this.fit());
  }

  /** Show another picture, without a result. */
  setPicture(picture) {
    this.picture?.preview.close();
    this.picture = picture;
    this.setResult(null, null);
    this.view.hidden = document.getElementById("tools").hidden = false;
    document.getElementById("empty").hidden = true;
    this.fit();
  }

  /** Lay a model's result over the picture; null takes it away. */
  setResult(model, result) {
    Object.assign(this, { model, result, ids: null, layers: null });
    if (!result) return;
    this.sides = { left: new Set(model.keypoints?.left), right: new Set(model.keypoints?.right) };
    this.colors = new Map(result.classes?.map(({ class_id: id }) => [id, GREY]));
    for (const { class_id: id, color } of model.classes ?? []) if (color) this.colors.set(id, color);
    this.hidden = new Set(result.mask ? background(model, result) : []);
    if (result.mask) this.ids = this.#sample(this.picture.preview.width, this.picture.preview.height);
  }

  /** Show or hide a class of the mask. */
  toggle(id, shown) {
    this.hidden[shown ? "delete" : "add"](id);
    this.layers = null;
    this.draw();
  }

  /** Make the canvas as large as the frame allows, and draw. */
  fit() {
    if (!this.picture) return;
    const { width, height } = this.picture;
    const room = { width: this.frame.clientWidth - 24, height: this.frame.clientHeight - 24 };
    if (narrow.matches) room.height = 0.62 * innerHeight;
    const scale = Math.min(room.width / width, room.height / height, LARGEST_ZOOM);
    const size = { width: Math.max(1, Math.floor(width * scale)), height: Math.max(1, Math.floor(height * scale)) };
    this.view.style.width = `${size.width}px`;
    this.view.style.height = `${size.height}px`;
    this.canvas.width = Math.round(size.width * devicePixelRatio);
    this.canvas.height = Math.round(size.height * devicePixelRatio);
    this.draw();
  }

  /** Draw with the settings of the moment. */
  draw() {
    if (!this.picture) return;
    const { preview } = this.picture;
    if (this.ids && !this.layers) this.layers = this.#layers(this.ids, preview.width, preview.height);
    this.#paint(this.canvas.getContext("2d"), preview, this.layers, { ...this.settings(), unit: devicePixelRatio });
  }

  /** The drawing as a PNG of the picture's own size; an Error with a sentence where the browser cannot write it. */
  async png() {
    const { width, height } = this.picture;
    const full = await this.picture.full();
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    const layers = this.ids && this.#layers(this.#sample(width, height), width, height);
    this.#paint(canvas.getContext("2d"), full, layers, { ...this.settings(), marked: false, unit: Math.min(1, Math.max(width, height) / 480) });
    full.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    if (!blob) throw new Error(`The browser cannot write a PNG of ${width} × ${height} pixels.`);
    return blob;
  }

  #sample(width, height) {
    return sampleMask(this.result.mask, this.result.width, this.result.height, width, height);
  }

  #layers(ids, width, height) {
    const shown = new Map([...this.colors].filter(([id]) => !this.hidden.has(id)));
    return { fill: fillLayer(ids, width, height, shown), edges: edgeLayer(ids, width, height, shown) };
  }

  #paint(context, image, layers, show) {
    drawPicture(context, image);
    if (!this.result) return;
    if (this.result.people) drawPeople(context, this.result, this.sides, show);
    if (layers) drawMask(context, layers.fill, layers.edges, show.opacity);
    if (this.result.mask && show.legend) drawRows(context, this.#legend(), show.unit);
    if (this.result.predictions && show.bars) {
      const rows = this.result.predictions.map(({ label, probability }) => ({
        label: plain(label),
        value: percent(probability),
        share: probability,
      }));
      drawRows(context, rows, show.unit);
    }
  }

  #legend() {
    return bySize(this.result.classes)
      .filter(({ class_id: id, share }) => !this.hidden.has(id) && share >= SMALLEST_SHARE)
      .map(({ class_id: id, label, share }) => ({ label: plain(label), value: percent(share), color: this.colors.get(id) }));
  }
}

/** Black, the class of what is no class, starts hidden where there is something else to see. */
function background(model, result) {
  const black = model.classes.filter(({ color }) => color?.every((value) => value === 0)).map(({ class_id: id }) => id);
  return result.classes.some(({ class_id: id }) => !black.includes(id)) ? black : [];
}

/** Hand a blob to the browser as a download. */
export function download(blob, name) {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
