"""The demo in one picture: its photographs in rows of three, and under each what is right and what is wrong.

After ``make demo``, ``demo/pictures/overview.jpg`` is what the README shows as ``docs/images/demo.jpg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_page import Prediction
from demo_photos import verdict
from hrformer.predict.results import Classification

WIDTH, HEIGHT, LINE, GAP, COLUMNS = 400, 300, 26, 10, 3
"""Of a photograph, of a line of text, and between photographs, in pixels; and photographs in a row."""

COLORS = {True: (20, 110, 40), False: (175, 30, 30), None: (90, 90, 90)}
"""Of what is right, wrong, and neither."""


def overview(predictions: Sequence[Prediction]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of the photographs for which there is a classification, each once."""
    names = [p.photograph.name for p in predictions if p.task == "classification" and not p.photograph.own]
    panels = [_panel([p for p in predictions if p.photograph.name == name]) for name in names]
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % COLUMNS)
    rows = [np.concatenate(panels[i : i + COLUMNS], axis=1) for i in range(0, len(panels), COLUMNS)]
    return np.concatenate(rows)


def _panel(predictions: Sequence[Prediction]) -> NDArray[np.uint8]:
    """One photograph with the mask and the joints drawn in, and a line for each prediction."""
    first, *others = predictions
    shown = first.photograph.pixels
    for prediction in reversed(others):
        shown = replace(prediction.result, image=shown).draw()
    scale = min(WIDTH / shown.shape[1], HEIGHT / shown.shape[0])
    shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    panel = np.full((HEIGHT + 3 * LINE + GAP, WIDTH + GAP, 3), 255, np.uint8)
    top, left = (HEIGHT - shown.shape[0]) // 2, (WIDTH - shown.shape[1]) // 2
    panel[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    for row, prediction in enumerate(predictions):
        text, right = verdict(prediction.photograph, prediction.result)
        kind = "" if isinstance(prediction.result, Classification) else f"{prediction.task}: "
        place = (4, HEIGHT + LINE * (row + 1) - 6)
        cv2.putText(panel, kind + text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, COLORS[right], 1, cv2.LINE_AA)
    return panel
