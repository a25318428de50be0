"""Drawing results on pictures: skeletons, class colours, captions. Pictures are (H, W, 3) uint8 RGB throughout."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.skeletons import Skeleton

SMALLEST_DRAWING = 480
"""Pictures whose longer side is shorter than this are enlarged by a whole factor first, so that captions fit."""

LEFT, RIGHT, MIDDLE = (255, 140, 0), (0, 170, 255), (90, 220, 90)
"""RGB of the person's left side, right side, and what joins or has neither."""

_SHADE = (25, 25, 25)  # RGB around limbs and joints, so that they stand out from light pictures too
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # coordinates are drawn to a sixteenth of a pixel
Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]


def draw_keypoints(
    pixels: Pixels,
    keypoints: NDArray[np.floating],
    scores: NDArray[np.floating],
    boxes: NDArray[np.floating],
    *,
    names: Sequence[str] = (),
    skeleton: Skeleton | None = None,
    joint_threshold: float = 0.2,
    min_score: float = 0.1,
    captions: Sequence[str] | None = None,
) -> Pixels:
    """Draw people in a new picture: orange for their left side, blue for their right, and each one's score.

    Small pictures are enlarged, see ``SMALLEST_DRAWING``. Joints scored at or below ``joint_threshold`` and people
    below ``min_score`` are left out.

    Args:
        pixels: the picture.
        keypoints: (N, K, 3), x and y in picture pixels, score.
        scores: (N,).
        boxes: (N, 4) (x, y, width, height) in picture pixels, where the score is written.
        names: K names, used to tell left from right.
        skeleton: which joints to connect; None draws the joints alone.
        captions: N texts to write instead of scores; then an empty picture stays as it is.
    """
    scene, factor = _canvas(pixels)
    shown = np.flatnonzero(scores >= min_score)
    if not shown.size and captions is not None:
        return scene
    if not shown.size:
        return _caption(scene, [f"no person scored {min_score:g} or more" if len(scores) else "no person"])
    # Half a pixel each way: coordinate 0 is the middle of the first pixel.
    points = keypoints[shown]
    points[..., :2] = (points[..., :2] + 0.5) * factor - 0.5
    _draw_people(scene, points, names, skeleton, joint_threshold)
    labels = [(f"{scores[i]:.2f}" if captions is None else captions[int(i)], (40, 40, 40)) for i in shown]
    return _labels(scene, boxes[shown, :2] * factor, labels, centred=False)


def draw_joints(
    pixels: Pixels, keypoints: NDArray[np.floating], *, skeleton: Skeleton | None = None, joint_threshold: float = 0.2
) -> Pixels:
    """Draw people as :func:`draw_keypoints` does, in a new picture, without captions and without enlarging it."""
    scene = np.array(pixels, np.uint8)
    _draw_people(scene, keypoints, (), skeleton, joint_threshold)
    return scene


def draw_segmentation(
    pixels: Pixels,
    mask: NDArray[np.integer],
    *,
    class_names: Sequence[str] = (),
    palette: Sequence[Color] = (),
    opacity: float = 0.5,
    smallest_share: float = 0.005,
) -> Pixels:
    """Lay the colours of a mask (H, W) over a copy of the picture and name each class inside its largest region.

    Small pictures are enlarged, see ``SMALLEST_DRAWING``. Ids without a name show as numbers, and those beyond the
    ``palette`` (RGB) get generated colours. Classes that cover less than ``smallest_share`` are coloured, not named.
    """
    scene, factor = _canvas(pixels)
    counts = np.bincount(mask.ravel())
    colors = [color_of(class_id, palette) for class_id in range(len(counts))]
    layer = np.array(colors, dtype=np.uint8)[mask]
    layer = np.asarray(cv2.resize(layer, (scene.shape[1], scene.shape[0]), interpolation=cv2.INTER_NEAREST), np.uint8)
    scene = np.asarray(cv2.addWeighted(layer, opacity, scene, 1 - opacity, 0), np.uint8)
    # Places for captions need no more than screen resolution.
    step = -(-max(mask.shape) // 800)
    spots, labels = [], []
    for k in np.flatnonzero(counts >= max(1, smallest_share * mask.size)).tolist():
        if (region := mask[::step, ::step] == k).any():
            spots.append(_middle_of_largest_region(region))
            labels.append((class_names[k] if k < len(class_names) else str(k), colors[k]))
    return _labels(scene, np.array(spots).reshape(-1, 2) * step * factor, labels, centred=True)


def draw_classification(pixels: Pixels, labels: Sequence[str], probabilities: Sequence[float]) -> Pixels:
    """Write labels and probabilities, best first, in the top left corner of a new picture, enlarged where small."""
    lines = [f"{probability:6.1%}  {label}" for label, probability in zip(labels, probabilities, strict=True)]
    return _caption(_canvas(pixels)[0], lines)


def color_of(class_id: int, palette: Sequence[Color] = ()) -> Color:
    """RGB of a class: from the palette, else hues a golden-ratio turn apart, so that neighbours differ."""
    if class_id < len(palette):
        red, green, blue = palette[class_id]
        return int(red), int(green), int(blue)
    turns = class_id * 0.618033988749895
    rgb = colorsys.hsv_to_rgb(turns % 1.0, 0.65 + 0.35 * (class_id % 2), 1.0 - 0.2 * (class_id // 2 % 3))
    return tuple(round(255 * value) for value in rgb)  # type: ignore[return-value]


def _canvas(pixels: Pixels) -> tuple[Pixels, int]:
    """Copy to draw on, enlarged by the factor also returned."""
    factor = max(1, -(-SMALLEST_DRAWING // max(pixels.shape[:2])))
    return np.array(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8), factor


def _draw_people(
    scene: Pixels, keypoints: NDArray[np.floating], names: Sequence[str], skeleton: Skeleton | None, threshold: float
) -> None:
    """Draw limbs, then joints, of people (N, K, 3): each first wider and dark."""
    width = max(2, round(max(scene.shape[:2]) / 320))
    rim, radius = max(1, round(width / 3)), round(1.5 * width)
    colors = [_color_of_side(name) for name in names or (skeleton.keypoints if skeleton else ())]
    colors += [MIDDLE] * (keypoints.shape[1] - len(colors))
    shown = (keypoints[..., 2] > threshold) & np.isfinite(keypoints[..., :2]).all(axis=-1)
    # Far outside is as good as very far outside, which would be too much for 32 bits.
    places = np.round(np.clip(np.where(shown[..., None], keypoints[..., :2], 0), -1e5, 1e5) * 2**_SHIFT).astype(int)
    for person, there in zip(places.tolist(), shown, strict=True):
        edges = [(a, b) for a, b in (skeleton.edges if skeleton else ()) if there[a] and there[b]]
        for a, b in edges:
            cv2.line(scene, person[a], person[b], _SHADE, width + 2 * rim, cv2.LINE_AA, _SHIFT)
        for a, b in edges:
            # An edge from a limb to the neck or nose belongs to the limb; one from left to right to neither.
            sides = {colors[a], colors[b]} - {MIDDLE}
            color = sides.pop() if len(sides) == 1 else MIDDLE
            cv2.line(scene, person[a], person[b], color, width, cv2.LINE_AA, _SHIFT)
    for person, there in zip(places.tolist(), shown, strict=True):
        for joint in np.flatnonzero(there):
            for color, size in ((_SHADE, radius + rim), (colors[joint], radius)):
                cv2.circle(scene, person[joint], size << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)


def _color_of_side(joint: str) -> Color:
    return LEFT if "left" in joint.lower() else RIGHT if "right" in joint.lower() else MIDDLE


def _text_scale(scene: Pixels) -> tuple[float, int]:
    """OpenCV font scale and stroke: text about 1/45 of the longer side high."""
    scale = max(0.45, max(scene.shape[:2]) / 1300)
    return scale, max(1, round(scale * 1.6))


def _middle_of_largest_region(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(x, y) of the point of the largest connected region that is farthest from its border."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    # A frame of zeros makes the picture's edge count as border.
    inside = np.pad((regions == largest).astype(np.uint8), 1)
    y, x = np.unravel_index(int(np.argmax(cv2.distanceTransform(inside, cv2.DIST_L2, 3))), inside.shape)
    return int(x) - 1, int(y) - 1


def _labels(
    scene: Pixels, places: NDArray[np.floating], labels: Iterable[tuple[str, Color]], *, centred: bool
) -> Pixels:
    """Write texts on grounds of their colours, clear of each other and inside the picture as far as there is room.

    ``places`` (N, 2) are x and y of the middle where ``centred``, else of the lower left corner; returns ``scene``.
    """
    scale, stroke = _text_scale(scene)
    pad = max(2, round(5 * scale))
    taken: list[tuple[int, int, int, int]] = []
    for (x, y), (text, color) in zip(places.tolist(), labels, strict=True):
        (length, ascent), descent = cv2.getTextSize(text, _FONT, scale, stroke)
        width, height = length + 2 * pad, ascent + descent // 2 + 2 * pad
        left, top = (x - width / 2, y - height / 2) if centred else (x, y - height)
        left = round(max(min(left, scene.shape[1] - width), 0))
        columns = [(low, high) for start, end, low, high in taken if start < left + width and left < end]
        top = _free_top(round(max(min(top, scene.shape[0] - height), 0)), height, columns, scene.shape[0])
        taken.append((left, left + width, top, top + height))
        cv2.rectangle(scene, (left, top), (left + width - 1, top + height - 1), color, -1)
        # Black is readable on what is light (Rec. 601 luma).
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
        cv2.putText(scene, text, (left + pad, top + pad + ascent), _FONT, scale, ink, stroke, cv2.LINE_AA)
    return scene


def _free_top(wanted: int, height: int, taken: Sequence[tuple[int, int]], room: int) -> int:
    """Upper edge nearest to the wanted one where ``height`` rows of ``room`` are not ``taken`` (first, end)."""
    edges = [wanted, *(end for _, end in taken), *(first - height for first, _ in taken)]

    def is_free(top: int) -> bool:
        return 0 <= top <= room - height and all(top + height <= first or end <= top for first, end in taken)

    return min(filter(is_free, edges), key=lambda top: abs(top - wanted), default=wanted)


def _caption(scene: Pixels, lines: Sequence[str]) -> Pixels:
    """Write lines on a darkened ground in the top left corner of ``scene``, which is returned."""
    scale, stroke = _text_scale(scene)
    pad = round(12 * scale) + 2
    sizes = [cv2.getTextSize(line, _FONT, scale, stroke)[0] for line in lines]
    step = round(max(height for _, height in sizes) * 1.7)
    right = min(scene.shape[1], max(width for width, _ in sizes) + 2 * pad)
    bottom = min(scene.shape[0], step * len(lines) + pad)
    scene[:bottom, :right] = (scene[:bottom, :right] * 0.35).astype(np.uint8)
    for row, line in enumerate(lines):
        cv2.putText(scene, line, (pad, step * (row + 1)), _FONT, scale, (255, 255, 255), stroke, cv2.LINE_AA)
    return scene
