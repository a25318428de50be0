"""The loop on real pictures: every task learns, killed runs repeat themselves, processes change nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import fork, train_saved
from hrformer import zoo
from hrformer.checkpoints.checkpoint import load_model
from hrformer.data.set_types import DataError
from hrformer.train import loop, run
from hrformer.train.config import AnyRun, BatchConfig, ClassificationRun, LogConfig, PoseRun, SaveConfig
from hrformer.train.config_file import write_config
from hrformer.train.control import NonFiniteLoss
from hrformer.train.loop import train
from hrformer.train.run_folder import ResumeError, checkpoint_path, read_state
from training import longer

TASKS = ("classification", "pose", "segmentation")

# Runs a saved configuration in a process of its own, so that it can be killed.
SCRIPT = """
import sys
from pathlib import Path
from hrformer.train.config_file import read_config
from hrformer.train.loop import train
result = train(read_config(Path(sys.argv[1])), Path(sys.argv[2]), resume=True)
print("interrupted:", result.interrupted)
"""


def lines(out: Path, event: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == event]


def losses(out: Path) -> dict[int, float]:
    return {row["update"]: row["loss"] for row in lines(out, "train")}


def start(config: AnyRun, folder: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    write_config(config, folder / "run.json")
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder / "run.json"), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("task", TASKS)
def test_run_directory(task: str, any_run: Callable[[str], AnyRun], tmp_path: Path) -> None:
    config = any_run(task)
    result = train(config, tmp_path / "run")
    assert (result.update, result.interrupted) == (6, "")
    assert sorted(losses(result.out)) == [1, 2, 3, 4, 5, 6]
    assert [row["update"] for row in lines(result.out, "validation")] == [3, 6]
    assert result.best == max(row["scores"][result.main] for row in lines(result.out, "validation"))
    for name in (
        "config.json",
        "versions.json",
        "log.txt",
        "summary.html",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
    ):
        assert (result.out / name).stat().st_size > 0, name
    model, _ = load_model(result.out / "best.safetensors")
    assert model.task == task
    assert model.info.input_spec.size == config.augment.size
    assert model.info.num_classes == {"classification": 3, "pose": 14, "segmentation": 11}[task]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns(task: str, any_run: Callable[[str], AnyRun], tmp_path: Path) -> None:
    config = longer(any_run(task), 30)
    config = replace(config, validate_updates=30, optim=replace(config.optim, lr=3e-3))
    if isinstance(config, ClassificationRun):
        config = replace(config, augment=replace(config.augment, mixup=0, cutmix=0, erasing=0, auto_augment=""))
    train(config, tmp_path / "run")
    values = list(losses(tmp_path / "run").values())
    assert sum(values[-5:]) < 0.9 * sum(values[:5])


@pytest.mark.slow
def test_losses_in_bfloat16_are_nearer_to_those_of_float32_than_another_seed_is(
    any_run: Callable[[str], AnyRun], tmp_path: Path
) -> None:
    config = longer(any_run("pose"), 24)

    def curve(seed: int, precision: str) -> list[float]:
        runtime = replace(config.runtime, precision=precision)
        out = tmp_path / f"{precision}-{seed}"
        train(replace(config, seed=seed, runtime=runtime), out)
        return list(losses(out).values())

    def apart(first: list[float], second: list[float]) -> float:
        return sum(abs(a - b) for a, b in zip(first, second, strict=True))

    single = [curve(seed, "fp32") for seed in (0, 1, 2)]
    assert 0 < apart(curve(0, "bf16"), single[0]) < min(apart(single[0], other) for other in single[1:])


def test_existing_run_is_not_overwritten(classification_run: ClassificationRun, tmp_path: Path) -> None:
    train(longer(classification_run, 3), tmp_path)
    with pytest.raises(ValueError, match="holds a run already: go on with --resume"):
        train(classification_run, tmp_path)
    with pytest.raises(ResumeError, match=r"schedule\.updates: 3 -> 6"):
        train(classification_run, tmp_path, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_any_moment_and_resumed_gives_the_same_bits(
    task: str, any_run: Callable[[str], AnyRun], tmp_path: Path
) -> None:
    config, killed = replace(longer(any_run(task), 10), ema_decay=0.9), tmp_path / "killed"
    train(config, tmp_path / "whole")
    write_config(config, tmp_path / "run.json")
    kills = 0
    for pause in (0.0, 0.35, 0.15):
        process = fork(train_saved, tmp_path / "run.json", killed)
        began, seen = time.monotonic(), len(losses(killed)) if kills else 0
        while process.is_alive() and time.monotonic() - began < 60:
            log = killed / "metrics.jsonl"
            if log.exists() and log.read_text().count('"event": "train"') > seen + 1:
                time.sleep(pause)
                process.kill()
                kills += 1
                break
            time.sleep(0.02)
        process.join()
    assert kills > 0
    process = fork(train_saved, tmp_path / "run.json", killed)
    process.join()
    assert process.exitcode == 0
    assert losses(killed) == losses(tmp_path / "whole")
    assert [row["update"] for row in lines(killed, "train")] == list(range(1, 11))
    expected, found = (read_state(checkpoint_path(tmp_path / name))[1] for name in ("whole", "killed"))
    for part in ("model", "ema"):
        for name, value in expected[part].items():
            assert torch.equal(value, found[part][name]), f"{part} {name}"


@pytest.mark.slow
def test_sigterm_saves_and_stops(classification_run: ClassificationRun, tmp_path: Path) -> None:
    config = replace(longer(classification_run, 5000), save=SaveConfig(every_minutes=0), validate_updates=5000)
    out = tmp_path / "run"
    process = start(config, tmp_path, out)
    while not (out / "metrics.jsonl").exists() or '"event": "train"' not in (out / "metrics.jsonl").read_text():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "interrupted: SIGTERM" in output
    state, _ = read_state(checkpoint_path(out))
    assert state.update == max(losses(out)) > 0


@pytest.mark.parametrize("at", [3, 6])
def test_signal_within_a_validation(
    at: int, classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(classification_run, ema_decay=0.9)
    whole = train(config, tmp_path / "whole")
    real, items = loop.evaluate, []

    def stopped(*arguments: Any, progress: Callable[[int, int], object], **options: Any) -> Any:
        def told(done: int, total: int) -> None:
            if done and len(losses(tmp_path / "cut")) == at:
                items.append(done)
                handler = signal.getsignal(signal.SIGTERM)
                assert callable(handler), "the run handles no signals"
                handler(signal.SIGTERM, None)
            progress(done, total)

        return real(*arguments, progress=told, **options)

    monkeypatch.setattr(loop, "evaluate", stopped)
    cut = train(config, tmp_path / "cut")
    assert (cut.update, cut.interrupted) == (at, "SIGTERM")
    # One batch of the 12 items, and no score of half a set.
    assert items == [8]
    assert at not in [row["update"] for row in lines(tmp_path / "cut", "validation")]
    monkeypatch.setattr(loop, "evaluate", real)
    again = train(config, tmp_path / "cut", resume=True)
    assert (again.update, again.interrupted, again.best, again.best_update) == (6, "", whole.best, whole.best_update)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    scores = [
        [(row["update"], row["scores"]) for row in lines(tmp_path / name, "validation")] for name in ("whole", "cut")
    ]
    assert scores[0] == scores[1]
    states = [read_state(checkpoint_path(tmp_path / name))[1]["model"] for name in ("whole", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
def test_compiled_run_learns_what_a_plain_one_does(
    classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated by the compiler; its C++ or Triton code, which takes minutes, is left out.

    A network of one block per branch has every operation of the deeper ones.
    """
    shallow = replace(zoo.hrformer_nano(), num_blocks=1)
    monkeypatch.setitem(zoo.VARIANTS, "hrformer_nano", lambda: shallow)
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager"))
    plain = longer(classification_run, 3)  # from fresh weights rounding grows tenfold per update
    # All 12 items at once: that a second size needs but one graph more, tests/fast/test_compile.py shows.
    plain = replace(plain, evaluation=replace(plain.evaluation, batch_size=12))
    compiled = replace(plain, runtime=replace(plain.runtime, compile=True))
    for name, config in (("plain", plain), ("compiled", compiled)):
        train(config, tmp_path / name)
    first, second = (losses(tmp_path / name) for name in ("plain", "compiled"))
    assert len(first) == 3
    assert second == pytest.approx(first, rel=1e-3)
    states = [read_state(checkpoint_path(tmp_path / name))[1]["model"] for name in ("plain", "compiled")]
    assert states[0].keys() == states[1].keys()


def test_non_finite_loss_names_update_rate_and_checkpoint(
    classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.task_for

    def broken(config: AnyRun) -> Any:
        task, seen = real(config), []
        losses = task.losses

        def at_the_fifth(output: Any, batch: Any) -> dict[str, torch.Tensor]:
            seen.append(1)
            return {
                name: value * (float("nan") if len(seen) == 5 else 1) for name, value in losses(output, batch).items()
            }

        task.losses = at_the_fifth
        return task

    monkeypatch.setattr(run, "task_for", broken)
    with pytest.raises(NonFiniteLoss, match=r"not finite at update 4, learning rate .*checkpoints/last\.pt"):
        train(classification_run, tmp_path)
    state, content = read_state(checkpoint_path(tmp_path))
    assert state.update == 4
    assert all(torch.isfinite(value).all() for value in content["model"].values())


def test_accumulation_gives_the_gradient_of_the_whole_batch(pose_run: PoseRun, tmp_path: Path) -> None:
    # Batch norm sees the parts one by one, hence frozen.
    config = longer(replace(pose_run, model=replace(pose_run.model, frozen=("backbone",))), 3)
    train(config, tmp_path / "whole")
    train(replace(config, batch=BatchConfig(total=8, per_device=2)), tmp_path / "parts")
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert lines(tmp_path / "parts", "start")[0]["parts"] == 4
    assert parts == pytest.approx(whole, rel=1e-5)


def test_fine_tuning_from_own_weights(classification_run: ClassificationRun, pose_run: PoseRun, tmp_path: Path) -> None:
    train(longer(classification_run, 3), tmp_path / "first")
    start_from = replace(pose_run.model, init=str(tmp_path / "first" / "best.safetensors"), frozen=("stem", "stage1"))
    train(longer(replace(pose_run, model=start_from), 3), tmp_path / "second")
    first, _ = load_model(tmp_path / "first" / "best.safetensors")
    second, _ = load_model(tmp_path / "second" / "last.safetensors")
    assert torch.equal(first.backbone.conv1.weight, second.backbone.conv1.weight)
    assert "first" not in second.info.source
    assert second.info.source.startswith("trained from")


def test_average_follows_short_runs(classification_run: ClassificationRun, tmp_path: Path) -> None:
    config = replace(longer(classification_run, 6), ema_decay=0.9999)
    train(config, tmp_path)
    content = read_state(checkpoint_path(tmp_path))[1]
    torch.manual_seed(config.seed)
    first = run.task_for(config).build()[0].state_dict()
    name = "head.classifier.weight"
    moved = (content["model"][name] - first[name]).norm()
    behind = (content["model"][name] - content["ema"][name]).norm()
    assert 0 < behind < 0.7 * moved


def test_kept_checkpoints(classification_run: ClassificationRun, tmp_path: Path) -> None:
    config = replace(classification_run, save=SaveConfig(keep_every=1, every_minutes=0), log=LogConfig(trackers=()))
    train(config, tmp_path)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"last.pt", "best.pt", "update_3.pt", "update_6.pt"}


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"workers": 2}, {"channels_last": False}])
def test_use_of_the_machine_changes_no_loss(pose_run: PoseRun, changes: dict[str, Any], tmp_path: Path) -> None:
    train(longer(pose_run, 3), tmp_path / "plain")
    train(longer(replace(pose_run, runtime=replace(pose_run.runtime, **changes)), 3), tmp_path / "changed")
    assert losses(tmp_path / "changed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_bf16_stays_close(pose_run: PoseRun, tmp_path: Path) -> None:
    train(longer(pose_run, 3), tmp_path / "plain")
    train(longer(replace(pose_run, runtime=replace(pose_run.runtime, precision="bf16")), 3), tmp_path / "bf16")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "plain"), rel=0.05)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "plain")


@pytest.fixture
def fragile(classification_run: ClassificationRun, tmp_path: Path) -> ClassificationRun:
    """A run of 20 updates over files that can be damaged, decoded anew each time."""
    root = tmp_path / "data"
    shutil.copytree(classification_run.data.root, root)
    return replace(
        longer(classification_run, 20),
        data=replace(classification_run.data, root=root),
        runtime=replace(classification_run.runtime, cache_gb=0),
        batch=BatchConfig(total=2),
        save=SaveConfig(every_updates=2, every_minutes=0),
        log=LogConfig(every_updates=20, trackers=(), pictures=0),
        validate_updates=10,
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_error_in_the_middle_loses_nothing(fragile: ClassificationRun, tmp_path: Path, split: str) -> None:
    broken = next((fragile.data.root / split / "ship").glob("*.jpg"))
    whole, out = broken.read_bytes(), tmp_path / "run"

    def damage(_: object) -> None:
        broken.write_bytes(whole[:200])

    with pytest.raises(DataError, match=f"{broken.name}.*--data.skip-broken"):
        train(fragile, out, saved=damage)
    end = lines(out, "end")[0]
    assert end["state"] == "failed"
    state = read_state(checkpoint_path(out))[0]
    # The picture comes after the first checkpoint, and is the only thing that is missing.
    assert state.update == end["update"] > 2
    assert state.update == 10 or split == "train"
    assert broken.name in (out / "summary.html").read_text()
    assert "--resume" in (out / "log.txt").read_text()

    broken.write_bytes(whole)
    train(fragile, out, resume=True)
    train(fragile, tmp_path / "at_once")
    for name in ("last.safetensors", "best.safetensors"):
        ours, other = (load_model(folder / name)[0].state_dict() for folder in (out, tmp_path / "at_once"))
        assert all(torch.equal(ours[key], other[key]) for key in other)


def test_error_in_the_middle_goes_on_without_the_broken_file(fragile: ClassificationRun, tmp_path: Path) -> None:
    broken = next((fragile.data.root / "train" / "ship").glob("*.jpg"))
    whole, out = broken.read_bytes(), tmp_path / "run"
    with pytest.raises(DataError, match=broken.name):
        train(fragile, out, saved=lambda run: broken.write_bytes(whole[:200]))
    with pytest.raises(DataError, match=broken.name):
        train(fragile, out, resume=True)
    skipping = replace(fragile, data=replace(fragile.data, skip_broken=True))
    assert train(skipping, out, resume=True).update == 20
    count = len(list((fragile.data.root / "train").glob("*/*.jpg")))
    assert f"train items {count - 1}, train items left out 1," in (out / "log.txt").read_text()


def test_changed_data_is_not_gone_on_with(fragile: ClassificationRun, tmp_path: Path) -> None:
    out, folder = tmp_path / "run", fragile.data.root / "train"
    train(fragile, out)
    moved = replace(fragile, data=replace(fragile.data, root=tmp_path / "elsewhere"))
    shutil.copytree(fragile.data.root, tmp_path / "elsewhere")
    assert train(moved, out, resume=True).main == "top1"
    ship, cat = (next((folder / name).glob("*.jpg")) for name in ("ship", "cat"))
    kept = ship.read_bytes()
    ship.write_bytes(cat.read_bytes())
    with pytest.raises(ResumeError, match=rf"train: 1 file changed \(train/ship/{ship.name}\).*--model.init"):
        train(fragile, out, resume=True)
    ship.rename(folder / "cat" / "new.jpg")
    with pytest.raises(ResumeError, match=r"1 file added \(train/cat/new.jpg\), 1 file removed"):
        train(fragile, out, resume=True)
    (folder / "cat" / "new.jpg").unlink()
    ship.write_bytes(kept)
    train(fragile, out, resume=True)


def test_start_weights_are_scored_first_and_may_stay_the_best(
    classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(loop, "summarise", lambda out, config, source, *of: shown.append(of))
    first = train(longer(classification_run, 20), tmp_path / "first")
    again = replace(
        classification_run,
        model=replace(classification_run.model, init=str(first.out / "best.safetensors")),
        optim=replace(classification_run.optim, lr=1.0),
        schedule=replace(classification_run.schedule, updates=30),
        validate_updates=2,
        validate_start=True,
        early_stopping=3,
    )
    result = train(again, tmp_path / "again")
    scores = [(row["update"], row["value"]) for row in lines(result.out, "validation")]
    assert scores[0] == (0, first.best)
    assert result.early
    assert result.interrupted == ""
    assert result.update == scores[-1][0] < 30
    # The page shows what the weights do that are to be used, not what was left in the end.
    model, evaluation = shown[-1]
    best = load_model(result.out / "best.safetensors")[0].state_dict()
    assert evaluation.value == result.best
    assert all(torch.equal(model.state_dict()[name], value) for name, value in best.items())
    since = [update for update, value in scores if update > result.best_update]
    assert len(since) == 3
    assert lines(result.out, "end")[0]["state"] == "finished"
    # Taken up again it is still finished.
    assert train(again, result.out, resume=True).update == result.update


def test_process_stopped_by_another_ends_as_interrupted(
    classification_run: ClassificationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the other processes of a run see when a signal reaches only one of them.
    monkeypatch.setattr(loop, "any_process", lambda flag: lines(tmp_path, "train") != [] and flag is False)
    monkeypatch.setattr(loop.Loop, "_require_finite", lambda self, rate: None)
    result = train(classification_run, tmp_path)
    assert (result.update, result.interrupted) == (2, "a signal")
    end = lines(tmp_path, "end")[0]
    assert (end["state"], end["update"]) == ("interrupted", 2)
