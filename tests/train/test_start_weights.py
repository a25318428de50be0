"""Start weights: by task and machine, what follows from them, what is taken over, starts fresh, or is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.download import DownloadError, resolve_weights
from hrformer.checkpoints.pickles import CheckpointError
from hrformer.checkpoints.registry import find_weights
from hrformer.train.config import AnyRun, ClassificationRun, ModelConfig, PoseRun, SegmentationRun
from hrformer.train.start_weights import BUNDLED, PUBLISHED, find_start
from hrformer.train.tasks import task_for

OPEN = ModelConfig(name="", init="auto")


@pytest.mark.parametrize("task", list(BUNDLED))
def test_a_processor_starts_from_the_weights_in_the_package(task) -> None:
    start = find_start(OPEN, task, gpu=False)
    entry = find_weights(BUNDLED[task])
    assert (start.model.init, start.model.name, start.size) == (entry.name, "hrformer_tiny", entry.input_spec.size)
    assert entry.origin == "bundled"


@pytest.mark.parametrize("task", list(PUBLISHED))
def test_without_a_network_those_in_the_package_are_named(task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=f"cannot download .*--model.init {BUNDLED[task]}"):
        find_start(OPEN, task, gpu=True)


def test_prediction_offers_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"weights for pose that need no network: hrformer_tiny_people17"):
        resolve_weights("hrformer_small_coco_256x192")
    with pytest.raises(DownloadError, match=r"HRFORMER_OFFLINE is set.*by hand\.$"):
        resolve_weights("hrformer_small_imagenet")


def test_the_network_follows_from_the_weights(small: dict[str, str]) -> None:
    start = find_start(ModelConfig(name="", init=small["segmentation"]), "segmentation", gpu=True)
    assert (start.model.name, start.model.ocr_channels, start.model.ocr_key_channels) == ("hrformer_nano", 64, 32)
    assert start.size == (180, 240)
    # What was set of the head stays, so the file's head does not fit and starts fresh.
    start = find_start(ModelConfig(name="", init=small["segmentation"], ocr_channels=32), "segmentation", gpu=False)
    assert (start.model.ocr_channels, start.model.ocr_key_channels) == (32, None)


def test_weights_of_another_task_tell_no_size(small: dict[str, str]) -> None:
    start = find_start(ModelConfig(name="", init=small["pose"]), "classification", gpu=False)
    assert (start.model.name, start.model.head_planes, start.size) == ("hrformer_nano", None, (84, 84))
    assert find_start(ModelConfig(name="", init=small["pose"]), "segmentation", gpu=True).size == (480, 480)


def test_fresh_weights() -> None:
    start = find_start(ModelConfig(name="hrformer_tiny"), "pose", gpu=True)
    assert (start.model.init, start.size) == ("", (256, 192))


def test_a_network_without_known_weights() -> None:
    with pytest.raises(ValueError, match=r"no start weights are known for hrformer_nano; give .*--model.init ''"):
        find_start(ModelConfig(name="hrformer_nano", init="auto"), "pose", gpu=False)


def built(run: AnyRun, **model: object) -> tuple[dict[str, torch.Tensor], Any]:
    """State of the run's model and what was loaded; fresh weights are the same in every call."""
    torch.manual_seed(0)
    network, report = task_for(replace(run, model=replace(run.model, **model))).build()
    return {name: value.clone() for name, value in network.state_dict().items()}, report


def weights(file: str) -> dict[str, torch.Tensor]:
    """State of the model in a file."""
    return load_model(file)[0].state_dict()


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], prefix: str) -> bool:
    names = [name for name in ours if name.startswith(prefix) and name.endswith("weight")]
    assert names
    return all(torch.equal(ours[name], theirs[name]) for name in names)


def test_head_of_other_sizes_starts_fresh(segmentation_run: SegmentationRun, small: dict[str, str]) -> None:
    fresh, _ = built(segmentation_run)
    state, report = built(segmentation_run, init=small["segmentation"])
    trained = weights(small["segmentation"])
    assert same(state, trained, "backbone.")
    assert same(state, fresh, "head.")
    assert report.fresh == ("head",)
    assert report.unexpected == ()
    left_out = [key for key, reason in report.ignored.items() if reason == "of head, which starts fresh"]
    assert len(left_out) == sum(name.startswith("head.") for name in trained)
    assert not any(key.startswith("head.") for key in report.used)
    assert "--model.ocr-channels 64 --model.ocr-key-channels 32" in str(report)


def test_the_options_it_names_take_over_the_head(segmentation_run: SegmentationRun, small: dict[str, str]) -> None:
    state, report = built(segmentation_run, init=small["segmentation"], ocr_channels=64, ocr_key_channels=32)
    assert same(state, weights(small["segmentation"]), "head.")
    assert report.fresh == ()
    assert report.notes == ()


def test_head_of_other_sizes_and_classes(classification_run: ClassificationRun, small: dict[str, str]) -> None:
    state, report = built(classification_run, init=small["classification"])
    assert same(state, weights(small["classification"]), "backbone.")
    assert "--model.head-planes 8 --model.head-width 512" in str(report)
    # Fitting sizes with other classes keep all of the head; of its last layer, the rows of classes of the same name.
    _, report = built(classification_run, init=small["classification"], head_planes=8, head_width=512)
    assert report.fresh == ()


def test_pose_weights_start_a_classifier(classification_run: ClassificationRun, small: dict[str, str]) -> None:
    fresh, _ = built(classification_run)
    state, report = built(classification_run, init=small["pose"])
    trained = weights(small["pose"])
    assert same(state, trained, "backbone.stage3.")
    assert same(state, trained, "backbone.stage4.0.branches.")
    assert same(state, fresh, "backbone.stage4.0.fuse.paths.1.")
    assert any(layer.startswith("backbone.stage4.0.fuse.paths.3.") for layer in report.fresh)


def test_another_backbone_is_refused(pose_run: PoseRun, small: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match=r"(?s)model\.init: .*does not fit.*give --model\.name hrformer_nano"):
        built(pose_run, name="hrformer_tiny", init=small["pose"])


def test_parts_that_are_to_start_fresh(pose_run: PoseRun, small: dict[str, str]) -> None:
    fresh, _ = built(pose_run)
    state, report = built(pose_run, init=small["pose"], fresh=("stage4", "head"))
    trained = weights(small["pose"])
    assert same(state, trained, "backbone.stage3.")
    for part in ("backbone.transition3.", "backbone.stage4.", "head."):
        assert same(state, fresh, part)
        assert not same(state, trained, part)
    assert report.fresh == ("stage4", "head")
    assert "of stage4 and head, which start fresh" in str(report)


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match=r"model\.fresh must be among head, stem.*did you mean 'stage4'"):
        ModelConfig(init="hrformer_tiny_people17", fresh=("stage_4",))


def test_classes_of_the_same_name_keep_their_rows(classification_run: ClassificationRun, small: dict[str, str]) -> None:
    state, report = built(classification_run, init=small["classification"], head_planes=8, head_width=512)
    trained = weights(small["classification"])
    # Airplane, cat and ship are the first, fourth and ninth of the file's ten.
    for part in ("weight", "bias"):
        assert torch.equal(state[f"head.classifier.{part}"], trained[f"head.classifier.{part}"][[0, 3, 8]])
    assert "3 of the 3 classes are known to the file by name" in str(report)
    assert report.fresh == ()
    state, report = built(
        classification_run, init=small["classification"], head_planes=8, head_width=512, fresh=("head",)
    )
    assert not torch.equal(state["head.classifier.weight"], trained["head.classifier.weight"][[0, 3, 8]])
    assert "by name" not in str(report)


def test_joints_in_another_order_are_told_by_name(pose_run: PoseRun, small: dict[str, str]) -> None:
    source = task_for(pose_run).train_set.skeleton
    other = replace(source, keypoints=("beak", *source.keypoints[:0:-1]), flip_pairs=(), edges=(), upper_body=())
    state, report = built(replace(pose_run, data=replace(pose_run.data, skeleton=other)), init=small["pose"])
    trained = weights(small["pose"])["head.final_layer.weight"]
    assert torch.equal(state["head.final_layer.weight"][1:], trained.flip(0)[:-1])
    assert "13 of the 14 joints are known" in str(report)


def test_as_many_joints_of_other_names_are_not_taken_for_the_files(pose_run: PoseRun, small: dict[str, str]) -> None:
    source = task_for(pose_run).train_set.skeleton
    nameless = {"flip_pairs": (), "edges": (), "upper_body": ()}
    petals = replace(source, keypoints=tuple(f"petal_{k}" for k in range(14)), **nameless)
    some = replace(source, keypoints=("petal", *source.keypoints[1:]), **nameless)
    trained = weights(small["pose"])
    layer = ("head.final_layer",)
    for skeleton, kept, fresh, said in (
        (petals, 0, layer, "none of the 14 joints is known"),
        (
            some,
            13,
            (),
            "13 of the 14 joints are known to the file by name and start from its weights; the other 1 start",
        ),
    ):
        run = replace(pose_run, data=replace(pose_run.data, skeleton=skeleton))
        state, report = built(run, init=small["pose"])
        first, _ = built(run, init=small["pose"], fresh=("head",))
        for part in ("weight", "bias"):
            name = f"head.final_layer.{part}"
            assert torch.equal(state[name][14 - kept :], trained[name][14 - kept :])
            assert torch.equal(state[name][: 14 - kept], first[name][: 14 - kept])
        assert said in str(report)
        assert report.fresh == fresh
