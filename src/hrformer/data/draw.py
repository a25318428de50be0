"""Drawing results on pictures: skeletons, class colours, captions. Pictures are (H, W, 3) uint8 RGB throughout."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.skeletons import Skeleton

SMALLEST_DRAWING = 480
"""Pictures whose longer side is shorter than this are enlarged by a whole factor first, so that captions fit."""

LEFT, RIGHT, MIDDLE = (255, 140, 0), (0, 170, 255), (90, 220, 90)
"""RGB of the person's left side, right side, and what joins or has neither."""

Pixels = NDArray[np.uint8]


def _supervision() -> Any:
    """The package that draws; networks, kernels and training do without it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("drawing results needs supervision: pip install supervision") from error
    return supervision


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
) -> Pixels:
    """Draw people: orange for their left side, blue for their right, and each one's score.

    Args:
        pixels: the picture.
        keypoints: (N, K, 3), x and y in picture pixels, score.
        scores: (N,) score of each person.
        boxes: (N, 4) (x, y, width, height) in picture pixels, where the caption goes.
        names: K names, used to tell left from right.
        skeleton: which joints to connect; None draws the joints alone.
        joint_threshold: joints scored at or below this are left out.
        min_score: people scored below this are left out.

    Returns:
        A new picture; small ones are enlarged, see ``SMALLEST_DRAWING``.
    """
    scene, factor = _canvas(pixels)
    shown = np.flatnonzero(scores >= min_score)
    if not shown.size:
        return _caption(scene, f"no person scored {min_score:g} or more" if len(scores) else "no person")
    # Half a pixel each way: coordinate 0 is the middle of the first pixel.
    points = keypoints[shown]
    points[..., :2] = (points[..., :2] + 0.5) * factor - 0.5
    scene = _skeletons(scene, points, names, skeleton, joint_threshold)
    corners = boxes[shown].astype(np.float32) * factor
    corners[:, 2:] += corners[:, :2]
    return _labels(scene, corners, [f"{scores[i]:.2f}" for i in shown], [(40, 40, 40)] * len(shown), "top")


def draw_joints(
    pixels: Pixels,
    keypoints: NDArray[np.floating],
    *,
    names: Sequence[str] = (),
    skeleton: Skeleton | None = None,
    joint_threshold: float = 0.2,
) -> Pixels:
    """Draw people as :func:`draw_keypoints` does, but without captions and without enlarging the picture.

    Args:
        pixels: the picture.
        keypoints: (N, K, 3), x and y in picture pixels, score.
        names: K names, used to tell left from right.
        skeleton: which joints to connect; None draws the joints alone.
        joint_threshold: joints scored at or below this are left out.

    Returns:
        A new picture.
    """
    scene = _skeletons(np.ascontiguousarray(pixels[:, :, ::-1]), keypoints, names, skeleton, joint_threshold)
    return np.ascontiguousarray(scene[:, :, ::-1])


def draw_segmentation(
    pixels: Pixels,
    mask: NDArray[np.integer],
    *,
    class_names: Sequence[str] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    opacity: float = 0.5,
    smallest_share: float = 0.005,
) -> Pixels:
    """Lay class colours over the picture and name each class inside its largest region.

    Args:
        pixels: the picture.
        mask: (H, W) class ids.
        class_names: by class id; ids without a name show as numbers.
        palette: RGB by class id; ids beyond it get generated colours.
        opacity: of the colours, 0 to 1.
        smallest_share: classes covering less of the picture than this are coloured but not named.

    Returns:
        A new picture; small ones are enlarged, see ``SMALLEST_DRAWING``.
    """
    scene, factor = _canvas(pixels)
    counts = np.bincount(mask.ravel())
    colors = [color_of(class_id, palette) for class_id in range(len(counts))]
    # One look-up for all classes: a mask per class, as supervision's annotator wants, is slow on large pictures.
    layer = np.array(colors, dtype=np.uint8)[mask, ::-1]
    layer = np.asarray(cv2.resize(layer, (scene.shape[1], scene.shape[0]), interpolation=cv2.INTER_NEAREST), np.uint8)
    scene = np.asarray(cv2.addWeighted(layer, opacity, scene, 1 - opacity, 0), np.uint8)
    # Places for captions need no more than screen resolution.
    step = -(-max(mask.shape) // 800)
    regions = {
        k: mask[::step, ::step] == k for k in np.flatnonzero(counts >= max(1, smallest_share * mask.size)).tolist()
    }
    named = [k for k, region in regions.items() if region.any()]
    spots = np.array([_middle_of_largest_region(regions[k]) for k in named], np.float32).reshape(-1, 2) * step * factor
    texts = [class_names[k] if k < len(class_names) else str(k) for k in named]
    return _labels(scene, np.concatenate([spots, spots], axis=1), texts, [colors[k] for k in named], "centre")


def draw_classification(pixels: Pixels, labels: Sequence[str], probabilities: Sequence[float]) -> Pixels:
    """Write the labels and their probabilities in the top left corner, best first.

    Returns:
        A new picture; small ones are enlarged, see ``SMALLEST_DRAWING``.
    """
    scene, _ = _canvas(pixels)
    lines = [f"{probability:6.1%}  {label}" for label, probability in zip(labels, probabilities, strict=True)]
    return _caption(scene, *lines)


def color_of(class_id: int, palette: Sequence[tuple[int, int, int]] = ()) -> tuple[int, int, int]:
    """RGB of a class: from the palette, else hues a golden-ratio turn apart, so that neighbours differ."""
    if class_id < len(palette):
        red, green, blue = palette[class_id]
        return int(red), int(green), int(blue)
    turns = class_id * 0.618033988749895
    rgb = colorsys.hsv_to_rgb(turns % 1.0, 0.65 + 0.35 * (class_id % 2), 1.0 - 0.2 * (class_id // 2 % 3))
    return tuple(round(255 * value) for value in rgb)  # type: ignore[return-value]


def _canvas(pixels: Pixels) -> tuple[Pixels, int]:
    """BGR copy to draw on (supervision's colours come out right on BGR), enlarged by the factor also returned."""
    height, width = pixels.shape[:2]
    factor = max(1, -(-SMALLEST_DRAWING // max(height, width)))
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    if factor > 1:
        bgr = np.asarray(cv2.resize(bgr, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC), np.uint8)
    return bgr, factor


def _skeletons(
    scene: Pixels,
    keypoints: NDArray[np.floating],
    names: Sequence[str],
    skeleton: Skeleton | None,
    joint_threshold: float,
) -> Pixels:
    """Draw the people (N, K, 3) on a BGR picture."""
    sv = _supervision()
    points = keypoints[..., :2].astype(np.float32)
    # supervision leaves out joints at exactly (0, 0), in all its versions.
    points[keypoints[..., 2] <= joint_threshold] = 0
    people = sv.KeyPoints(xy=points)
    thickness = _line_thickness(scene)
    for color, edges, joints in _sides(names or (skeleton.keypoints if skeleton else ()), skeleton, points.shape[1]):
        if edges:
            scene = sv.EdgeAnnotator(color=sv.Color(*color), thickness=thickness, edges=edges).annotate(scene, people)
        if joints:
            dots = sv.KeyPoints(xy=np.ascontiguousarray(points[:, joints]))
            scene = sv.VertexAnnotator(color=sv.Color(*color), radius=thickness + 2).annotate(scene, dots)
    return scene


def _line_thickness(scene: Pixels) -> int:
    return max(2, round(max(scene.shape[:2]) / 320))


def _text_scale(scene: Pixels) -> tuple[float, int]:
    """OpenCV font scale and stroke: text about 1/45 of the longer side high."""
    scale = max(0.45, max(scene.shape[:2]) / 1300)
    return scale, max(1, round(scale * 1.6))


def _sides(
    names: Sequence[str], skeleton: Skeleton | None, count: int
) -> list[tuple[tuple[int, int, int], list[tuple[int, int]], list[int]]]:
    """Colour, edges (1-based, supervision's convention) and joints (0-based) of the middle, left and right side."""
    sides = {"middle": MIDDLE, "left": LEFT, "right": RIGHT}
    side_of = ["middle"] * count
    for joint, name in enumerate(names[:count]):
        side_of[joint] = next((side for side in ("left", "right") if side in name.lower()), "middle")
    edges: dict[str, list[tuple[int, int]]] = {side: [] for side in sides}
    for a, b in skeleton.edges if skeleton else ():
        both = {side_of[a], side_of[b]}
        # An edge from a limb to the neck or nose belongs to the limb; one from left to right to neither.
        edges["middle" if both >= {"left", "right"} else max(both, key=("middle", "left", "right").index)].append(
            (a + 1, b + 1)
        )
    return [
        (color, edges[side], [joint for joint in range(count) if side_of[joint] == side])
        for side, color in sides.items()
    ]


def _middle_of_largest_region(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(x, y) of the point of the largest connected region that is farthest from its border."""
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    # A frame of zeros makes the picture's edge count as border.
    inside = np.pad((regions == largest).astype(np.uint8), 1)
    y, x = np.unravel_index(int(np.argmax(cv2.distanceTransform(inside, cv2.DIST_L2, 3))), inside.shape)
    return int(x) - 1, int(y) - 1


def _labels(
    scene: Pixels,
    corners: NDArray[np.float32],
    texts: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    place: str,
) -> Pixels:
    """Write ``texts`` at the boxes ``corners`` (N, 4: x1, y1, x2, y2) on coloured grounds; returns RGB."""
    if texts:
        sv = _supervision()
        scale, stroke = _text_scale(scene)
        annotator = sv.LabelAnnotator(
            color=sv.ColorPalette([sv.Color(*c) for c in colors]),
            text_color=sv.ColorPalette([sv.Color(*_readable_on(c)) for c in colors]),
            text_scale=scale,
            text_thickness=stroke,
            text_padding=max(2, round(5 * scale)),
            text_position=sv.Position.TOP_LEFT if place == "top" else sv.Position.CENTER,
            smart_position=len(texts) > 1 or place == "top",
        )
        detections = sv.Detections(xyxy=corners, class_id=np.arange(len(texts)))
        scene = annotator.annotate(scene, detections, labels=list(texts))
    return np.ascontiguousarray(scene[:, :, ::-1])


def _readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on light grounds, white on dark ones (Rec. 601 luma)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _caption(scene: Pixels, *lines: str) -> Pixels:
    """Write lines on a darkened ground in the top left corner; returns RGB."""
    scale, stroke = _text_scale(scene)
    font, pad = cv2.FONT_HERSHEY_SIMPLEX, round(12 * scale) + 2
    sizes = [cv2.getTextSize(line, font, scale, stroke)[0] for line in lines]
    step = round(max(height for _, height in sizes) * 1.7)
    right = min(scene.shape[1], max(width for width, _ in sizes) + 2 * pad)
    bottom = min(scene.shape[0], step * len(lines) + pad)
    scene[:bottom, :right] = (scene[:bottom, :right] * 0.35).astype(np.uint8)
    for row, line in enumerate(lines):
        cv2.putText(scene, line, (pad, step * (row + 1)), font, scale, (255, 255, 255), stroke, cv2.LINE_AA)
    return np.ascontiguousarray(scene[:, :, ::-1])
