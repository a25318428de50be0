// A result as text: tables that a screen reader reads and that say what the drawing says.

import { howToDraw } from "./boxes.js";
import { plain } from "./draw.js";

/** An element with properties, `class` and `aria-*` among them, and children. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function table(heads, rows) {
  const head = heads.map((text, i) => element("th", { scope: "col", class: i ? "number" : "" }, text));
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

/** 0.3786 -> "38 %"; a digit more where it would say 0 or 100. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  const digits = value > 0 && (value < 1 || (value > 99 && value < 100)) ? 1 : 0;
  return `${value.toFixed(digits)} %`;
}

/** "1 person", "2 people". */
export function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

/** Classes of a mask, the largest first. */
export function bySize(classes) {
  return [...classes].sort((a, b) => b.share - a.share);
}

/** What the status line says of a result. */
export function summary(result) {
  if (result.predictions) {
    const [best] = result.predictions;
    return best ? `Most likely ${plain(best.label)}, ${percent(best.probability)}` : "No class";
  }
  if (result.people) return result.people.length ? counted(result.people.length, "person", "people") : "No person found";
  return bySize(result.classes)
    .slice(0, 3)
    .map(({ label, share }) => `${plain(label)} ${percent(share)}`)
    .join(", ");
}

/** Rows of classes, best first, with bars. */
export function classRows(result) {
  const rows = result.predictions.map(({ label, probability }, i) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", class: i ? "" : "best" }, plain(label), meter(probability)),
      element("td", { class: i ? "number" : "number best" }, percent(probability)),
    ),
  );
  return [table(["Class", "Probability"], rows)];
}

function meter(share) {
  const bar = element("i");
  bar.style.width = `${100 * share}%`;
  return element("span", { class: "meter", "aria-hidden": "true" }, bar);
}

/** Rows of a mask's classes by share, each with a switch; `toggled(id, shown)` is called by them. */
export function maskRows(result, colors, hidden, toggled) {
  const rows = bySize(result.classes).map(({ class_id: id, label, share }) => {
    const box = element("input", { type: "checkbox", checked: !hidden.has(id), value: id });
    box.addEventListener("change", () => toggled(id, box.checked));
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = `rgb(${colors.get(id).join(" ")})`;
    const name = element("label", { class: "class" }, box, swatch, element("span", {}, plain(label)));
    return element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "number" }, percent(share)));
  });
  return [table(["Class", "Share"], rows)];
}

/** People with the joints that are shown; `open` holds the numbers of those unfolded. */
export function peopleRows(result, show, open) {
  if (!result.people.length) {
    return [element("p", { class: "hint" }, `No person was found. Mark one: ${howToDraw()}, or add a box.`)];
  }
  return result.people.map((person, number) => {
    const joints = person.keypoints.map(([x, y, score], i) => ({ name: plain(result.names[i]), x, y, score }));
    const shown = joints.filter(({ score }) => score > show.jointThreshold);
    const rows = shown.map(({ name, x, y, score }) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        ...[x.toFixed(0), y.toFixed(0), score.toFixed(2)].map((text) => element("td", { class: "number" }, text)),
      ),
    );
    const visible = person.score >= show.personThreshold;
    const title = element(
      "summary",
      {},
      element("b", {}, `Person ${number + 1}`),
      ` · score ${person.score.toFixed(2)} · ${shown.length} of ${counted(joints.length, "joint", "joints")}`,
      visible ? "" : " · not drawn",
    );
    const details = element("details", { open: open.has(number) }, title, table(["Joint", "x", "y", "Score"], rows));
    details.addEventListener("toggle", () => open[details.open ? "add" : "delete"](number));
    return details;
  });
}
