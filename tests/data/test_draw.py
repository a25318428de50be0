from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hrformer.data.draw import (
    LEFT,
    RIGHT,
    color_of,
    draw_classification,
    draw_joints,
    draw_keypoints,
    draw_segmentation,
)
from hrformer.geometry.skeletons import COCO17

GREY = np.full((480, 640, 3), 90, np.uint8)


def person(score: float = 0.9) -> np.ndarray:
    """One COCO person spread over the picture, left joints at x = 400, the others at x = 200."""
    points = np.zeros((1, 17, 3), np.float32)
    for joint, name in enumerate(COCO17.keypoints):
        points[0, joint] = 400 if name.startswith("left") else 200, 40 + 24 * joint, score
    return points


def draw(points: np.ndarray, pixels: np.ndarray = GREY, scores: tuple[float, ...] = (0.9,), **options) -> np.ndarray:
    boxes = np.array([[150.0, 30, 300, 420]] * len(points))
    return draw_keypoints(pixels, points, np.array(scores), boxes, skeleton=COCO17, **options)


def has(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (pixels == color).all(axis=2)


def test_sides_have_their_colours_at_the_joints() -> None:
    drawn = draw(person())
    for joint, name in enumerate(COCO17.keypoints[1:], start=1):
        x, color = (400, LEFT) if name.startswith("left") else (200, RIGHT)
        assert has(drawn[40 + 24 * joint - 1 :, x - 1 :][:3, :3], color).all(), name


def test_weak_joints_and_weak_people_are_left_out() -> None:
    points = person()
    points[0, 15, 2] = 0.2  # left ankle, at the threshold, the lowest of the left side
    assert has(draw(person())[380:], LEFT).any()
    assert not has(draw(points)[380:], LEFT).any()
    assert has(draw(points), LEFT).any()
    alone = draw(person())
    both = draw(np.concatenate([person(), person() + np.array([50, 0, 0])]), scores=(0.9, 0.05))
    assert np.array_equal(alone, both)


def test_joints_alone_are_drawn_alike_without_caption_or_enlarging() -> None:
    alone, captioned = draw_joints(GREY, person(), skeleton=COCO17), draw(person())
    differs = (alone != captioned).any(axis=2)
    assert differs.any()
    assert not differs[60:].any()  # the caption stands above the box, at y = 30
    small = draw_joints(GREY[:100, :100], person() / 5, skeleton=COCO17, joint_threshold=0)
    assert small.shape == (100, 100, 3)
    assert has(small, LEFT).any()
    assert (GREY == 90).all()


def test_pictures_without_people_say_so() -> None:
    nobody = draw(np.zeros((0, 17, 3), np.float32), scores=())
    weak = draw(person(), scores=(0.01,))
    assert not np.array_equal(nobody, GREY)
    assert not np.array_equal(nobody, weak)
    assert np.array_equal(nobody[200:], GREY[200:])


def test_unknown_skeleton_still_shows_joints() -> None:
    points = np.array([[[100, 100, 1], [200, 200, 1]]], np.float32)
    drawn = draw_keypoints(GREY, points, np.ones(1), np.array([[50.0, 50, 200, 200]]))
    assert (drawn[98:103, 98:103] != 90).any(axis=2).all()


@pytest.mark.parametrize(("height", "width", "factor"), [(60, 90, 6), (480, 10, 1), (1, 1, 480)])
def test_small_pictures_are_enlarged(height: int, width: int, factor: int) -> None:
    pixels = np.full((height, width, 3), 90, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    points = np.full((1, 17, 3), 0.5, np.float32)
    for drawn in (
        draw_classification(pixels, ["cat"], [1.0]),
        draw_segmentation(pixels, mask),
        draw_keypoints(pixels, points, np.ones(1), np.zeros((1, 4))),
    ):
        assert drawn.shape == (height * factor, width * factor, 3)
        assert drawn.dtype == np.uint8
    assert (pixels == 90).all()


def test_joints_stay_in_place_when_enlarged() -> None:
    small = np.full((40, 60, 3), 90, np.uint8)
    points = np.full((1, 17, 3), 0.9, np.float32)
    points[0, :, :2] = 20, 10
    drawn = draw(points, small)
    # Factor 8: the middle of pixel (20, 10) is at (164, 84) of the enlarged picture.
    center = np.argwhere(has(drawn, LEFT) | has(drawn, RIGHT)).mean(axis=0)
    assert np.abs(center - [83.5, 163.5]).max() <= 1.5


def test_class_colours_and_names() -> None:
    mask = np.zeros((480, 640), np.uint8)
    mask[:, 320:] = 1
    palette = [(200, 0, 0), (0, 0, 200)]
    drawn = draw_segmentation(GREY, mask, class_names=("left", "right"), palette=palette)
    assert np.abs(drawn[10, 10].astype(int) - [145, 45, 45]).max() <= 1
    assert np.abs(drawn[10, -10].astype(int) - [45, 45, 145]).max() <= 1
    # Each caption lies on its region, on its own colour.
    assert has(drawn[:, :320], palette[0]).any()
    assert has(drawn[:, 320:], palette[1]).any()
    unnamed = draw_segmentation(GREY, mask, palette=palette, smallest_share=0.9)
    assert not has(unnamed, palette[0]).any()


def test_generated_colours_differ() -> None:
    colors = [color_of(i) for i in range(30)]
    assert len(set(colors)) == 30
    assert color_of(1, [(1, 2, 3)]) == colors[1]
    assert color_of(0, [(1, 2, 3)]) == (1, 2, 3)
    assert all(np.abs(np.subtract(a, b)).max() > 60 for a, b in pairwise(colors))


def test_names_without_sides_are_drawn_in_one_colour() -> None:
    plain = replace(COCO17, keypoints=tuple(f"joint{i}" for i in range(17)))
    drawn = draw_keypoints(GREY, person(), np.ones(1), np.array([[150.0, 30, 300, 420]]), skeleton=plain)
    assert not has(drawn, LEFT).any()
    assert not has(drawn, RIGHT).any()


def test_joints_that_are_nowhere_or_far_away_do_no_harm() -> None:
    points = person()
    points[0, :3, :2] = [(np.nan, 20), (np.inf, 20), (1e9, -1e9)]
    drawn = draw_joints(np.full_like(GREY, 255), points, skeleton=COCO17)
    assert has(drawn, LEFT).any()
    # A dark rim sets limbs off from light pictures.
    assert (drawn.max(axis=2) < 60).any()


@pytest.mark.parametrize("place", [(0, 0), (639, 479), (320, 240)])
def test_captions_on_one_spot_lie_apart_and_inside_the_picture(place: tuple[int, int]) -> None:
    boxes = np.array([[*place, 9.0, 9.0]] * 5)
    drawn = draw_keypoints(GREY, np.zeros((5, 17, 3)), np.ones(5), boxes)
    alone = draw_keypoints(GREY, np.zeros((1, 17, 3)), np.ones(1), boxes[:1])
    assert has(drawn, (40, 40, 40)).sum() == 5 * has(alone, (40, 40, 40)).sum()
