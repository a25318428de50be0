"""Videos through the predictors: each frame as a picture, people with the same number as long as they are there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hrformer
from clips import window, write_clip
from hrformer.predict.pose import PosePredictor
from hrformer.predict.video import VideoFrame
from hrformer.video.reading import Frame, Video

FRAMES, SIZE = 22, (240, 400)
BOX = np.array([20.0, 20.0, 180.0, 360.0])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", [window(n, SIZE) for n in range(20, 20 + FRAMES)])


@pytest.fixture(scope="module")
def people17() -> PosePredictor:
    predictor = hrformer.load("hrformer_tiny_people17", "cpu")
    assert isinstance(predictor, PosePredictor)
    return predictor


class Looks:
    """A detector that notes when it is asked: one person, two pixels further to the right at each look's frame."""

    def __init__(self) -> None:
        self.pictures: list[NDArray[np.uint8]] = []

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[Any, Any]:
        self.pictures.append(pixels)
        return BOX[None] + [2.0 * len(self.pictures), 0, 0, 0], [0.9]


def test_every_frame_is_predicted_as_a_picture_is(people17: PosePredictor, clip: Path) -> None:
    calls: list[int] = []
    hook = people17.model.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    look = Looks()
    frames = [*people17.video(clip, detector=look, every=1, flip=False, batch_size=8)]
    hook.remove()
    assert calls == [8, 8, 6]  # crops of many frames at once
    assert [frame.number for frame in frames] == [*range(FRAMES)]
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(FRAMES) / 25, atol=1e-6)
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.result.image, look.pictures[number])
        alone = people17(
            frame.result.image, boxes=BOX[None] + [2.0 * (number + 1), 0, 0, 0], box_scores=[0.9], flip=False
        )
        np.testing.assert_allclose(frame.result.keypoints, alone.keypoints, atol=1e-3)
        np.testing.assert_allclose(frame.result.scores, alone.scores, atol=1e-5)
        assert frame.tracks.tolist() == [1]


def test_the_detector_looks_at_every_fifth_frame_and_the_last(people17: PosePredictor, clip: Path) -> None:
    look = Looks()
    frames = [*people17.video(clip, detector=look, every=5, flip=False)]
    whole = [frame.result.image for frame in frames]
    seen = [next(n for n, pixels in enumerate(whole) if np.array_equal(pixels, one)) for one in look.pictures]
    assert seen == [0, 5, 10, 15, 20, 21]
    lefts = [frame.result.boxes[0, 0] for frame in frames]
    np.testing.assert_allclose(lefts[:21], 22 + np.arange(21) * 2 / 5, atol=1e-4)


def test_people_are_found_and_keep_their_numbers(people17: PosePredictor, clip: Path) -> None:
    """The bundled models on a photograph that moves: the same person, whose nose goes two pixels a frame."""
    frames = [*people17.video(clip, every=4, flip=False, smooth=True)]
    assert all(frame.tracks.tolist() == [1] for frame in frames)
    noses = np.array([frame.result.keypoints[0, 0, :2] for frame in frames])
    expected = noses[0] - [[0.0, 0.0]] + np.outer(np.arange(FRAMES), [2.0, 0.0]) * np.sign(noses[-1, 0] - noses[0, 0])
    assert np.abs(noses - expected).max() < 12


def test_detections_have_the_number_of_their_frame(people17: PosePredictor, clip: Path) -> None:
    rows = [{"image_id": n, "bbox": BOX.tolist(), "score": 0.9, "category_id": 1} for n in (0, 1, 2, 9)]
    frames = [*people17.video(clip, detections=rows, flip=False)]
    assert [len(frame.tracks) for frame in frames] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1] + [0] * 12
    with pytest.raises(ValueError, match="give only one of detections and detector"):
        next(people17.video(clip, detections=rows, detector="picture"))


@pytest.mark.parametrize("name", ["hrformer_tiny_petspeople", "hrformer_tiny_things"])
def test_other_tasks_give_a_result_for_every_frame(clip: Path, name: str) -> None:
    predictor = hrformer.load(name, "cpu")
    frames: list[VideoFrame[Any]] = []
    for frame in predictor.video(clip):
        frames.append(frame)
        if len(frames) == 4:
            break
    for frame in frames:
        alone: Any = predictor(frame.result.image)
        if isinstance(alone, hrformer.Segmentation):
            assert (frame.result.mask != alone.mask).mean() < 1e-3
        else:
            np.testing.assert_allclose(frame.result.probabilities, alone.probabilities, atol=1e-5)
        assert frame.tracks.shape == (0,)


class Live(Video):
    """A camera that notes how many frames it has given."""

    name, size, rate, live = "camera", SIZE, 25.0, True

    def __init__(self) -> None:
        self.given = 0
        self.closed = False

    def frames(self) -> Iterator[Frame]:
        for number in range(8):
            self.given += 1
            yield Frame(number=number, time=number / 25, pixels=window(20 + number, SIZE))

    def close(self) -> None:
        self.closed = True


def test_of_cameras_no_frame_waits_for_the_next(people17: PosePredictor) -> None:
    camera, look = Live(), Looks()
    for number, frame in enumerate(people17.video(camera, detector=look, every=4, flip=False)):
        assert camera.given == number + 1
        assert frame.tracks.tolist() == [1]
    assert len(look.pictures) == 2
    assert camera.closed
    camera = Live()
    classifier: Any = hrformer.load("hrformer_tiny_things", "cpu")
    assert [camera.given for _ in classifier.video(camera)] == [*range(1, 9)]


def test_without_the_extra_the_pip_line_is_told(
    people17: PosePredictor, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, within in (("av", "av"), ("scipy", "scipy.optimize")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, within, None)
            with pytest.raises(ImportError, match=r"pip install 'hrformer\[video\]'"):
                next(people17.video(clip, detector="picture")), package


def test_wrong_options_are_refused(people17: PosePredictor, clip: Path) -> None:
    with pytest.raises(ValueError, match="every must be at least 1 frame, got 0"):
        next(people17.video(clip, every=0, detector=Looks()))
    with pytest.raises(ValueError, match="unknown option"):
        next(people17.video(clip, sharpness=2))
