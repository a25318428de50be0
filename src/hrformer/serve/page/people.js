// Who is in the picture: found by the server, the whole picture, or boxes that the visitor marks.

import { Boxes, howToDraw } from "./boxes.js";

const HINTS = {
  picture: "The whole picture is taken for one person.",
  boxes:
    "Drag on the picture, or add a box. Arrow keys move a box, with Shift they resize it, Delete removes it.",
};
const COLUMNS = [["x", "x"], ["y", "y"], ["width", "width"], ["height", "height"]];

/** The card "People" and the boxes on the picture. `changed(settled)` is called when the answer may become another. */
export class People {
  constructor(changed) {
    const at = (id) => document.getElementById(id);
    Object.assign(this, { changed, card: at("people"), list: at("box-list"), layer: at("layer"), mode: "find", limit: 100 });
    this.radios = [...this.card.querySelectorAll("input[name=people]")];
    // A finger on the picture scrolls, unless boxes are what was chosen.
    const may = (pointer) => this.#room() && (pointer !== "touch" || this.mode === "boxes");
    this.boxes = new Boxes(this.layer, may, (settled) => this.#boxesChanged(settled));
    for (const radio of this.radios) radio.addEventListener("change", () => this.#choose(radio.value));
    at("add-box").addEventListener("click", () => this.boxes.add());
    at("take-found").addEventListener("click", () => this.#takeFound());
  }

  /** Show what fits a model; hidden where it is not one of poses. */
  setModel(model, limits) {
    this.card.hidden = this.layer.hidden = model?.task !== "pose";
    if (this.card.hidden) return;
    this.limit = limits?.people ?? this.limit;
    this.detector = model.detector;
    const finds = model.detector !== "picture" && model.detector !== null;
    document.getElementById("find-choice").hidden = !finds;
    if (this.mode !== "boxes") this.mode = finds ? "find" : "picture";
    this.refresh();
  }

  /** Forget the boxes: another picture came. */
  setPicture({ width, height }) {
    this.boxes.size = { width, height };
    this.boxes.set([]);
    if (this.mode === "boxes") this.mode = document.getElementById("find-choice").hidden ? "picture" : "find";
    this.refresh();
  }

  /** Tell which people an answer holds, so that their boxes can be taken over; null for none. */
  setFound(result) {
    this.found = result?.people.map(({ bbox: [x, y, width, height] }) => ({ x, y, width, height })) ?? [];
    document.getElementById("take-found").hidden = !this.found.length || this.mode === "boxes";
  }

  /** The form fields that say it to the server; null while no box is marked yet. */
  fields() {
    if (this.mode === "find") return {};
    if (this.mode === "picture") return { detector: "picture" };
    if (!this.boxes.list.length) return null;
    return { boxes: JSON.stringify(this.boxes.list.map(({ x, y, width, height }) => [x, y, width, height])) };
  }

  /** Bring the card in line with the mode and the boxes. */
  refresh() {
    for (const radio of this.radios) radio.checked = radio.value === this.mode;
    const found = this.detector === "segmentation" ? "in the masks of a segmentation model" : `by ${this.detector}`;
    let hint = HINTS[this.mode] ?? `Found ${found}. To mark one yourself, ${howToDraw()}.`;
    if (!this.#room()) hint = `This server takes at most ${this.limit} people in a picture.`;
    document.getElementById("people-hint").textContent = hint;
    document.getElementById("add-box").disabled = !this.#room() || this.boxes.size.width <= 1;
    this.layer.classList.toggle("off", this.mode !== "boxes");
    this.layer.classList.toggle("touch", this.mode === "boxes");
    this.layer.classList.toggle("marking", this.#room());
    this.#fillList();
    this.setFound(null);
  }

  #room() {
    return this.boxes.list.length < this.limit;
  }

  #choose(mode) {
    this.mode = mode;
    this.refresh();
    this.changed(true);
  }

  #takeFound() {
    this.boxes.set(this.found.slice(0, this.limit));
    this.#choose("boxes");
    this.layer.firstElementChild?.focus({ preventScroll: true });
  }

  #boxesChanged(settled) {
    const rows = this.list.querySelectorAll("li");
    if (this.mode === "boxes" && rows.length === this.boxes.list.length) {
      rows.forEach((row, index) => this.#fillRow(row, index));
    } else {
      this.mode = "boxes";
      this.refresh();
    }
    if (settled) this.changed(true);
  }

  #fillList() {
    const boxes = this.mode === "boxes" ? this.boxes.list : [];
    this.list.replaceChildren(...boxes.map((_, index) => this.#row(index)));
    boxes.forEach((_, index) => this.#fillRow(this.list.children[index], index));
  }

  #row(index) {
    const row = document.createElement("li");
    const title = document.createElement("h3");
    title.textContent = `Box ${index + 1}`;
    const fields = COLUMNS.map(([key, word]) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "number", min: 0, step: 1, name: key });
      input.setAttribute("aria-label", `${word} of box ${index + 1}`);
      input.addEventListener("change", () => this.boxes.edit(index, { [key]: Number(input.value) }));
      label.append(word, input);
      return label;
    });
    const remove = document.createElement("button");
    Object.assign(remove, { type: "button", textContent: "×" });
    remove.setAttribute("aria-label", `Remove box ${index + 1}`);
    remove.addEventListener("click", () => {
      this.boxes.remove(index);
      document.getElementById("add-box").focus();
    });
    row.append(title, ...fields, remove);
    return row;
  }

  #fillRow(row, index) {
    for (const [key] of COLUMNS) row.querySelector(`[name=${key}]`).value = this.boxes.list[index][key];
  }
}
