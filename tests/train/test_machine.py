"""Memory of the GPU, and training without accelerate: the same numbers as with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hrformer.checkpoints.weight_files import read_weights
from hrformer.train.config import AnyRun, LogConfig, RuntimeConfig
from hrformer.train.loop import train
from hrformer.train.machine import Machine, find_batch_size
from hrformer.train.run import Run

GPU = torch.device("cuda")


def probe_with_room_for(limit: int, tried: list[int]):
    def probe(count: int) -> None:
        tried.append(count)
        if count > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return probe


def test_largest_part_that_fits() -> None:
    tried: list[int] = []
    assert find_batch_size(24, probe_with_room_for(7, tried), GPU) == 6
    assert tried == [24, 12, 8, 6]


def test_everything_at_once_without_a_gpu() -> None:
    tried: list[int] = []
    assert find_batch_size(24, probe_with_room_for(7, tried), torch.device("cpu")) == 24
    assert tried == []


def test_nothing_fits() -> None:
    with pytest.raises(ValueError, match="not even one sample fits"):
        find_batch_size(4, probe_with_room_for(0, []), GPU)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def broken(count: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        find_batch_size(4, broken, GPU)


@pytest.fixture
def without_accelerate(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setitem(sys.modules, "accelerate", None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_those_of_accelerate(
    precision: str, classification_run: AnyRun, tmp_path: Path, without_accelerate: Callable[[], None]
) -> None:
    pytest.importorskip("accelerate")
    config = replace(
        classification_run,
        runtime=replace(classification_run.runtime, precision=precision),
        optim=replace(classification_run.optim, clip_norm=1.0),
        ema_decay=0.9,
    )
    train(config, tmp_path / "with")
    without_accelerate()
    updates: list[int] = []

    def note(run: Run) -> None:
        updates.append(run.state.update)

    result = train(config, tmp_path / "without", saved=note)
    assert updates == [2, 3, 4, 6]
    assert result.update == 6
    wanted, found = (read_weights(tmp_path / name / "last.safetensors").tensors for name in ("with", "without"))
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_a_run_is_taken_up_again(
    classification_run: AnyRun, tmp_path: Path, without_accelerate: Callable[[], None]
) -> None:
    without_accelerate()
    train(classification_run, tmp_path)
    (tmp_path / "last.safetensors").unlink()
    assert train(classification_run, tmp_path, resume=True).update == 6
    assert (tmp_path / "last.safetensors").exists()


@pytest.mark.parametrize(("trackers", "world"), [(("tensorboard",), "1"), ((), "2")])
def test_trackers_and_processes_need_accelerate(
    trackers: tuple[str, ...], world: str, tmp_path: Path, without_accelerate, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_accelerate()
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ImportError, match=r"needs accelerate: pip install 'hrformer\[train\]'"):
        Machine(RuntimeConfig(cpu=True), LogConfig(trackers=trackers), tmp_path)


def test_fp16_needs_a_gpu(tmp_path: Path, without_accelerate: Callable[[], None]) -> None:
    without_accelerate()
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        Machine(RuntimeConfig(cpu=True, precision="fp16"), LogConfig(trackers=()), tmp_path)
