// A picture file, decoded small enough to be drawn often, and again in full when it is saved.

const PREVIEW_SIDE = 2048; // Longer side in pixels of what the screen shows

/** A picture that the browser can show, upright: width and height are those after EXIF rotation. */
export class Picture {
  constructor(file, width, height, preview) {
    Object.assign(this, { file, width, height, preview });
  }

  /** Decode a file; an Error with a sentence for the visitor where that fails or the server would refuse it. */
  static async open(file, limits) {
    if (limits && file.size > limits.body_bytes) {
      throw new Error(`${file.name} has ${megas(file.size)} MB; this server takes at most ${megas(limits.body_bytes)} MB.`);
    }
    const full = await decode(file);
    const { width, height } = full;
    if (limits && width * height > limits.pixels) {
      full.close();
      throw new Error(
        `${file.name} has ${megas(width * height)} million pixels; this server takes at most ${megas(limits.pixels)} million.`,
      );
    }
    const scale = PREVIEW_SIDE / Math.max(width, height);
    if (scale >= 1) return new Picture(file, width, height, full);
    const size = { resizeWidth: Math.round(width * scale) || 1, resizeHeight: Math.round(height * scale) || 1 };
    const preview = await createImageBitmap(full, { ...size, resizeQuality: "high" });
    full.close();
    return new Picture(file, width, height, preview);
  }

  /** All pixels again. */
  full() {
    return decode(this.file);
  }

  /** The file's name without its ending. */
  get stem() {
    return this.file.name.replace(/\.[^.]*$/, "") || "picture";
  }
}

/** The first picture among the files of a drop or a paste, else the first file; undefined where there is none. */
export function firstFile(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((file) => file.type.startsWith("image/")) ?? files[0];
}

async function decode(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`The browser cannot show ${file.name || "this file"}. Choose a JPEG, PNG or WebP picture.`);
  }
}

function megas(count) {
  return (count / 1e6).toFixed(1).replace(/\.0$/, "");
}
