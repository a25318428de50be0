"""The training loop: one for all tasks, on one processor, one GPU or many machines.

What an update does is a function of the configuration and the update's number alone: the rate, which items it sees
in which order and how they are augmented, and the random numbers of the network. A run that is killed and taken up
again therefore repeats itself exactly, and the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrformer.checkpoints.checkpoint import load_model
from hrformer.data.loader import (
    MORE_SHARED_MEMORY,
    LoaderDataset,
    PictureCache,
    batches_of,
    default_workers,
    free_shared_memory,
    size_text,
    to_device,
)
from hrformer.data.order import mixed_seed
from hrformer.data.set_types import DataError
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import Evaluation
from hrformer.losses import part_shares
from hrformer.train.config import AnyRun, check
from hrformer.train.control import NonFiniteLoss, StopSignals, ValidationStopped, mean_of, stop_signals
from hrformer.train.distributed import any_process, processes, sum_over_processes, together
from hrformer.train.journal import check_trackers
from hrformer.train.machine import Machine
from hrformer.train.optim import rate_at, set_rate, set_training
from hrformer.train.run import Run
from hrformer.train.run_folder import BEST_WEIGHTS, LAST_WEIGHTS, checkpoint_path, run_lock
from hrformer.train.summary import summarise, write_summary
from hrformer.wording import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended."""

    out: Path  # run folder
    main: str  # name of the score that decides
    best: float | None  # its best value; None if nothing was validated
    best_update: int  # when
    update: int  # updates done
    interrupted: str = ""  # by which signal the run was stopped before its end; empty if it was not
    early: bool = False  # whether it ended before its last update, since no score had become better for long enough


def train(
    config: AnyRun, out: Path, *, resume: bool = False, saved: Callable[[Run], object] = lambda run: None
) -> RunResult:
    """Run a recipe to its end, or until a signal.

    Args:
        config: what to do.
        out: run directory; made if absent. Ends with ``best.safetensors`` and ``last.safetensors``, which
            ``hrformer.load`` takes, ``metrics.jsonl``, ``summary.html`` and ``checkpoints/``.
        resume: go on from ``checkpoints/last.pt``; from the start if the run had none yet.
        saved: called with the run, by the main process, whenever its checkpoint has been written.

    Raises:
        ValueError: a setting is out of range or does not fit the data, or ``out`` holds a run and ``resume`` is off, or
            another process is at work there.
        DataError: the data is not as it should be.
        ResumeError: the run in ``out`` cannot be taken up.
        NonFiniteLoss: the loss is no number any more.
    """
    check(config)
    check_trackers(config.log.trackers)
    with Machine(config.runtime, config.log, out) as machine, run_lock(out, main=machine.main), stop_signals() as stop:
        return Loop(config, out, machine, resume=resume, saved=saved).to_the_end(stop)


class Loop(Run):
    """The updates of a run, and what is due between them."""

    def to_the_end(self, stop: StopSignals) -> RunResult:
        """Every update from where the run stands."""
        config, state = self.config, self.state
        last_saved, began, stopped = time.monotonic(), time.monotonic() - state.seconds, ""
        journal = self.journal
        with self._told_of_errors():
            self.introduce()
            if self._owes_validation():
                complete = self._validate(stop)
                if state.update or not complete:
                    self.save()
                if not complete:
                    return self._finish(self._note_stop(stop))
            batches = self.batches()
            set_training(self.model, self.frozen)
            while state.update < self.total and not self._is_stale():
                rate = rate_at(state.update, config, self.per_epoch)
                set_rate(self.optimizer, rate)
                with self.undo.one_update():
                    norm = self.one_update(batches)
                    state.update += 1
                state.seconds = time.monotonic() - began
                journal.tick(state.update, state.update / self.per_epoch)
                ends = state.update == self.total
                logs = ends or state.update % config.log.every_updates == 0
                validates = self._validates_at(state.update)
                every = config.save.every_updates
                saves = validates or (every > 0 and state.update % every == 0)
                # All processes must ask at the same updates, and rarely on a GPU, where an answer has to wait.
                asks = logs or saves or self.machine.device.type == "cpu"
                minutes = config.save.every_minutes
                stops = asks and any_process(bool(stop.requested))
                overdue = asks and any_process(0 < minutes < (time.monotonic() - last_saved) / 60)
                if asks:
                    self._require_finite(rate)
                if logs:
                    values = mean_of(self.window_of_all()) | {"lr": rate}
                    if norm is not None:
                        values["grad_norm"] = float(norm)
                    journal.log(state.update, state.update / self.per_epoch, values)
                    self.window.reset()
                complete = not validates or self._validate(stop)
                if validates:
                    set_training(self.model, self.frozen)
                if saves or overdue or stops:
                    self.save()
                    last_saved = time.monotonic()
                if (stops and not ends) or not complete:
                    stopped = self._note_stop(stop)
                    break
            return self._finish(stopped)

    @contextmanager
    def _told_of_errors(self) -> Iterator[None]:
        """Context of a run, in which its journal is open; if it fails, it is saved, and journal and page say so."""
        begun = self.state.update
        try:
            with self.journal:
                try:
                    yield
                except BaseException as error:
                    # Where the loss is no number, the last good checkpoint is better than what there is now.
                    if self.undo.possible and self.state.update > begun and not isinstance(error, NonFiniteLoss):
                        self._save_alone()
                    raise
        except BaseException:
            # What ended the run may keep the page from being written as well, such as a full disk.
            with suppress(OSError, ValueError):
                if self.machine.main:
                    write_summary(self.out)
            raise

    def _save_alone(self) -> None:
        """Write the checkpoint of the main process after an error, of which the other processes may not know."""
        # What ended the run may keep this from being written as well; the error itself is still told.
        with suppress(Exception):
            if self.machine.main and not self.machine.sharded:
                self.state.window = self.window.sums()
                self.write_checkpoint()
                saved = f"saved {checkpoint_path(self.out)} after update {self.state.update}"
                self.journal.note(
                    f"{saved}; to go on once the error below is mended: hrformer train {self.out} --resume"
                )

    def batches(self) -> Iterator[Any]:
        """The parts of all batches from the next update on."""
        runtime, order, workers = self.config.runtime, self.order, self._workers()
        cache = None
        if runtime.cache_gb > 0:
            cache = PictureCache(self.task.train_set, int(runtime.cache_gb * 2**30))
            cache = cache if cache.complete else None
        items = LoaderDataset(self.task.train_set, self.task.transform(), self.config.seed, cache)
        with together():
            first = next(order.batches(0, 1))
            if workers:
                _require_shared_memory(items[first[0]], len(first), workers)
        keys = order.batches(self.state.update, self.total)
        return batches_of(items, keys, workers=workers, pin_memory=self.machine.device.type == "cuda")

    def _workers(self) -> int:
        workers = self.config.runtime.workers
        return default_workers(self.machine.world_size) if workers is None else workers

    def one_update(self, batches: Iterator[Any]) -> torch.Tensor | None:
        """One optimiser step over the parts of the batch; returns the gradient's norm where it is clipped."""
        config, machine, parts = self.config, self.machine, self.order.parts
        # All parts before anything is done with the first: an error then leaves nothing half done.
        with together():
            loaded = [next(batches) for _ in range(parts)]
        shares: list[dict[str, float]] | None = None
        self.optimizer.zero_grad()
        for part in range(parts):
            # Random numbers of drop path, dropout and mixing belong to the update, not to the run's past; timm draws
            # mixing from numpy and erasing from Python.
            seed = mixed_seed(config.seed, self.state.update, machine.rank, part)
            torch.manual_seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)
            random.seed(seed)
            batch = self.task.prepare(to_device(loaded[part], machine.device), self.spec)
            with machine.accelerator.no_sync(self.model) if part + 1 < parts else nullcontext():
                output = machine.forward(self.model, batch["image"])
                if part == 0 and parts * machine.world_size > 1:
                    shares = self._shares(output, loaded)
                losses = self.task.losses(output, batch, *(() if shares is None else (shares[part],)))
                machine.accelerator.backward(losses["loss"] / parts)
            self.window.add(losses, 1 / parts, self.state.update)
        norm = None
        if config.optim.clip_norm > 0:
            norm = machine.accelerator.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.plain, step=self.state.update)
        return norm

    def _shares(self, output: Any, loaded: list[Any]) -> list[dict[str, float]] | None:
        """Factors of the parts' losses, such that the gradient is the whole batch's; None where all weigh alike."""
        own = [self.task.totals(output, batch) for batch in loaded]
        if not own[0]:
            return None
        whole = sum_over_processes({name: sum(part[name] for part in own) for name in own[0]})
        return part_shares(own, whole, self.order.parts * self.machine.world_size)

    def _validates_at(self, update: int) -> bool:
        every = self.config.validate_updates or max(round(self.config.validate_epochs * self.per_epoch), 1)
        return update == self.total or update % every == 0

    def _is_stale(self) -> bool:
        """Whether the run ends early, since nothing became better for long enough."""
        return 0 < self.config.early_stopping <= self.state.stale

    def _owes_validation(self) -> bool:
        """Whether the run was stopped within a validation, or begins with one, before the next update."""
        update = self.state.update
        if update == 0:
            return self.config.validate_start and self.loaded is not None
        return update > max(self.state.last_validation, 0) and self._validates_at(update)

    def _note_stop(self, stop: StopSignals) -> str:
        # The signal may have reached only another process, which has stopped all of them.
        stopped = stop.requested or "a signal"
        self.journal.note(f"{stopped}: saved {checkpoint_path(self.out)} and stopped")
        return stopped

    def _require_finite(self, rate: float) -> None:
        bad = self.window.first_bad()
        if any_process(bad is not None):
            good = checkpoint_path(self.out)
            kept = f"the last good checkpoint is {good}" if good.exists() else "no checkpoint had been written"
            raise NonFiniteLoss(
                f"the loss is not finite at update {self.state.update - 1 if bad is None else bad}, learning rate "
                f"{rate:.3g}; {kept}. Take a lower --optim.lr, a longer warm-up, --optim.clip-norm, or bf16 or fp32 "
                "instead of fp16, and look for broken samples with `hrformer inspect data`"
            )

    def _validate(self, stop: StopSignals) -> bool:
        """Score the model; False if a signal came before that was done."""
        try:
            self.evaluation = evaluation = self._evaluate(stop)
        except ValidationStopped:
            return False
        state = self.state
        state.last_validation, state.validations = state.update, state.validations + 1
        best = state.best is None or evaluation.value > state.best
        state.stale = 0 if best else state.stale + 1
        if best:
            state.best, state.best_update, self.best_evaluation = evaluation.value, state.update, evaluation
        self.journal.validation(state.update, state.update / self.per_epoch, evaluation, best=best)
        if self.machine.main:
            with self.journal.aside("page"):
                write_summary(self.out)
        if best:
            self.write_weights(BEST_WEIGHTS, evaluation)
        return True

    def _evaluate(self, stop: StopSignals) -> Evaluation:
        config, group = self.config, processes()
        self.machine.share_buffers(self.plain)
        with self.journal.aside("validation") as count:

            def tell(done: int, total: int) -> None:
                count(done, total)
                # Several processes would have to agree on the batch to stop at, so they finish the validation.
                if stop.requested and group is None and done < total:
                    raise ValidationStopped

            return evaluate(
                self.model_to_keep(),
                self.task.val_set,
                config.evaluation,
                device=self.machine.device,
                workers=self._workers(),
                precision=config.runtime.precision,
                processes=group,
                progress=tell,
                worst=config.log.pictures,
            )

    def _finish(self, interrupted: str) -> RunResult:
        state = self.state
        early = not interrupted and state.update < self.total
        if early:
            self.journal.note(f"stopped early: {counted(state.stale, 'validation')} without a better score")
        self.write_weights(LAST_WEIGHTS, self.evaluation)
        self.journal.end(interrupted=interrupted, best=state.best, best_update=state.best_update, seconds=state.seconds)
        if self.machine.main:
            # The page shows the weights that will be used. A model split over the processes cannot be asked by one.
            model = None if self.machine.sharded else self.model_to_keep()
            if model is not None and self.best_evaluation is not None and state.best_update != state.update:
                model = load_model(self.out / BEST_WEIGHTS)[0].to(self.machine.device)
            summarise(self.out, self.config, self.task.val_set, model, self.best_evaluation or self.evaluation)
        best: dict[str, Any] = {"main": self.main, "best": state.best, "best_update": state.best_update}
        return RunResult(out=self.out, update=state.update, interrupted=interrupted, early=early, **best)


def _require_shared_memory(item: Any, batch: int, workers: int) -> None:
    """Refuse batches of such items that do not fit into shared memory as far as workers read ahead."""
    # An item that cannot be read is told of when its turn comes.
    tensors = [value for value in item.values() if isinstance(value, torch.Tensor)] if isinstance(item, dict) else []
    workers *= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # torch keeps two batches ready per process that loads data.
    need, free = 2 * sum(value.nbytes for value in tensors) * batch * workers, free_shared_memory()
    if free is not None and need > free:
        raise DataError(
            f"{workers} processes that load data need {size_text(need)} of shared memory for their batches, "
            f"{size_text(free)} are free: give more ({MORE_SHARED_MEMORY}), or take --runtime.workers 0"
        )
