"""``benchmarks/gpu.py`` from end to end on a CPU, where only what a borrowed device has is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from bare_environment import REPOSITORY, environment
from hrformer.kernels.launch import KERNELS, SOUND_ASSEMBLER
from hrformer.models.weight_files import read_weights
from hrformer.models.zoo import create_model
from hrformer.recipes.small_sets import CIFAR10_CLASSES

pytest.importorskip("triton")

STAGES = ("machine", "networks", "speed", "profile", "tests", "train")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folders of CIFAR-10 with a few pictures of noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for name in CIFAR10_CLASSES:
            folder = tmp_path / "data" / "cifar10" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return tmp_path / "data"


def run_script(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", *options]
    return subprocess.run(
        [*command, "--out", str(folder / "out")],
        cwd=folder,
        env=environment(folder) | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def summary(folder: Path) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((folder / "out" / "gpu.json").read_text())["stages"]
    return content


def cases(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    content: dict[str, Any] = json.loads((folder / "out" / "stages" / f"{stage}.json").read_text())
    assert content["running"] == ""
    found: dict[str, dict[str, Any]] = content["cases"]
    return found


@pytest.mark.slow
def test_everything_runs_on_a_processor_in_a_minute(tmp_path: Path, pictures: Path) -> None:
    """On a busy machine the minute may be over before the last stages; then they say so."""
    finished = run_script(tmp_path, "--minutes", "1", "--train", "smoke_classification", "--data", str(pictures))
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert finished.returncode == 0, finished.stdout + finished.stderr + page
    found = summary(tmp_path)
    assert tuple(found) == STAGES
    for name, said in found.items():
        assert said["state"] in ("ok", "skipped", "cut"), page
        assert said["state"] == "ok" or said["why"], page
        if said["state"] == "ok":
            entries = cases(tmp_path, name).values()
            assert all(entry["state"] == "ok" or entry["why"] for entry in entries), page
    assert found["machine"]["state"] == "ok", page
    if found["train"]["state"] == "ok":
        weights = tmp_path / "out" / "weights" / "smoke_classification.safetensors"
        assert weights.stat().st_size <= 16_000_000
        assert read_weights(weights).tensors
        assert cases(tmp_path, "train")["smoke_classification"]["facts"]["update"] == 2


BROKEN = {
    "dies": ("import os\nprint('the last word', flush=True)\nos._exit(7)\n", "exit status 7"),
    "hangs": ("import time\nprint('the last word', flush=True)\ntime.sleep(1000)\n", "stopped at its limit"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_what_dies_or_hangs_is_a_line_and_the_next_stage_runs(kind: str, tmp_path: Path) -> None:
    """By a checkout of the official code whose file does so when it is imported."""
    text, why = BROKEN[kind]
    file = tmp_path / "checkout" / "pose" / "mmpose" / "models" / "backbones" / "hrt.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    options = ("--stages", "speed,train", "--limit", "30", "--peer", f"official={tmp_path / 'checkout'}")
    finished = run_script(tmp_path, "--minutes", "3", *options)
    assert finished.returncode == 0, finished.stderr
    found, page = summary(tmp_path), (tmp_path / "out" / "gpu.md").read_text()
    assert found["speed"]["state"] == "failed"
    assert why in found["speed"]["why"], page
    assert "the last word" in page
    assert found["train"] == found["train"] | {"state": "skipped", "why": "no recipe was named by --train"}
    first = next(iter(cases(tmp_path, "speed").values()))
    assert (first["state"], first["died"]) == ("failed", True)


@pytest.mark.slow
def test_an_error_is_a_line_with_its_log(tmp_path: Path) -> None:
    options = ("--stages", "train", "--train", "smoke_classification", "--data", str(tmp_path))
    finished = run_script(tmp_path, "--minutes", "3", *options)
    assert finished.returncode == 0, finished.stderr
    assert summary(tmp_path)["train"]["why"] == "1 of 1 cases failed"
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "DataError" in page
    assert "The log of `train` ends:" in page


@pytest.mark.slow
def test_an_unknown_kernel_ends_the_run(tmp_path: Path) -> None:
    finished = run_script(tmp_path, "--stages", "networks,speed", HRFORMER_TRITON_OFF="window_blok")
    assert finished.returncode == 2
    assert f"HRFORMER_TRITON_OFF names window_blok; there are {', '.join(KERNELS)}" in finished.stderr
    assert tuple(summary(tmp_path)) == ("networks",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stages", "machine,sped"], "no stage 'sped'; there are machine, networks"),
        (["--train", "lspet_tiny"], "--train needs --data"),
    ],
)
def test_wrong_options_are_named(options: list[str], expected: str, tmp_path: Path) -> None:
    finished = run_script(tmp_path, *options)
    assert finished.returncode == 2
    assert expected in finished.stderr


@pytest.fixture
def tools() -> Any:
    spec = spec_from_file_location("gpu_tools", REPOSITORY / "benchmarks" / "gpu_tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_ptxas(folder: Path, version: str) -> Path:
    path = folder / "bin" / "ptxas"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.86'\n")
    path.chmod(0o755)
    return path


def test_the_first_sound_assembler_is_taken(tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.SOUND == SOUND_ASSEMBLER
    monkeypatch.setattr(tools, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "wheels")])
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    old, new = fake_ptxas(tmp_path / "old", "12.8"), fake_ptxas(tmp_path / "wheels" / "nvidia" / "cu13", "13.1")
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(old))
    monkeypatch.setenv("CUDA_HOME", str(old.parents[1]))
    assert tools.assembler() == (new, f"{new}, 13.1") or tools.assembler()[0].parts[1:3] == ("usr", "local")
    new.unlink()
    found, line = tools.assembler()
    assert found is None or found.parts[1:3] == ("usr", "local")
    assert found is not None or f"none of at least 12.9, so attention runs as three kernels ({old} is 12.8)" == line


def test_weights_fit_into_files_of_16_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    write_small = import_module("gpu_train").write_small
    model = create_model("hrnet_w18", "classification")
    run = SimpleNamespace(model_to_keep=lambda: model)
    assert write_small(run, tmp_path / "large.safetensors") == "large.1-of-3.safetensors and 2 more"
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    assert max(file.stat().st_size for file in files) <= 16_000_000
    found = {name: value for file in files for name, value in read_weights(file).tensors.items()}
    assert set(found) == set(model.state_dict())
