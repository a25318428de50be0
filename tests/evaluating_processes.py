"""What one of several processes of ``tests/evaluate/test_processes.py`` does; it is found by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hrformer.checkpoints.checkpoint import load_model
from hrformer.data.classification_sets import open_classification
from hrformer.data.pose_sets import open_pose
from hrformer.data.segmentation_sets import open_segmentation
from hrformer.data.source_config import ClassificationSource, PoseSource, SegmentationSource
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.inference import Processes
from hrformer.evaluate.protocols import ClassificationProtocol, Evaluation, PoseProtocol, SegmentationProtocol
from training import WEIGHTS


def evaluate_all(data: Path, processes: Processes | None) -> list[Evaluation]:
    """A few items of each small set by its bundled model."""
    annotations = "annotations/person_keypoints_val.json"
    jobs: list[tuple[str, Any, Any, int]] = [
        (
            "cifar10",
            open_classification(ClassificationSource(root=data / "cifar10"), "val"),
            ClassificationProtocol(),
            11,
        ),
        (
            "lspet",
            open_pose(PoseSource(root=data / "lspet", val_annotations=annotations), "val"),
            PoseProtocol(score="both", flip=False),
            5,
        ),
        (
            "camvid",
            open_segmentation(SegmentationSource(root=data / "camvid"), "val"),
            SegmentationProtocol(short_side=60),
            3,
        ),
    ]
    return [
        evaluate(
            load_model(WEIGHTS / f"hrformer_nano_{name}.safetensors")[0],
            source,
            protocol,
            processes=processes,
            bootstrap=10,
            worst=2,
            limit=limit,
        )
        for name, source, protocol, limit in jobs
    ]


def run(rank: int, world_size: int, data: str, folder: str) -> None:
    """Join the group, evaluate, and leave the outcome in ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world_size)

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * world_size
        dist.all_gather_object(values, value)
        return values

    found = evaluate_all(Path(data), Processes(rank=rank, world_size=world_size, gather=gather))
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()
