"""Boxes between two looks of a detector."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hrformer.video.boxes import BoxLinks

LEFT, RIGHT = [0.0, 0.0, 40.0, 80.0], [200.0, 0.0, 40.0, 80.0]


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows).reshape(-1, 4)


def test_boxes_move_in_straight_lines_whatever_order_the_detector_has() -> None:
    links = BoxLinks()
    links.begin(1.0, boxes(LEFT, RIGHT), np.array([0.9, 0.8]))
    span = links.look(1.4, boxes([210.0, 4.0, 44.0, 80.0], [10.0, 0.0, 40.0, 80.0]), np.array([0.7, 0.6]))
    np.testing.assert_array_equal(span.at(1.0)[0], boxes(LEFT, RIGHT))
    np.testing.assert_array_equal(span.at(1.0)[1], [0.9, 0.8])
    np.testing.assert_allclose(span.at(1.1)[0], boxes([2.5, 0, 40, 80], [202.5, 1, 41, 80]))
    np.testing.assert_array_equal(links.now()[1], [0.6, 0.7])


def test_who_comes_or_goes_counts_for_half_of_the_span() -> None:
    links = BoxLinks(patience=0.0)
    links.begin(0.0, boxes(LEFT), np.array([0.9]))
    span = links.look(1.0, boxes(RIGHT), np.array([0.8]))
    assert span.at(0.4)[0].tolist() == [LEFT]
    assert span.at(0.6)[0].tolist() == [RIGHT]
    assert links.now()[0].tolist() == [RIGHT]


def test_who_is_missed_moves_on_for_half_a_second_with_half_the_score() -> None:
    links = BoxLinks(patience=0.5)
    links.begin(0.0, boxes(LEFT), np.array([0.8]))
    links.look(0.25, boxes([10.0, 0.0, 40.0, 80.0]), np.array([0.8]))
    nothing = boxes(), np.empty(0)
    span = links.look(0.5, *nothing)
    np.testing.assert_allclose(span.at(0.375)[0], boxes([15.0, 0.0, 40.0, 80.0]))
    np.testing.assert_allclose(links.now()[0], boxes([20.0, 0.0, 40.0, 80.0]))
    assert links.now()[1].tolist() == [0.4]
    links.look(0.75, *nothing)
    assert links.now()[1].tolist() == [0.4]
    found_again = links.look(0.8, boxes([32.0, 0.0, 40.0, 80.0]), np.array([0.7]))
    assert len(found_again.scores) == 1
    links.look(1.0, *nothing)
    links.look(1.5, *nothing)
    assert len(links.now()[0]) == 0


def test_a_state_goes_on_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    looks = [
        (0.1 * number, np.abs(rng.normal([100, 100, 80, 80], 40, (3, 4))), rng.random(3)) for number in range(1, 12)
    ]
    whole = BoxLinks()
    whole.begin(0.0, boxes(LEFT, RIGHT), np.array([0.9, 0.8]))
    for number, look in enumerate(looks):
        stopped = BoxLinks()
        stopped.restore(json.loads(json.dumps(whole.state())))
        one, other = whole.look(*look), stopped.look(*look)
        np.testing.assert_array_equal(one.last, other.last)
        assert whole.state() == stopped.state(), number


@pytest.mark.parametrize("count", [0, 2])
def test_a_scene_without_people_stays_empty(count: int) -> None:
    links = BoxLinks()
    links.begin(0.0, boxes(), np.empty(0))
    span = links.look(0.2, boxes(*[LEFT] * count), np.full(count, 0.5))
    assert len(span.at(0.05)[0]) == 0
    assert len(span.at(0.15)[0]) == count
