"""Who is who, in scenes whose people are known."""

from __future__ import annotations

import numpy as np
import pytest

from hrformer.geometry.skeletons import COCO17
from hrformer.video.tracking import Tracker, TrackOptions, box_overlap
from tracking_scenes import SCENES, identity_f1, scene, tracked

SEEDS = range(100, 105)


@pytest.mark.parametrize("name", SCENES)
def test_people_keep_their_numbers(name: str) -> None:
    """Nearly as well as with the true number of everybody who was found."""
    lost = []
    for seed in SEEDS:
        one = scene(name, seed)
        best = identity_f1(one.truth, [(w[w > 0], b[w > 0]) for w, b in zip(one.who, one.boxes, strict=True)])
        lost.append(best - identity_f1(one.truth, tracked(one)))
    assert np.mean(lost) < (0.08 if name == "alarms" else 0.03), lost


@pytest.mark.parametrize("rate", [10.0, 60.0])
def test_spans_are_seconds_whatever_the_rate(rate: float) -> None:
    """Somebody who is hidden for a second keeps the number for two seconds, and loses it after."""
    one = scene("crossing", 0, rate=rate)
    for hidden, same in ((1.0, True), (2.5, False)):
        tracker, seen = Tracker(COCO17.sigmas, TrackOptions(memory=2.0)), []
        for time, points, boxes, who in zip(one.times, one.keypoints, one.boxes, one.who, strict=True):
            kept = (who == 1) & ~((time > 1.0) & (time < 1.0 + hidden))
            seen += tracker.update(float(time), points[kept], boxes[kept], np.full(kept.sum(), 0.9)).tolist()
        assert set(seen) == ({1} if same else {1, 2})


def test_the_order_of_people_does_not_matter() -> None:
    one = scene("crowd", 3)
    first, other = Tracker(COCO17.sigmas), Tracker(COCO17.sigmas)
    for time, points, boxes, scores in zip(one.times[:80], one.keypoints, one.boxes, one.scores, strict=False):
        back = slice(None, None, -1)
        ours = first.update(float(time), points, boxes, scores)
        theirs = other.update(float(time), points[back], boxes[back], scores[back])[back]
        assert len({*zip(ours.tolist(), theirs.tolist(), strict=True)}) == len(ours)
        assert (ours > 0).tolist() == (theirs > 0).tolist()


def test_low_scores_continue_tracks_and_start_none() -> None:
    one = scene("occlusion", 0)
    points, boxes = one.keypoints[0][:1], one.boxes[0][:1]
    tracker = Tracker(COCO17.sigmas)
    assert tracker.update(0.0, points, boxes, np.array([0.2])).tolist() == [0]
    assert tracker.update(0.1, points, boxes, np.array([0.8])).tolist() == [1]
    assert tracker.update(0.2, points, boxes, np.array([0.2])).tolist() == [1]
    assert tracker.update(0.3, points, boxes, np.array([0.05])).tolist() == [0]


def test_somebody_found_twice_gets_one_number() -> None:
    one = scene("occlusion", 0)
    points, boxes = one.keypoints[0][:1], one.boxes[0][:1]
    tracker = Tracker(COCO17.sigmas)
    tracker.update(0.0, points, boxes, np.array([0.8]))
    twice = tracker.update(0.04, np.repeat(points, 2, axis=0), np.repeat(boxes, 2, axis=0), np.array([0.8, 0.7]))
    assert sorted(twice.tolist()) == [0, 1]


def test_overlap_of_boxes() -> None:
    boxes = np.array([[0.0, 0.0, 4.0, 2.0], [10.0, 10.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(box_overlap(boxes, np.array([[2.0, 0.0, 4.0, 2.0]]))[:, 0], [4 / 12, 0, 0])


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="memory must be at least 0 seconds, got -1"):
        TrackOptions(memory=-1)
    with pytest.raises(ValueError, match="least_similarity must lie in"):
        TrackOptions(least_similarity=2)
