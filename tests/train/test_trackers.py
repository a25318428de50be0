from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hrformer.train import journal
from hrformer.train.journal import Trackers, check_trackers


class Accelerator:
    """Keeps what it is told; as accelerate's, as far as trackers use it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.trackers = [SimpleNamespace(finish=lambda: self.calls.append(("finish",)))]

    def init_trackers(self, project: str, config: Any, init_kwargs: Any) -> None:
        self.calls.append(("init", project, config, init_kwargs))

    def get_tracker(self, name: str, unwrap: bool) -> Any:
        assert (name, unwrap) == ("mlflow", True)
        return SimpleNamespace(info=SimpleNamespace(run_id="run-7"))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", values, step))


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wandb", "'wandb' needs a package that is not installed: pip install wandb"),
        ("tensorbord", "unknown tracker 'tensorbord'; there are tensorboard, wandb, mlflow$"),
    ],
)
def test_trackers_that_cannot_be_used_are_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=said):
        check_trackers([name])


def test_without_trackers_nothing_happens(tmp_path: Path) -> None:
    accelerator = Accelerator()
    none = Trackers(accelerator, [], tmp_path)
    none.start(0, {})
    none.log(1, "train", {"loss": 1.0})
    none.finish()
    assert accelerator.calls == []
    assert not list(tmp_path.iterdir())


def test_settings_are_flat_scalars_and_only_finite_numbers_are_sent(all_installed: None, tmp_path: Path) -> None:
    accelerator = Accelerator()
    config = {"model": {"name": "nano", "frozen": ["stem", "stage1"], "window": None}, "seed": 3}
    sender = Trackers(accelerator, ["tensorboard"], tmp_path)
    sender.start(0, config)
    sender.log(5, "validation", {"pck@0.2": 0.5, "AP": float("nan"), "per_joint": [], "people": 3, "yes": True})
    sender.log(6, "train", {"loss": float("inf")})
    sender.finish()
    settings = {"model.name": "nano", "model.frozen": "stem, stage1", "model.window": "", "seed": 3}
    assert accelerator.calls == [
        ("init", "hrformer", settings, {"tensorboard": {}}),
        ("log", {"validation/pck_0.2": 0.5, "validation/people": 3.0}, 5),
        ("finish",),
    ]
    assert accelerator.trackers == []


def test_resumed_run_goes_on_in_the_same_records(all_installed: None, tmp_path: Path) -> None:
    names = ["tensorboard", "wandb", "mlflow"]
    first, second = Accelerator(), Accelerator()
    Trackers(first, names, tmp_path).start(0, {})
    ids = json.loads((tmp_path / "trackers.json").read_text())
    Trackers(second, names, tmp_path).start(40, {"seed": 1})
    assert json.loads((tmp_path / "trackers.json").read_text()) == ids
    (_, _, _, before), (_, _, settings, after) = first.calls[0], second.calls[0]
    assert settings is None
    assert before["mlflow"]["run_id"] is None
    assert after["mlflow"]["run_id"] == ids["mlflow"] == "run-7"
    assert before["wandb"]["id"] == after["wandb"]["id"] == ids["wandb"]
    assert after["tensorboard"] == {"purge_step": 41}


def test_fresh_run_in_a_used_directory_gets_records_of_its_own(all_installed: None, tmp_path: Path) -> None:
    Trackers(Accelerator(), ["wandb"], tmp_path).start(0, {})
    before = json.loads((tmp_path / "trackers.json").read_text())
    Trackers(Accelerator(), ["wandb"], tmp_path).start(0, {})
    assert json.loads((tmp_path / "trackers.json").read_text()) != before
