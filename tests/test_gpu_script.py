"""``benchmarks/gpu.py`` from end to end on a CPU, where only what a borrowed device has is installed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bare_environment import REPOSITORY, environment
from hrformer.checkpoints.weight_files import read_weights
from hrformer.fast.triton.launch import KERNELS, SOUND_ASSEMBLER
from hrformer.recipes.small_sets import CIFAR10_CLASSES
from hrformer.train.config import ScheduleConfig
from hrformer.zoo import create_model

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


def start_script(folder: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny"]
    return subprocess.Popen(
        [*command, "--out", str(folder / "out"), *options],
        cwd=folder,
        env=environment(folder) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    process = start_script(folder, *options, **variables)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def summary(folder: Path) -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads((folder / "out" / "gpu.json").read_text())["stages"]
    return content


def cases(folder: Path, stage: str) -> dict[str, dict[str, Any]]:
    content: dict[str, Any] = json.loads((folder / "out" / "stages" / f"{stage}.json").read_text())
    assert content["running"] == ""
    found: dict[str, dict[str, Any]] = content["cases"]
    return found


@pytest.mark.slow
def test_everything_runs_on_a_processor(tmp_path: Path, pictures: Path) -> None:
    """With time for a busy machine; alone it takes less than a minute."""
    finished = run_script(tmp_path, "--minutes", "6", "--train", "smoke_classification", "--data", str(pictures))
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert finished.returncode == 0, finished.stdout + finished.stderr + page
    found = summary(tmp_path)
    assert {name: said["state"] for name, said in found.items()} == dict.fromkeys(STAGES, "ok"), page
    entries = {stage: cases(tmp_path, stage) for stage in STAGES}
    states = {name: entry["state"] for stage in STAGES for name, entry in entries[stage].items()}
    # There is no device to check, but the forward that would be checked runs.
    assert states == dict.fromkeys(states, "ok") | {"memcheck of a forward": "skipped"}, page
    figures = {name: entry["facts"] for name, entry in entries["networks"].items()}
    assert all(0 < share <= 1 for share in figures["hrformer_speck pose 32x32 fp16"].values())
    assert 0 < figures["gradients of hrformer_speck pose"]["error/allowed"] < 0.8, "rounding alone fills its bounds"
    for unit in ("GB/s", "TFLOP/s", "batch 1, graph", "images/s", "MiB", "ours: window_block", "6 passed"):
        assert unit in page
    for kernel in ("attention", "depthwise"):
        assert f"ours: {kernel}_backward" in page
    assert "failure" not in page
    weights = tmp_path / "out" / "weights" / "smoke_classification.safetensors"
    assert weights.stat().st_size <= 16_000_000
    assert read_weights(weights).tensors
    assert entries["train"]["smoke_classification"]["facts"]["update"] == 2


TORCH = """
import os, time


class cuda:
    is_available = staticmethod(lambda: False)


class Number:
    to = __matmul__ = lambda self, other: self


def zeros(*size, **options):
    print("the last word", flush=True)
    {end}


device, randn = lambda name: cuda, lambda *size, **options: Number()
cuda.type, bfloat16, uint8, __version__ = "cpu", None, None, "0"
"""
"""What the stage "machine" asks of PyTorch; its second case ends badly."""


@pytest.mark.parametrize(
    ("end", "why", "later"),
    [
        ("os._exit(7)", "copy, read and written: exit status 7", "ok"),
        ("os.kill(os.getpid(), 11)", "copy, read and written: ended by SIGSEGV", "ok"),
        ("time.sleep(1000)", "copy, read and written: stopped at its limit", None),
    ],
    ids=["dies", "crashes", "hangs"],
)
def test_what_dies_or_hangs_is_a_line_and_the_next_one_runs(
    end: str, why: str, later: str | None, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(TORCH.format(end=end))
    options = ("--minutes", "3", "--stages", "machine,train", "--limit", "8" if later is None else "60")
    finished = run_script(tmp_path, *options)
    assert finished.returncode == 0, finished.stderr
    found, page = summary(tmp_path), (tmp_path / "out" / "gpu.md").read_text()
    assert found["machine"]["state"] == "failed"
    assert found["machine"]["why"].startswith(why), page
    assert "the last word" in page
    device, copy, *product = cases(tmp_path, "machine").values()
    assert (device["state"], copy["state"], copy["died"]) == ("ok", "failed", True)
    assert [entry["state"] for entry in product] == ([] if later is None else [later])
    assert found["train"] == found["train"] | {"state": "skipped", "why": "no recipe was named by --train"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_nothing_goes_on_after_the_run(number: signal.Signals, tmp_path: Path) -> None:
    """A stage that outlives its run would keep the device."""
    (tmp_path / "torch.py").write_text(TORCH.format(end="open('stage', 'w').write(str(os.getpid())); time.sleep(1000)"))
    process = start_script(tmp_path, "--minutes", "3", "--stages", "machine,train", "--limit", "100")
    stage = tmp_path / "stage"
    wait_for(lambda: stage.is_file() and stage.read_text() != "")
    process.send_signal(number)
    _, errors = process.communicate()
    wait_for(lambda: not Path("/proc", stage.read_text()).exists())
    assert errors == ""
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        page = (tmp_path / "out" / "gpu.md").read_text()
        assert "the run was interrupted" in page
        assert "copy, read and written" in page


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_group_whose_process_dies_is_measured_one_by_one(tmp_path: Path) -> None:
    """By a checkout of the official code whose file ends the process when it is imported."""
    file = tmp_path / "checkout" / "pose" / "mmpose" / "models" / "backbones" / "hrt.py"
    file.parent.mkdir(parents=True)
    file.write_text("import os\nos._exit(7)\n")
    options = ("--stages", "speed", "--limit", "60", "--peer", f"official={tmp_path / 'checkout'}")
    finished = run_script(tmp_path, "--minutes", "3", *options)
    assert finished.returncode == 0, finished.stderr
    said = summary(tmp_path)["speed"]
    assert said["state"] == "failed"
    assert "exit status 7" in said["why"]
    group, first, *_ = cases(tmp_path, "speed").items()
    assert (group[1]["state"], group[1]["died"]) == ("failed", True)
    assert first[0] == f"{group[0]}: hrformer_speck, eager"
    assert first[1]["state"] == "ok"


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
@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ((), {"HRFORMER_TRITON_OFF": "window_blok"}, f"names window_blok; there are {', '.join(KERNELS)}"),
        (("--peer", "official=."), {}, "no checkout of"),
        (("--train", "lspet_tin", "--data", "."), {}, "no recipe is called 'lspet_tin'"),
    ],
)
def test_what_is_unknown_ends_the_run(
    options: tuple[str, ...], variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    finished = run_script(tmp_path, "--stages", "networks,speed", *options, **variables)
    assert finished.returncode == 2
    assert expected in finished.stderr
    assert tuple(summary(tmp_path)) == ("networks",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stages", "machine,sped"], "no stage 'sped'; there are machine, networks"),
        (["--train", "lspet_tiny"], "--train needs --data"),
        (["--train", "lspet_tiny", "--data", "nowhere"], "--data: there is no folder nowhere"),
        (["--peer", "official"], "wants official=FOLDER"),
        (["--peer", "official=nowhere"], "wants official=FOLDER"),
        (["--out", __file__], "--out must be a folder"),
        (["--minutes", "nan"], "must be a number above 0, got 'nan'"),
        (["--limit", "-1"], "must be a number above 0, got '-1'"),
    ],
)
def test_wrong_options_are_named(options: list[str], expected: str, tmp_path: Path) -> None:
    finished = run_script(tmp_path, *options)
    assert finished.returncode == 2
    assert expected in finished.stderr


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the script by name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return import_module


def fake_ptxas(folder: Path, version: str) -> Path:
    path = folder / "bin" / "ptxas"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.86'\n")
    path.chmod(0o755)
    return path


def test_the_first_sound_assembler_is_taken(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = script("gpu_host")
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


@pytest.mark.slow
def test_training_ends_with_its_weights_when_its_time_is_over(
    script: Callable[[str], Any], tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages, record = script("gpu_stages"), script("gpu_record").Record(tmp_path / "train.json", lambda: True, 600)
    name, options = "smoke_classification", SimpleNamespace(tiny=True, data=pictures, out=tmp_path)
    monkeypatch.setattr(stages.gpu_device, "SPECK", "hrformer_nano")
    monkeypatch.setattr(stages, "ScheduleConfig", lambda updates: ScheduleConfig(updates=1_000_000))
    seconds = stages.LAST_SECONDS + 8
    record.run(name, lambda: stages._train(name, options, torch.device("cpu"), record, seconds))
    entry = record.cases[name]
    assert entry["state"] == "ok", entry
    assert entry["facts"]["ended"] == "SIGTERM"
    assert entry["facts"]["update"] >= 1
    assert read_weights(tmp_path / "weights" / f"{name}.safetensors").tensors


def test_weights_fit_into_files_of_16_megabytes(script: Callable[[str], Any], tmp_path: Path) -> None:
    write_small = script("gpu_stages").write_small
    model = create_model("hrnet_w18", "classification")
    run = SimpleNamespace(model_to_keep=lambda: model)
    assert write_small(run, tmp_path / "large.safetensors") == "large.1-of-3.safetensors and 2 more"
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 3
    assert max(file.stat().st_size for file in files) <= 16_000_000
    found = {name: value for file in files for name, value in read_weights(file).tensors.items()}
    assert set(found) == set(model.state_dict())
