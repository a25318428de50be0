"""Join three pictures of the demo into the README's: run ``make demo`` first.

python examples/readme_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import load_image
from hrformer.predict.results import write_picture

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "demo"
HEIGHT, CAPTION, GAP = 400, 44, 8
"""Of the pictures, of the line below them, and between them; pixels."""


def main() -> None:
    """Three panels of one height, a line of text below each, side by side on white."""
    pose, street, cat = (
        json.loads((DEMO / "numbers" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("astronaut-pose", "china-segmentation", "cat-classification")
    )
    panels = [
        panel("astronaut-pose", f"pose: score {pose['people'][0]['score']:.2f}"),
        panel("china-segmentation", "segmentation: " + _best(street["classes"][:3], "share")),
        panel("cat", "classification: " + _best(cat["predictions"][:2], "probability")),
    ]
    row = [part for one in panels for part in (one, np.full((len(one), GAP, 3), 255, np.uint8))][:-1]
    write_picture(REPOSITORY / "docs" / "images" / "demo.jpg", np.concatenate(row, axis=1))


def panel(name: str, text: str) -> NDArray[np.uint8]:
    """One of the demo's pictures at the common height, with a line of text below."""
    pixels = load_image(DEMO / "pictures" / f"{name}.jpg").pixels
    width = round(pixels.shape[1] * HEIGHT / pixels.shape[0])
    shown = cv2.resize(pixels, (width, HEIGHT), interpolation=cv2.INTER_AREA)
    line = np.full((CAPTION, width, 3), 255, np.uint8)
    cv2.putText(line, text, (2, CAPTION - 14), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (40, 40, 40), 2, cv2.LINE_AA)
    return np.concatenate([shown, line]).astype(np.uint8)


def _best(rows: list[dict[str, Any]], key: str) -> str:
    return ", ".join(f"{row['label']} {row[key]:.0%}" for row in rows)


if __name__ == "__main__":
    main()
