"""Names of candidates and of baselines."""

from __future__ import annotations

import pytest

from bench_records import candidate
from hrformer.benchmark.candidates import TIMM_NAMES, find_baseline


def test_labels_tell_candidates_apart() -> None:
    ones = [
        candidate(),
        candidate(way="fast"),
        candidate(layout="channels_last"),
        candidate(precision="bf16"),
        candidate(precision="bf16", half_by="autocast"),
        candidate(window=13),
        candidate(origin="official"),
    ]
    assert len({one.label for one in ones}) == len(ones)
    assert ones[-1].label == "official hrformer_small, eager"
    assert ones[3].label == "hrformer_small, eager, bf16 by cast"


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_short_names_mean_models_that_timm_has(name: str) -> None:
    assert find_baseline(name, "classification") == ("timm", TIMM_NAMES[name])


def test_baselines_of_ours_and_of_transformers() -> None:
    assert find_baseline("hrnet_w32", "pose") == ("ours", "hrnet_w32")
    assert find_baseline("vitpose_b", "pose") == ("transformers", "vitpose_b")
    assert find_baseline("timm/resnet18", "classification") == ("timm", "resnet18")


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "depth"}, "task must be one of"),
        ({"way": "magic"}, "path must be one of"),
        ({"origin": "official", "window": 13}, "only our HRFormer"),
    ],
)
def test_impossible_candidates_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidate(**fields)
