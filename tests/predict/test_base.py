from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hrformer.models.model import VisionModel
from hrformer.predict.base import free_memory, run_in_batches
from hrformer.predict.predictors import predictor_for


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_jobs_come_back_in_order_with_their_own_answers(batch_size: int) -> None:
    counts = [2, 0, 5, 1, 0, 0, 4, 0]
    sizes = []

    def run(batch: torch.Tensor) -> list[float]:
        sizes.append(len(batch))
        return batch[:, 0].tolist()

    jobs = [(n, [torch.tensor([10.0 * n + k]) for k in range(count)]) for n, count in enumerate(counts)]
    answers = list(run_in_batches(jobs, run, batch_size))
    assert answers == [(n, [10.0 * n + k for k in range(count)]) for n, count in enumerate(counts)]
    assert sum(sizes) == 12
    if batch_size < 4:
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)


def test_shapes_are_not_mixed() -> None:
    shapes = []

    def run(batch: torch.Tensor) -> list[int]:
        shapes.append(tuple(batch.shape))
        return [0] * len(batch)

    parts = [torch.zeros(2), torch.zeros(2), torch.zeros(3), torch.zeros(2)]
    assert len(next(run_in_batches([(0, parts)], run, 8))[1]) == 4
    assert shapes == [(2, 2), (1, 3), (1, 2)]


def test_jobs_are_taken_only_as_needed() -> None:
    taken = 0

    def jobs() -> Iterator[tuple[int, list[torch.Tensor]]]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            # One part first, then none: the first job must not hold back all the others.
            yield number, [torch.zeros(1)] if number == 0 else []

    results = run_in_batches(jobs(), lambda batch: [0] * len(batch), 4)
    assert next(results) == (0, [0])
    assert taken <= 10
    assert [number for number, _ in results] == list(range(1, 1000))


@pytest.mark.parametrize("task", ["classification", "pose", "segmentation"])
def test_bf16_without_kernels_is_autocast(task: str, request: pytest.FixtureRequest, noise: np.ndarray) -> None:
    model: VisionModel = request.getfixturevalue(f"{task}_model")
    seen: list[tuple[bool, torch.dtype]] = []

    def look(_: object, __: object, output: torch.Tensor) -> None:
        seen.append((torch.is_autocast_enabled("cpu"), output.dtype))

    options = {"short_side": 64} if task == "segmentation" else {"detector": "picture"} if task == "pose" else {}
    hook = model.backbone.conv1.register_forward_hook(look)
    try:
        for precision in ("fp32", "bf16", "auto"):
            predictor = predictor_for(model, device="cpu", precision=precision)
            predictor(noise, **options, flip=False)
            assert predictor.precision == ("bf16" if precision == "bf16" else "fp32")
        with torch.autocast("cpu", torch.bfloat16):  # of the caller
            predictor_for(model, device="cpu")(noise, **options, flip=False)
    finally:
        hook.remove()
    assert seen == [(False, torch.float32), (True, torch.bfloat16), (False, torch.float32), (True, torch.bfloat16)]
    with pytest.raises(ValueError, match="must be 'fp32', 'bf16' or 'auto', got 'half'"):
        predictor_for(model, device="cpu", precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not both"):
        predictor_for(model, device="cpu", dtype=torch.bfloat16, precision="bf16")


def test_half_weights_are_half_precision(classification_model: VisionModel) -> None:
    try:
        assert predictor_for(classification_model, device="cpu", dtype=torch.bfloat16).precision == "bf16"
    finally:
        classification_model.float()


@pytest.mark.parametrize(
    ("limit", "free"),
    [
        ("3000000", 3e6 - 2.5e6 + 1e6),  # what the container may still take, with its dropped file contents
        ("900000", 0),
        ("99000000", 4096 * 1024),
        ("max", 4096 * 1024),
        (None, 4096 * 1024),
    ],
)
def test_free_memory_heeds_the_limit_of_a_container(limit: str | None, free: float, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8192 kB\nMemAvailable: 4096 kB\n")
    if limit is not None:
        group = tmp_path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("2500000\n")
        (group / "memory.stat").write_text("anon 5\ninactive_file 1000000\n")
    assert free_memory(torch.device("cpu"), tmp_path) == free
