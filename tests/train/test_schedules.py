"""Learning rates at chosen updates."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hrformer.train.schedules import cosine_rate, poly_rate, step_rate


@pytest.fixture(scope="module")
def golden(parity_dir: Path) -> dict:
    return json.loads((parity_dir / "protocol" / "segmentation.json").read_text())


def test_cosine_matches_timm_as_the_official_loop_calls_it(golden: dict) -> None:
    assert len(golden["cls_cosine_lr"]) == 2
    for case in golden["cls_cosine_lr"].values():
        settings = {
            "peak": case["base_lr"],
            "total_updates": case["epochs"] * case["steps_per_epoch"],
            "warmup_updates": case["warmup_epochs"] * case["steps_per_epoch"],
            "warmup_start": case["warmup_lr"],
            "floor": case["min_lr"],
        }
        assert cosine_rate(0, **settings) == case["lr_before_any_step"]
        for step, want in zip(case["steps"], case["lr"], strict=True):
            assert cosine_rate(step + 1, **settings) == pytest.approx(want, rel=1e-12)
        assert cosine_rate(settings["total_updates"] + 1, **settings) == settings["floor"]


def test_poly_matches_the_reference(golden: dict) -> None:
    assert len(golden["poly_lr"]) == 2
    for total, case in golden["poly_lr"].items():
        settings = {"warmup_updates": case["warm_iters"], "warmup_ratio": case["warm_ratio"]}
        for iteration, want in zip(case["iterations"], case["lr"], strict=True):
            rate = poly_rate(iteration, peak=case["base_lr"], total_updates=int(total), **settings)
            assert rate == pytest.approx(want, rel=1e-10)
        assert poly_rate(int(total), peak=1e-4, total_updates=int(total)) == 0


@pytest.mark.parametrize(
    ("update", "want"),
    [
        (0, 5e-7),  # 0.001 x peak
        (250, 5e-4 * (0.001 + 0.999 / 2)),
        (499, 5e-4 * (1 - 0.999 / 500)),
        (500, 5e-4),
        (170 * 586 - 1, 5e-4),
        (170 * 586, 5e-5),
        (200 * 586 - 1, 5e-5),
        (200 * 586, 5e-6),
        (210 * 586 - 1, 5e-6),
    ],
)
def test_steps_of_the_published_pose_run(update: int, want: float) -> None:
    rate = step_rate(update, peak=5e-4, milestones=(170 * 586, 200 * 586))  # 149,813 people in batches of 256
    assert rate == pytest.approx(want, rel=1e-12)


def test_warmup_and_milestones_multiply() -> None:
    assert step_rate(50, peak=1.0, milestones=(10,), warmup_updates=100, warmup_ratio=0) == pytest.approx(0.05)


def test_without_warmup_the_peak_comes_first() -> None:
    assert cosine_rate(0, peak=1.0, total_updates=10, warmup_updates=0, warmup_start=0.1, floor=0.0) == 1.0
    assert step_rate(0, peak=1.0, milestones=(), warmup_updates=0) == 1.0
    assert poly_rate(0, peak=1.0, total_updates=10, warmup_updates=0) == 1.0


@pytest.mark.parametrize(
    ("function", "values", "match"),
    [
        (poly_rate, {"update": -1, "peak": 1.0, "total_updates": 10, "warmup_updates": 0}, "update"),
        (poly_rate, {"update": 0, "peak": 1.0, "total_updates": 10}, "exceed warmup_updates"),
        (step_rate, {"update": 0, "peak": math.nan, "milestones": ()}, "peak"),
        (step_rate, {"update": 0, "peak": 1.0, "milestones": (20, 10)}, "rise"),
        (step_rate, {"update": 0, "peak": 1.0, "milestones": (), "warmup_updates": -1}, "warmup_updates"),
        (
            cosine_rate,
            {"update": 0, "peak": 1.0, "total_updates": 5, "warmup_updates": 5, "warmup_start": 0, "floor": 0},
            "exceed warmup_updates",
        ),
    ],
)
def test_numbers_out_of_range_are_named(function, values: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        function(**values)
