"""The first half of each recipe of a minute, to a score that a broken model cannot reach from its start.

Half, as a test; the whole runs and their scores are the recipes' own, see ``hrformer.recipes.small_sets``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from hrformer.evaluate.evaluate import evaluate
from hrformer.recipes.small_sets import smoke_classification, smoke_pose, smoke_segmentation
from hrformer.train import loop
from hrformer.train.config import AnyRun
from hrformer.train.tasks import task_for
from training import longer


def untrained(config: AnyRun, limit: int) -> float:
    """Score of the weights that the run starts from, on the first so many items."""
    torch.manual_seed(config.seed)
    task = task_for(config)
    return evaluate(task.build()[0], task.val_set, config.evaluation, limit=limit).value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "updates", "main", "limit", "before", "low", "high"),
    [
        # Measured 0.285 after; chance is 0.10.
        (smoke_classification, 90, "top1", 1000, 0.15, 0.22, 0.5),
        # Measured 0.29 after. The mean pose scores 0.04.
        (smoke_pose, 12, "pck@0.2", 64, 0.10, 0.2, 0.45),
        # Measured 0.248 after. The most frequent class at each position scores 0.17.
        (smoke_segmentation, 20, "mean_iou", 16, 0.10, 0.2, 0.45),
    ],
)
def test_scores(
    recipe: Callable[[], AnyRun],
    updates: int,
    main: str,
    limit: int,
    before: float,
    low: float,
    high: float,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = longer(recipe(), updates)
    config = replace(config, data=replace(config.data, root=data_dir), validate_updates=updates)
    assert untrained(config, limit) < before
    monkeypatch.setattr(loop, "evaluate", partial(evaluate, limit=limit))
    result = loop.train(config, tmp_path)
    assert result.main == main
    assert result.best is not None
    assert low < result.best < high
