// Draws a picture and its result on a canvas of any size; used for the screen and for the PNG.

const LEFT = "rgb(255, 140, 0)";
const RIGHT = "rgb(0, 170, 255)";
const MIDDLE = "rgb(90, 220, 90)";
const SHADE = "rgba(16, 22, 22, 0.9)"; // Around limbs and joints, so that they stand out from light pictures
const PANEL = "rgba(12, 18, 18, 0.74)";
const BAR = "rgb(90, 209, 191)";
const FONT = '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, Cantarell, Ubuntu, "Helvetica Neue", Arial, sans-serif';

/** Draw the picture over the whole canvas. */
export function drawPicture(context, image) {
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, context.canvas.width, context.canvas.height);
}

/**
 * Draw people of a pose result.
 * `sides` holds sets of joint numbers {left, right}; `show` {jointThreshold, personThreshold, boxes, names, marked, unit}.
 */
export function drawPeople(context, result, sides, show) {
  const { width, height } = context.canvas;
  const scale = { x: width / result.width, y: height / result.height };
  const colors = result.names.map((_, joint) => (sides.left.has(joint) ? LEFT : sides.right.has(joint) ? RIGHT : MIDDLE));
  const people = [...result.people.entries()].filter(([, { score }]) => score >= show.personThreshold);
  for (const [, person] of people) {
    const joints = person.keypoints.map(([x, y, score]) => ({
      x: (x + 0.5) * scale.x,
      y: (y + 0.5) * scale.y,
      shown: score > show.jointThreshold,
    }));
    const thickness = limbWidth(context, person.bbox, scale, show.unit);
    if (show.boxes && !show.marked) drawBox(context, person, scale, show.unit);
    drawSkeleton(context, joints, result.edges, colors, thickness);
    if (show.names) drawNames(context, joints, result.names, show.unit);
  }
  // After the limbs of all, which would hide them.
  for (const [number, person] of show.boxes ? people : []) drawScore(context, person, scale, number + 1, show);
}

/** Lay a mask's layers over the picture. */
export function drawMask(context, fill, edges, opacity) {
  const { width, height } = context.canvas;
  context.globalAlpha = opacity;
  context.drawImage(fill, 0, 0, width, height);
  context.globalAlpha = Math.min(1, 2 * opacity);
  context.drawImage(edges, 0, 0, width, height);
  context.globalAlpha = 1;
}

/** A panel in the lower left corner: rows of {label, value, share} with a bar, or with a `color` instead. */
export function drawRows(context, rows, unit) {
  if (!rows.length) return;
  const { width, height } = context.canvas;
  const full = 0.94 * Math.min(height / (1.75 * rows.length + 1.4), textSize(context, unit));
  const room = panelOf(context, rows, full).w;
  const size = full * Math.min(1, (0.92 * width) / room);
  const panel = panelOf(context, rows, size);
  const { labels, values, bars, lead, pad, line } = panel;
  const left = 0.8 * size;
  const top = height - panel.h - left;
  context.fillStyle = PANEL;
  round(context, left, top, panel.w, panel.h, 0.6 * size);
  context.textBaseline = "middle";
  rows.forEach((row, i) => {
    const y = top + 0.3 * size + (i + 0.5) * line;
    let x = left + pad;
    if (row.color) swatch(context, x, y, size, row.color);
    x += lead;
    context.fillStyle = "#fff";
    context.fillText(row.label, x, y);
    x += labels + pad;
    if (bars) {
      context.fillStyle = "rgba(255, 255, 255, 0.22)";
      round(context, x, y - 0.25 * size, bars, 0.5 * size, 0.25 * size);
      context.fillStyle = BAR;
      round(context, x, y - 0.25 * size, Math.max(0.5 * size, bars * row.share), 0.5 * size, 0.25 * size);
      x += bars + pad;
    }
    context.fillStyle = "#fff";
    context.textAlign = "right";
    context.fillText(row.value, x + values, y);
    context.textAlign = "left";
  });
}

/** Lengths of a panel's parts at a text size. */
function panelOf(context, rows, size) {
  context.font = `600 ${size}px ${FONT}`;
  const widest = (key) => Math.max(...rows.map((row) => context.measureText(row[key]).width));
  const labels = widest("label");
  const values = widest("value");
  const bars = rows[0].color ? 0 : 7 * size;
  const lead = rows[0].color ? 1.4 * size : 0;
  const pad = 0.7 * size;
  const line = 1.75 * size;
  const w = lead + labels + pad + (bars ? bars + pad : 0) + values + 2 * pad;
  return { labels, values, bars, lead, pad, line, w, h: line * rows.length + 0.6 * size };
}

function drawSkeleton(context, joints, edges, colors, thickness) {
  const rim = Math.max(1, thickness / 3);
  const limbs = edges.filter(([a, b]) => joints[a].shown && joints[b].shown);
  context.lineCap = "round";
  for (const outline of [true, false]) {
    for (const [a, b] of limbs) {
      context.strokeStyle = outline ? SHADE : limbColor(colors[a], colors[b]);
      context.lineWidth = outline ? thickness + 2 * rim : thickness;
      context.beginPath();
      context.moveTo(joints[a].x, joints[a].y);
      context.lineTo(joints[b].x, joints[b].y);
      context.stroke();
    }
  }
  joints.forEach((joint, i) => {
    if (!joint.shown) return;
    dot(context, joint, 1.35 * thickness + rim, SHADE);
    dot(context, joint, 1.35 * thickness, colors[i]);
  });
}

/** A limb from a side to the middle belongs to the side; one from left to right to neither. */
function limbColor(a, b) {
  if (a === b || b === MIDDLE) return a;
  return a === MIDDLE ? b : MIDDLE;
}

/** In canvas pixels; thinner for small people, so that their joints stay apart. */
function limbWidth(context, bbox, scale, unit) {
  const longer = Math.max(context.canvas.width, context.canvas.height);
  const person = Math.max(bbox[2] * scale.x, bbox[3] * scale.y);
  return Math.max(1.75 * unit, Math.min(longer / 170, person / 45));
}

function drawBox(context, person, scale, unit) {
  const [x, y, w, h] = onCanvas(person.bbox, scale);
  const thickness = textSize(context, unit) / 8;
  for (const [color, extra] of [["rgba(16, 22, 22, 0.55)", thickness], ["#fff", 0]]) {
    context.strokeStyle = color;
    context.lineWidth = thickness + extra;
    context.strokeRect(x, y, w, h);
  }
}

/** Above the box where there is room; in the lower right corner of a marked one, which shows its number itself. */
function drawScore(context, person, scale, number, { marked, unit }) {
  const [x, y, w, h] = onCanvas(person.bbox, scale);
  const size = 0.85 * textSize(context, unit);
  const text = `${marked ? "" : `${number} · `}${person.score.toFixed(2)}`;
  context.font = `600 ${size}px ${FONT}`;
  context.textBaseline = "middle";
  const label = { w: context.measureText(text).width + size, h: 1.6 * size };
  const left = within(marked ? x + w - label.w : x, context.canvas.width - label.w);
  const top = within(marked ? y + h - label.h : y - label.h, context.canvas.height - label.h);
  context.fillStyle = PANEL;
  round(context, left, top, label.w, label.h, 0.35 * size);
  context.fillStyle = "#fff";
  context.fillText(text, left + size / 2, top + 0.83 * size);
}

function onCanvas(bbox, scale) {
  return bbox.map((value, i) => value * (i % 2 ? scale.y : scale.x));
}

function within(value, most) {
  return Math.max(0, Math.min(value, most));
}

function drawNames(context, joints, names, unit) {
  const size = 0.8 * textSize(context, unit);
  context.font = `600 ${size}px ${FONT}`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = size / 3;
  joints.forEach((joint, i) => {
    if (!joint.shown) return;
    context.strokeStyle = SHADE;
    context.strokeText(plain(names[i]), joint.x + size, joint.y);
    context.fillStyle = "#fff";
    context.fillText(plain(names[i]), joint.x + size, joint.y);
  });
}

/** A name without the underscores that files need. */
export function plain(name) {
  return String(name).replaceAll("_", " ");
}

/** In canvas pixels; `unit` is how many of them are as long as one of a screen that is read from. */
function textSize(context, unit) {
  const { width, height } = context.canvas;
  return Math.max(13 * unit, Math.max(width, height) / 48);
}

function dot(context, { x, y }, radius, color) {
  context.fillStyle = color;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function swatch(context, x, y, size, [red, green, blue]) {
  context.fillStyle = "rgba(255, 255, 255, 0.85)";
  round(context, x, y - 0.45 * size, 0.9 * size, 0.9 * size, 0.22 * size);
  context.fillStyle = `rgb(${red}, ${green}, ${blue})`;
  round(context, x + 0.08 * size, y - 0.37 * size, 0.74 * size, 0.74 * size, 0.16 * size);
}

function round(context, x, y, width, height, radius) {
  context.beginPath();
  context.roundRect(x, y, width, height, radius);
  context.fill();
}
