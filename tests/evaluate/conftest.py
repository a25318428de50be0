"""Small trained models and the sets they were made for, and a lively model with COCO's joints."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hrformer.checkpoints.checkpoint import load_model
from hrformer.data.classification_sets import open_classification
from hrformer.data.pose_sets import CocoPeople, open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.set_types import ClassificationSet, ImageSet, SegmentationSet
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.data.views import chosen
from hrformer.evaluate.inference import Processes
from hrformer.evaluate.protocols import ClassificationProtocol, PoseProtocol, Protocol, SegmentationProtocol
from hrformer.models.model import VisionModel
from hrformer.zoo import create_model
from training import WEIGHTS


def trained(name: str) -> VisionModel:
    return load_model(WEIGHTS / f"hrformer_nano_{name}.safetensors")[0]


@pytest.fixture(scope="session")
def classifier() -> VisionModel:
    return trained("cifar10")


@pytest.fixture(scope="session")
def poser() -> VisionModel:
    return trained("lspet")


@pytest.fixture(scope="session")
def segmenter() -> VisionModel:
    return trained("camvid")


@pytest.fixture(scope="session")
def coco_poser() -> VisionModel:
    """17 joints at 64 x 48; weights scaled up, since fresh ones give heatmaps that are all ties."""
    model = create_model("hrformer_nano", "pose", num_keypoints=17)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, module.weight[0].numel() ** -0.5, generator=generator)
    model.info = replace(model.info, input_spec=replace(model.info.input_spec, size=(64, 48)))
    return model.eval()


@pytest.fixture(scope="session")
def pictures(data_dir: Path) -> ClassificationSet:
    return open_classification(ClassificationSource(root=data_dir / "cifar10"), "val")


@pytest.fixture(scope="session")
def few_pictures(pictures: ClassificationSet) -> ClassificationSet:
    """Every twentieth picture."""
    return chosen(pictures, range(0, 1000, 20))


@pytest.fixture(scope="session")
def athletes(data_dir: Path) -> CocoPeople:
    annotations = "annotations/person_keypoints_val.json"
    return open_pose(PoseSource(root=data_dir / "lspet", val_annotations=annotations), "val")


@pytest.fixture(scope="session")
def streets(data_dir: Path) -> SegmentationSet:
    return open_segmentation(SegmentationSource(root=data_dir / "camvid"), "val")


@pytest.fixture(scope="session")
def coco_source(data_dir: Path) -> PoseSource:
    return PoseSource(
        root=data_dir / "coco_tiny", val_annotations="annotations/person_keypoints.json", val_images=("images",)
    )


@pytest.fixture
def task(request: pytest.FixtureRequest) -> Callable[[str], tuple[VisionModel, ImageSet, Protocol, int]]:
    """Model, set, protocol and a number of items by the name of the task."""
    parts: dict[str, tuple[str, str, Protocol, int]] = {
        "classification": ("classifier", "pictures", ClassificationProtocol(batch_size=16), 40),
        "pose": ("poser", "athletes", PoseProtocol(score="both", batch_size=8, flip=False), 16),
        "segmentation": ("segmenter", "streets", SegmentationProtocol(short_side=60), 6),
    }

    def pick(name: str) -> tuple[VisionModel, ImageSet, Protocol, int]:
        model, source, protocol, limit = parts[name]
        return request.getfixturevalue(model), request.getfixturevalue(source), protocol, limit

    return pick


class Threads:
    """Stands in for processes: each thread is one, and gathering waits for all."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._barrier = threading.Barrier(world_size, timeout=60)
        self._values: list[Any] = [None] * world_size

    def run(self, work: Callable[[Processes], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.world_size) as pool:
            return list(pool.map(lambda rank: work(self._process(rank)), range(self.world_size)))

    def _process(self, rank: int) -> Processes:
        def gather(value: Any) -> list[Any]:
            self._values[rank] = value
            self._barrier.wait()
            values = list(self._values)
            self._barrier.wait()
            return values

        return Processes(rank=rank, world_size=self.world_size, gather=gather)


@pytest.fixture
def threads() -> Callable[[int], Threads]:
    return Threads
