"""The folder of a run: its lock, its disk, checkpoints of this and other versions, and what it ran on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

import hrformer
from hrformer.checkpoints.checkpoint import load_model
from hrformer.fast.x86.library import find_library
from hrformer.train import run_folder as module
from hrformer.train.config import ClassificationRun, OptimConfig, PoseRun
from hrformer.train.config_file import to_dict
from hrformer.train.loop import train
from hrformer.train.run_folder import (
    BEST,
    LOCK,
    ResumeError,
    TrainState,
    check_same_run,
    checkpoint_path,
    keep_as,
    read_state,
    require_disk,
    run_lock,
    save_state,
    versions,
    write_versions,
)
from training import longer

HOLDS = """
import sys
from pathlib import Path
from hrformer.train.run_folder import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

Usage = namedtuple("Usage", "total used free")


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(
    classification_run: ClassificationRun, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", longer(classification_run, 3)
    first = subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    for resume in (False, True):
        with pytest.raises(ValueError, match=rf"run: another run is at work in this folder \(process {first.pid} on "):
            train(config, out, resume=resume)
    # However it ends, the next run begins at once.
    first.kill()
    first.communicate()
    assert (out / LOCK).exists()
    assert train(config, out).update == 3
    assert not (out / LOCK).exists()


def test_a_folder_that_stays_empty_is_gone_again(tmp_path: Path) -> None:
    with run_lock(tmp_path / "made"):
        assert (tmp_path / "made" / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "made").exists()
    with run_lock(tmp_path):
        pass
    assert tmp_path.exists()


def test_file_systems_without_locks_go_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("hrformer.train.run_folder.fcntl.lockf", refuse)
    with run_lock(tmp_path):
        pass


def test_a_full_disk_is_named_before_the_first_update(
    classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = longer(classification_run, 3)
    # 1,481,301 parameters of 4 bytes: 3 checkpoints of weights and two moments, 2 files of weights, and buffers.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 60_000_000))
    out = tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"run: its disk has 60 MB free, the checkpoints of this run need about 6\d MB"
    ):
        train(config, out)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"need about 8\d MB"):
        train(replace(config, ema_decay=0.9), out)
    monkeypatch.undo()
    train(config, out)
    files = [*out.glob("checkpoints/*"), *out.glob("*.safetensors")]
    held = sum({file.stat().st_ino: file.stat().st_size for file in files}.values())
    model, _ = load_model(out / "last.safetensors")
    # What is there already is replaced.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 70_000_000 - held))
    require_disk(out, model, averaged=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 60_000_000 - held))
    with pytest.raises(ValueError, match="run: its disk has"):
        require_disk(out, model, averaged=False)


def saved(out: Path, update: int) -> None:
    state = TrainState(update=update, best=0.5, best_update=2, window={"loss": 0.1 + 0.2, "count": 1.0})
    save_state(
        out, state, config={"seed": 1}, model={"w": torch.full((3,), update)}, optimizer={"state": {0: {"step": 4}}}
    )


def test_round_trip(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    state, content = read_state(checkpoint_path(tmp_path))
    assert state == TrainState(update=7, best=0.5, best_update=2, window={"loss": 0.1 + 0.2, "count": 1.0})
    assert torch.equal(content["model"]["w"], torch.full((3,), 7))
    assert content["optimizer"] == {"state": {0: {"step": 4}}}


def test_kept_copies_do_not_follow_the_last(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    keep_as(tmp_path, BEST)
    saved(tmp_path, 8)
    assert read_state(checkpoint_path(tmp_path, BEST))[0].update == 7
    assert read_state(checkpoint_path(tmp_path))[0].update == 8
    assert sorted(path.name for path in checkpoint_path(tmp_path).parent.iterdir()) == ["best.pt", "last.pt"]


def test_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 7)

    def broken(content: object, part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="no space"):
        saved(tmp_path, 8)
    assert read_state(checkpoint_path(tmp_path))[0].update == 7
    assert [path.name for path in checkpoint_path(tmp_path).parent.iterdir()] == ["last.pt"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="start the run without --resume"):
        read_state(checkpoint_path(tmp_path))


def test_damaged_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    path = checkpoint_path(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ResumeError, match="cannot be read as a training checkpoint"):
        read_state(path)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path)
    path.parent.mkdir()
    torch.save({"format": 1, "state": Path("x")}, path)
    with pytest.raises(ResumeError, match="cannot be read"):
        read_state(path)


def test_other_settings_are_another_run() -> None:
    path, before = Path("last.pt"), PoseRun(optim=OptimConfig(lr=0.1))
    check_same_run(path, to_dict(before), replace(before, data=replace(before.data, root=Path("elsewhere"))))
    with pytest.raises(ResumeError, match=r"optim\.lr: 0\.1 -> 0\.2"):
        check_same_run(path, to_dict(before), replace(before, optim=OptimConfig(lr=0.2)))


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


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["hrformer"] == hrformer.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"] == np.__version__
    assert {"torchvision", "timm", "opencv", "platform"} <= found.keys()
    assert found["cpu"]
    assert found["cores"] >= 1
    library, reason = find_library()
    assert found["kernels"] == (library.instruction_set if library else reason)
    assert len(found["gpus"]) == torch.cuda.device_count()
    age = datetime.now(UTC) - datetime.fromisoformat(found["date"])
    assert timedelta(seconds=-1) <= age < timedelta(minutes=1)


def test_versions_are_written(tmp_path: Path) -> None:
    write_versions(tmp_path / "run")
    found = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert found | {"date": ""} == versions() | {"date": ""}
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["versions.json"]


def test_absent_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("torch", "no-such-package-anywhere"))
    found = versions()
    assert "torch" in found
    assert "no-such-package-anywhere" not in found


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_that_of_the_checkout_and_says_whether_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    folder = tmp_path / "package" / "train"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    git("init", "-q")
    assert module._commit(folder) is None  # lies in a checkout that does not track it
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = module._commit(folder)
    assert commit == git("rev-parse", "HEAD")
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    (tmp_path / "package" / "new.py").touch()
    assert module._commit(folder) == f"{commit} with changes"


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions()["commit"] is None
