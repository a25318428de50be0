"""A minute of training per task on the shared data, whose scores a broken model cannot reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hrformer.recipes.smoke import smoke_classification, smoke_pose, smoke_segmentation
from hrformer.train.config import AnyRun
from hrformer.train.loop import train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "main", "low", "high"),
    [
        # Measured 0.36 from fresh weights; chance is 0.10.
        (smoke_classification, "top1", 0.26, 0.55),
        # Measured 0.35, which is also where the bundled weights start; the mean pose scores 0.04.
        (smoke_pose, "pck@0.2", 0.28, 0.45),
        # Measured 0.59, as the bundled weights; the most frequent class at each position scores 0.17.
        (smoke_segmentation, "mean_iou", 0.50, 0.70),
    ],
)
def test_scores(
    recipe: Callable[[], AnyRun], main: str, low: float, high: float, data_dir: Path, tmp_path: Path
) -> None:
    config = recipe()
    result = train(replace(config, data=replace(config.data, root=data_dir)), tmp_path)
    assert result.main == main
    assert result.best is not None
    assert low < result.best < high
