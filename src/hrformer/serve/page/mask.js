// Masks: run lengths to class ids, class ids to coloured layers.

/**
 * Class ids at the size they are drawn, from run lengths row by row; the nearest pixel where the sizes differ.
 * Returns a Uint16Array of outWidth * outHeight.
 */
export function sampleMask({ class_ids, lengths }, width, height, outWidth, outHeight) {
  const ids = new Uint16Array(outWidth * outHeight);
  const columns = Uint32Array.from({ length: outWidth }, (_, x) => Math.floor(((x + 0.5) * width) / outWidth));
  let run = 0;
  let end = lengths[0] ?? 0;
  for (let y = 0, out = 0; y < outHeight; y += 1) {
    const row = Math.floor(((y + 0.5) * height) / outHeight) * width;
    for (let x = 0; x < outWidth; x += 1, out += 1) {
      // Positions only grow, so that one pass over the runs is enough.
      while (row + columns[x] >= end && run < lengths.length - 1) end += lengths[(run += 1)];
      ids[out] = class_ids[run];
    }
  }
  return ids;
}

/** A canvas with the classes' colours; `colors` maps the ids to show to [r, g, b]. */
export function fillLayer(ids, width, height, colors) {
  return layer(ids, width, height, colors, () => true);
}

/** A canvas with the classes' outlines. */
export function edgeLayer(ids, width, height, colors) {
  const step = Math.max(1, Math.round(Math.max(width, height) / 500));
  const differs = (i, x, y) =>
    (x >= step && ids[i - step] !== ids[i]) ||
    (x < width - step && ids[i + step] !== ids[i]) ||
    (y >= step && ids[i - step * width] !== ids[i]) ||
    (y < height - step && ids[i + step * width] !== ids[i]);
  return layer(ids, width, height, colors, differs);
}

function layer(ids, width, height, colors, wanted) {
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  const packed = new Map([...colors].map(([id, color]) => [id, word(color)]));
  for (let y = 0, i = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, i += 1) {
      const color = packed.get(ids[i]);
      if (color !== undefined && wanted(i, x, y)) words[i] = color;
    }
  }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** Opaque RGBA bytes as one number, in whatever byte order this machine has. */
function word([red, green, blue]) {
  return new Uint32Array(new Uint8ClampedArray([red, green, blue, 255]).buffer)[0];
}
