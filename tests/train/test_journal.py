from __future__ import annotations

import io
import json
import math
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hrformer.evaluate.protocols import Evaluation, Example
from hrformer.train import journal as module
from hrformer.train import progress
from hrformer.train.journal import Journal, Trackers, check_trackers
from hrformer.train.record import cut_events, read_events

EVALUATION = Evaluation(
    task="pose",
    main="pck@0.2",
    scores={"pck@0.2": 0.5, "AP": -1.0, "people": 3, "per_joint": [{"name": "neck", "joints": 3, "pck": None}]},
    intervals={"pck@0.2": (0.4, 0.6)},
    worst=(Example(index=4, file="a/im4.jpg", score=0.1, prediction=np.zeros((14, 3))),),
    items=3,
    seconds=1.5,
)


def open_journal(out: Path, **options) -> Journal:
    return Journal(out, 20, 8, **{"config": {"seed": 1}} | options)


def train(journal: Journal, first: int, last: int) -> None:
    for update in range(first + 1, last + 1):
        journal.tick()
        if update % 2 == 0:
            journal.log(update, update / 5, {"loss": 1 / update, "lr": 1e-3})


def lines(out: Path) -> list[dict]:
    """Strict JSON: a NaN or Infinity fails."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_whole_run_is_written_line_by_line(tmp_path: Path) -> None:
    with open_journal(tmp_path / "run") as journal:
        journal.start(model="nano")
        train(journal, 0, 4)
        # They are on the disk at once.
        assert [event["update"] for event in lines(tmp_path / "run")] == [0, 2, 4]
        train(journal, 4, 20)
        journal.validation(20, 4.0, EVALUATION, best=True)
        journal.end(best=0.5)
    start, *trained, validation, end = lines(tmp_path / "run")
    assert (start["event"], start["update"], start["resumed"], start["model"]) == ("start", 0, False, "nano")
    assert (start["updates"], start["batch"]) == (20, 8)
    assert start["versions"]["torch"]
    assert [event["update"] for event in trained] == list(range(2, 21, 2))
    assert trained[0]["loss"] == 0.5
    assert trained[1]["images_per_second"] > 0
    assert validation["scores"] == EVALUATION.scores
    assert (validation["main"], validation["value"], validation["best"]) == ("pck@0.2", 0.5, True)
    assert validation["intervals"] == {"pck@0.2": [0.4, 0.6]}
    assert validation["worst"] == [{"index": 4, "file": "a/im4.jpg", "score": 0.1}]
    assert (end["event"], end["state"], end["best"], end["update"]) == ("end", "finished", 0.5, 20)
    assert all(
        datetime.fromisoformat(event["time"]).utcoffset().total_seconds() == 0 for event in lines(tmp_path / "run")
    )


def test_numbers_that_json_lacks_stay_readable(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.log(2, 0.4, {"loss": math.nan, "grad_norm": math.inf, "lr": np.float32(0.5)})
        journal.end()
    event = lines(tmp_path)[0]
    assert (event["loss"], event["grad_norm"], event["lr"]) == ("nan", "inf", 0.5)
    assert math.isnan(float(event["loss"]))
    assert event["images_per_second"] == "nan"
    assert read_events(tmp_path)[0]["grad_norm"] == math.inf


def test_resuming_cuts_off_what_comes_again(tmp_path: Path) -> None:
    def broken_off() -> None:
        with open_journal(tmp_path) as journal:
            journal.start()
            train(journal, 0, 10)
            journal.validation(10, 2.0, EVALUATION, best=True)
            train(journal, 10, 14)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power"):
        broken_off()
    assert lines(tmp_path)[-1]["state"] == "failed"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "upda')
    with open_journal(tmp_path, first_update=10) as journal:
        journal.start()
        train(journal, 10, 20)
        journal.validation(18, 3.6, replace(EVALUATION, scores={"pck@0.2": 0.5001}), best=True)
        journal.validation(20, 4.0, replace(EVALUATION, scores={"pck@0.2": 0.4}), best=False)
        journal.end()
    events = lines(tmp_path)
    trained = [event["update"] for event in events if event["event"] == "train"]
    assert trained == list(range(2, 21, 2))
    starts = [event for event in events if event["event"] == "start"]
    assert [(event["update"], event["resumed"], event["epoch"]) for event in starts] == [(0, False, 0), (10, True, 2)]
    text = (tmp_path / "log.txt").read_text()
    assert "taken up again after update 10" in text
    assert "after update 18: PCK@0.2 50.0 %, best so far (a little less before); 3 items" in text
    assert "validation after update 20: PCK@0.2 40.0 %, the best is 50.0 %; 3 items in 0:00:02" in text


def test_fresh_run_starts_a_fresh_file_but_keeps_the_text(tmp_path: Path) -> None:
    for _ in range(2):
        with open_journal(tmp_path) as journal:
            journal.start()
            train(journal, 0, 20)
            journal.end()
    assert [event["event"] for event in lines(tmp_path)] == ["start", *["train"] * 10, "end"]
    assert (tmp_path / "log.txt").read_text().count("finished after update 20/20") == 2


def test_cutting_leaves_a_file_alone_that_has_nothing_to_cut(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        train(journal, 0, 6)
        journal.end()
    before = (tmp_path / "metrics.jsonl").stat()
    cut_events(tmp_path, 6)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before.st_ino
    cut_events(tmp_path, 4)
    assert [event["update"] for event in read_events(tmp_path)] == [2, 4]
    assert [file.name for file in tmp_path.glob("*.tmp")] == []


@pytest.mark.parametrize(
    ("error", "state", "field", "text"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted", "interrupt"),
        (ValueError("the loss is\nnot finite"), "failed", "error", "ValueError: the loss is not finite"),
        (None, "interrupted", "interrupted", "SIGTERM"),
    ],
)
def test_end_says_what_ended_the_run(
    tmp_path: Path, error: BaseException | None, state: str, field: str, text: str
) -> None:
    with nullcontext() if error is None else pytest.raises(type(error)), open_journal(tmp_path) as journal:
        journal.start()
        train(journal, 0, 4)
        if error is not None:
            raise error
        journal.end(interrupted=text)
    assert [event["event"] for event in lines(tmp_path)].count("end") == 1
    end = lines(tmp_path)[-1]
    assert (end["event"], end["update"], end["state"], end[field]) == ("end", 4, state, text)
    assert f"{state} after update 4/20: {text}" in (tmp_path / "log.txt").read_text()


def test_other_processes_write_and_show_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open_journal(tmp_path, main=False) as journal:
        journal.start()
        train(journal, 0, 4)
        with journal.aside("validation") as count:
            count(1, 3)
        journal.validation(4, 1.0, EVALUATION, best=True)
        journal.note("x")
        journal.end()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_plain_lines_come_every_half_minute_and_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    for part in (module, progress):
        monkeypatch.setattr(part, "monotonic", lambda: now[0])
    with open_journal(tmp_path) as journal:
        for update in range(1, 21):
            now[0] += 4.0
            journal.tick()
            if update % 2 == 0:
                journal.log(update, update / 5, {"loss": 0.25, "main": 0.2, "lr": 1e-4, "grad_norm": 3.0})
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split()[1] for line in err.splitlines()] == ["2/20", "10/20", "18/20", "20/20"]
    assert err.splitlines()[1] == (
        "update 10/20 (50%, epoch 2.00)  loss 0.25  main 0.2  lr 1.0e-4  gradient norm 3  2.0 images/s, 0:00:40 left"
    )
    assert [line[26:] for line in (tmp_path / "log.txt").read_text().splitlines()] == err.splitlines()


def test_validation_does_not_count_in_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    for part in (module, progress):
        monkeypatch.setattr(part, "monotonic", lambda: now[0])
    with open_journal(tmp_path) as journal:
        for update in range(1, 9):
            now[0] += 4.0
            journal.tick()
            if update == 3:
                with journal.aside("validation") as count:
                    now[0] += 500.0
                    count(1, 1)
            if update == 5:
                now[0] += 500.0
                journal.validation(5, 1.0, EVALUATION, best=True)
        journal.log(8, 2.0, {"loss": 1.0})
    assert lines(tmp_path)[-1]["images_per_second"] == 2.0


def test_terminal_shows_bars_with_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    options = {"file": screen, "force_terminal": True, "width": 120, "color_system": None}
    monkeypatch.setattr(progress, "Console", lambda stderr, quiet: Console(quiet=quiet, **options))
    with open_journal(tmp_path) as journal:
        for update in range(1, 21):
            journal.tick()
            journal.log(update, update / 5, {"loss": 0.125, "lr": 1e-4})
        with journal.aside("validation") as count:
            count(3, 7)
            journal.note("hello")
            time.sleep(0.6)  # the screen is drawn four times a second
    text = screen.getvalue()
    wanted = ("training", "20/20", "100%", "images/s", "0:00:00 left", "loss 0.125  lr 1.0e-4", "validation", "3/7")
    assert [part for part in wanted if part not in text] == []
    assert "hello" in text
    assert "update 20/20" not in text
    assert "update 20/20" in (tmp_path / "log.txt").read_text()


def test_tensorboard_gets_scalars_and_a_resumed_run_hides_what_comes_again(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate, from the extra 'train'")
    pytest.importorskip("tensorboard", reason="needs tensorboard, from the extra 'train'")
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((0, 12), (8, 20)):
        places = ProjectConfiguration(project_dir=str(tmp_path), logging_dir=str(tmp_path / "tensorboard"))
        accelerator = accelerate.Accelerator(cpu=True, log_with=["tensorboard"], project_config=places)
        options = {"trackers": ["tensorboard"], "accelerator": accelerator, "first_update": first}
        with open_journal(tmp_path, **options) as journal:
            train(journal, first, last)
            journal.validation(last, last / 5, EVALUATION, best=True)
            journal.end()
        # accelerate keeps one state per process for ever.
        AcceleratorState._reset_state(reset_partial_state=True)
    record = EventAccumulator(str(tmp_path / "tensorboard" / "hrformer")).Reload()
    assert [event.step for event in record.Scalars("train/loss")] == list(range(2, 21, 2))
    assert [event.step for event in record.Scalars("validation/pck_0.2")] == [20]
    assert record.Scalars("train/loss")[-1].value == pytest.approx(1 / 20)


@pytest.mark.parametrize(
    ("task", "main", "counted", "said"),
    [
        # Of the three quarters that are sky, over the two classes that occur.
        (
            "segmentation",
            "mean_iou",
            "pixels",
            "mean IoU 50.0 % before training, 37.5 % if everything were sky; 3 items",
        ),
        ("classification", "top1", "images", "accuracy 50.0 % before training, 75.0 % if everything were sky; 3 items"),
    ],
)
def test_score_before_training_stands_beside_that_of_one_answer(
    task: str, main: str, counted: str, said: str, tmp_path: Path
) -> None:
    rows = [{"name": name, counted: count} for name, count in (("road", 1), ("sky", 3), ("car", 0))]
    with open_journal(tmp_path) as journal:
        journal.start()
        journal.validation(
            0, 0.0, replace(EVALUATION, task=task, main=main, scores={main: 0.5, "per_class": rows}), best=True
        )
    assert said in (tmp_path / "log.txt").read_text()


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
    monkeypatch.setattr(module, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wandb", "'wandb' needs a package that is not installed: pip install wandb"),
        ("tensorbord", "unknown tracker 'tensorbord'; there are tensorboard, wandb, mlflow$"),
    ],
)
def test_trackers_that_cannot_be_used_are_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
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
