// Rectangles around people on the picture, in its pixels: drawn, moved and resized by mouse, touch or keyboard.

const HANDLE = 14; // Screen pixels around a corner that take hold of it
const SMALLEST = 8; // Screen pixels that a drag must span to be a box
const STEPS = [0.7549, 0.5698]; // Multiples of these, without their whole parts, fill a square evenly
const touch = matchMedia("(any-pointer: coarse)");

/** How to draw a box from the mode "Find them", where a finger on the picture scrolls. */
export function howToDraw() {
  return touch.matches ? "choose Boxes, then drag on the picture" : "drag on the picture";
}

/**
 * The boxes over the picture. `changed(settled)` is called after each change; not settled while a drag goes on.
 * `may(pointerType)` says whether a drag draws a new box.
 */
export class Boxes {
  constructor(layer, may, changed) {
    Object.assign(this, { layer, may, changed, list: [], size: { width: 1, height: 1 } });
    layer.addEventListener("pointerdown", (event) => this.#press(event));
    layer.addEventListener("pointermove", (event) => this.#hover(event));
    layer.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Replace all boxes; {x, y, width, height} each. */
  set(list) {
    this.list = list.map((box) => this.#inside(box));
    this.#rebuild();
  }

  /** Put a box half as wide and most as high as the picture where none is yet, the first in the middle. */
  add() {
    const { width, height } = this.size;
    const same = (a, b) => a.x === b.x && a.y === b.y && a.width === b.width && a.height === b.height;
    const first = this.list.length;
    let box;
    for (let turn = first; turn < first + 1000; turn += 1) {
      const [right, down] = STEPS.map((step) => (0.5 + turn * step) % 1);
      box = this.#inside({ x: right * 0.5 * width, y: down * 0.2 * height, width: width / 2, height: 0.8 * height });
      if (!this.list.some((other) => same(other, box))) break;
    }
    this.list.push(box);
    this.#rebuild();
    this.changed(true);
    this.layer.lastElementChild.focus({ preventScroll: true }); // Before, the layer may be off
  }

  /** Change some of a box's numbers. */
  edit(index, values) {
    this.list[index] = this.#inside({ ...this.list[index], ...values });
    this.#place(index);
    this.changed(true);
  }

  /** Take a box away. */
  remove(index) {
    this.list.splice(index, 1);
    this.#rebuild();
    this.changed(true);
  }

  /** Whole pixels, inside the picture, at least one pixel large. */
  #inside(box) {
    const within = (value, low, high) => Math.min(Math.max(Math.round(value) || 0, low), high);
    const width = within(box.width, 1, this.size.width);
    const height = within(box.height, 1, this.size.height);
    const x = within(box.x, 0, this.size.width - width);
    return { x, y: within(box.y, 0, this.size.height - height), width, height };
  }

  #rebuild() {
    this.layer.replaceChildren(
      ...this.list.map((_, index) => {
        const button = document.createElement("button");
        Object.assign(button, { type: "button", className: "box" });
        const number = document.createElement("span");
        number.textContent = index + 1;
        button.append(number, ...Array.from({ length: 4 }, () => document.createElement("i")));
        return button;
      }),
    );
    this.list.forEach((_, index) => this.#place(index));
  }

  #place(index) {
    const { x, y, width, height } = this.list[index];
    const button = this.layer.children[index];
    const part = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(button.style, {
      left: part(x, this.size.width),
      top: part(y, this.size.height),
      width: part(width, this.size.width),
      height: part(height, this.size.height),
    });
    button.setAttribute("aria-label", `Box ${index + 1}: x ${x}, y ${y}, width ${width}, height ${height}`);
    button.setAttribute("aria-describedby", "people-hint");
  }

  /** Picture pixels of a pointer, and how many there are to a screen pixel. */
  #point(event) {
    const area = this.layer.getBoundingClientRect();
    const scale = this.size.width / area.width;
    const within = (value, high) => Math.min(Math.max(value, 0), high);
    return {
      x: within((event.clientX - area.left) * scale, this.size.width),
      y: within((event.clientY - area.top) * scale, this.size.height),
      scale,
    };
  }

  /** Which sides of a box a pointer takes hold of: -1 left or top, 1 right or bottom, 0 none. */
  #grip(event, button) {
    const area = button.getBoundingClientRect();
    const side = (value, low, high) => {
      const reach = Math.min(HANDLE, (high - low) / 3);
      return value < low + reach ? -1 : value > high - reach ? 1 : 0;
    };
    const grip = { x: side(event.clientX, area.left, area.right), y: side(event.clientY, area.top, area.bottom) };
    return grip.x && grip.y ? grip : { x: 0, y: 0 };
  }

  #hover(event) {
    const button = event.target.closest(".box");
    if (!button || event.buttons) return;
    const { x, y } = this.#grip(event, button);
    button.style.cursor = x && y ? (x === y ? "nwse-resize" : "nesw-resize") : "move";
  }

  #press(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    const button = event.target.closest(".box");
    if (button) this.#dragBox(event, [...this.layer.children].indexOf(button));
    else if (this.may(event.pointerType)) this.#dragNew(event);
  }

  #dragBox(event, index) {
    const button = this.layer.children[index];
    const grip = this.#grip(event, button);
    const start = this.#point(event);
    const old = this.list[index];
    button.focus({ preventScroll: true });
    this.#drag(event, (now) => {
      const dx = now.x - start.x;
      const dy = now.y - start.y;
      if (!grip.x) this.list[index] = this.#inside({ ...old, x: old.x + dx, y: old.y + dy });
      else this.list[index] = this.#inside(corners(grip, old, dx, dy));
      this.#place(index);
      this.changed(false);
    }, (moved) => {
      if (!moved) {
        this.list[index] = old;
        this.#place(index);
      }
      this.changed(moved);
    });
  }

  #dragNew(event) {
    const start = this.#point(event);
    const index = this.list.length;
    this.#drag(event, (now) => {
      const box = { x: Math.min(start.x, now.x), y: Math.min(start.y, now.y) };
      Object.assign(box, { width: Math.abs(now.x - start.x), height: Math.abs(now.y - start.y) });
      const isNew = this.list.length === index;
      if (isNew && Math.min(box.width, box.height) < SMALLEST * now.scale) return;
      this.list[index] = this.#inside(box);
      if (isNew) this.#rebuild();
      this.#place(index);
      this.changed(false);
    }, (keep) => {
      if (this.list.length === index) return;
      if (!keep) {
        this.remove(index);
        return;
      }
      this.layer.lastElementChild.focus({ preventScroll: true });
      this.changed(true);
    });
  }

  /** Follow a pointer until it is let go; Escape gives up. `done` gets whether there is something to keep. */
  #drag(event, move, done) {
    event.preventDefault();
    const { layer } = this;
    const { pointerId } = event;
    let moved = false;
    layer.setPointerCapture(pointerId);
    const stop = new AbortController();
    const end = (keep) => {
      stop.abort();
      if (layer.hasPointerCapture(pointerId)) layer.releasePointerCapture(pointerId);
      done(keep && moved);
    };
    const on = (target, name, act) => target.addEventListener(name, act, { signal: stop.signal });
    on(layer, "pointermove", (next) => {
      if (next.pointerId !== pointerId) return;
      moved = true;
      move(this.#point(next));
    });
    on(layer, "pointerup", (next) => next.pointerId === pointerId && end(true));
    on(layer, "pointercancel", (next) => next.pointerId === pointerId && end(false));
    on(document, "keydown", (key) => key.key === "Escape" && end(false));
  }

  #key(event) {
    const index = [...this.layer.children].indexOf(event.target.closest(".box"));
    if (index < 0 || event.ctrlKey || event.metaKey) return;
    const step = Math.max(1, Math.round(Math.max(this.size.width, this.size.height) / 100));
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const { x, y, width, height } = this.list[index];
      const [dx, dy] = [way[0] * step, way[1] * step];
      this.edit(index, event.shiftKey ? { width: width + dx, height: height + dy } : { x: x + dx, y: y + dy });
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.remove(index);
      (this.layer.children[Math.min(index, this.list.length - 1)] ?? document.getElementById("add-box")).focus();
    } else return;
    event.preventDefault();
  }
}

/** A box whose held corner has moved by (dx, dy); it may turn over. */
function corners(grip, { x, y, width, height }, dx, dy) {
  const [left, right] = grip.x < 0 ? [x + dx, x + width] : [x, x + width + dx];
  const [top, bottom] = grip.y < 0 ? [y + dy, y + height] : [y, y + height + dy];
  return {
    x: Math.min(left, right),
    y: Math.min(top, bottom),
    width: Math.abs(right - left),
    height: Math.abs(bottom - top),
  };
}
