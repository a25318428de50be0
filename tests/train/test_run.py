"""Taking up runs whose checkpoint another version wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrformer.train.config import ClassificationRun
from hrformer.train.loop import train
from hrformer.train.state import ResumeError, checkpoint_path
from training import longer


def change_saved(out: Path, name: str, value: object = None) -> None:
    """Take a field out of the configuration in a checkpoint, or put one in."""
    path = checkpoint_path(out)
    content = torch.load(path, weights_only=True)
    section = content["config"]["model"]
    if value is None:
        del section[name]
    else:
        section[name] = value
    torch.save(content, path)


def test_fields_that_came_later_are_at_their_defaults(classification_run: ClassificationRun, tmp_path: Path) -> None:
    config = longer(classification_run, 3)
    train(config, tmp_path)
    change_saved(tmp_path, "fresh")
    assert train(config, tmp_path, resume=True).update == 3


def test_fields_that_are_gone(classification_run: ClassificationRun, tmp_path: Path) -> None:
    config = longer(classification_run, 3)
    train(config, tmp_path)
    change_saved(tmp_path, "depth", 4)
    with pytest.raises(ResumeError, match=r"last\.pt was written by another version: unknown field model\.depth"):
        train(config, tmp_path, resume=True)
