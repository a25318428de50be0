"""Names of candidates and of baselines."""

from __future__ import annotations

import pytest

from bench_records import candidate
from candidates import TIMM_NAMES, find_baseline


def test_labels_tell_candidates_apart() -> None:
    fields = [
        {},
        {"way": "fast"},
        {"layout": "channels_last"},
        {"precision": "bf16"},
        {"precision": "bf16", "half_by": "autocast"},
        {"window": 13},
        {"origin": "official"},
    ]
    labels = [candidate(**one).label for one in fields]
    assert len(set(labels)) == len(labels)
    assert labels[3] == "hrformer_small, eager, bf16 by cast"
    assert labels[-1] == "official hrformer_small, eager"


@pytest.mark.parametrize(
    ("name", "task", "found"),
    [
        *((name, "classification", ("timm", model)) for name, model in TIMM_NAMES.items()),
        ("timm/resnet18", "classification", ("timm", "resnet18")),
        ("hrnet_w32", "pose", ("ours", "hrnet_w32")),
        ("vitpose_b", "pose", ("transformers", "vitpose_b")),
    ],
)
def test_baselines(name: str, task, found: tuple[str, str]) -> None:
    assert find_baseline(name, task) == found


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("resnet18", "classification", "no baseline named 'resnet18'"),
        ("timm/nothing", "classification", "no baseline named"),
        ("deit_b", "pose", "classifier"),
        ("vitpose_b", "segmentation", "for pose"),
    ],
)
def test_baselines_that_are_none(name: str, task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_baseline(name, task)
