from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrformer.train.state import (
    BEST,
    ResumeError,
    TrainState,
    check_same_run,
    checkpoint_path,
    keep_as,
    read_state,
    save_state,
)


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
    assert content["ema"] is None


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
    before = {"seed": 1, "optim": {"lr": 0.1, "betas": (0.9, 0.999)}, "data": {"root": "a"}}
    check_same_run(before, {"seed": 1, "optim": {"lr": 0.1, "betas": [0.9, 0.999]}, "data": {"root": "b"}}, ("data.",))
    with pytest.raises(ResumeError, match=r"optim\.lr: 0\.1 -> 0\.2"):
        check_same_run(before, before | {"optim": {"lr": 0.2, "betas": (0.9, 0.999)}}, ("data.",))
