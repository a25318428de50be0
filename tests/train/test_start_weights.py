"""Start weights by task and machine, and what follows from those that are named."""

from __future__ import annotations

import pytest

from hrformer.checkpoints.download import DownloadError, resolve_weights
from hrformer.checkpoints.registry import find_weights
from hrformer.train.config import ModelConfig
from hrformer.train.start_weights import BUNDLED, PUBLISHED, find_start

OPEN = ModelConfig(name="", init="auto")


@pytest.mark.parametrize("task", list(BUNDLED))
def test_a_processor_starts_from_the_weights_in_the_package(task) -> None:
    start = find_start(OPEN, task, gpu=False)
    entry = find_weights(BUNDLED[task])
    assert (start.model.init, start.model.name, start.size) == (entry.name, "hrformer_nano", entry.input_spec.size)
    assert entry.origin == "bundled"


@pytest.mark.parametrize("task", list(PUBLISHED))
def test_without_a_network_those_in_the_package_are_named(task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=f"cannot download .*--model.init {BUNDLED[task]}"):
        find_start(OPEN, task, gpu=True)


def test_prediction_offers_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRFORMER_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"weights for pose that need no network: hrformer_nano_lspet"):
        resolve_weights("hrformer_small_coco_256x192")
    with pytest.raises(DownloadError, match=r"HRFORMER_OFFLINE is set.*by hand\.$"):
        resolve_weights("hrformer_small_imagenet")


def test_the_network_follows_from_the_weights() -> None:
    start = find_start(ModelConfig(name="", init="hrformer_nano_camvid"), "segmentation", gpu=True)
    assert (start.model.name, start.model.ocr_channels, start.model.ocr_key_channels) == ("hrformer_nano", 64, 32)
    assert start.size == (180, 240)
    # What was set of the head stays, so the file's head does not fit and starts fresh.
    start = find_start(ModelConfig(name="", init="hrformer_nano_camvid", ocr_channels=32), "segmentation", gpu=False)
    assert (start.model.ocr_channels, start.model.ocr_key_channels) == (32, None)


def test_weights_of_another_task_tell_no_size() -> None:
    start = find_start(ModelConfig(name="", init="hrformer_nano_lspet"), "classification", gpu=False)
    assert (start.model.name, start.model.head_planes, start.size) == ("hrformer_nano", None, (56, 56))
    assert find_start(ModelConfig(name="", init="hrformer_nano_lspet"), "segmentation", gpu=True).size == (480, 480)


def test_fresh_weights() -> None:
    start = find_start(ModelConfig(name="hrformer_tiny"), "pose", gpu=True)
    assert (start.model.init, start.size) == ("", (256, 192))


def test_a_network_without_known_weights() -> None:
    with pytest.raises(ValueError, match=r"no start weights are known for hrformer_tiny; give .*--model.init ''"):
        find_start(ModelConfig(name="hrformer_tiny", init="auto"), "pose", gpu=False)
