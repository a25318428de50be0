"""The training loop: one for all tasks, on one processor, one GPU or many machines.

What an update does is a function of the configuration and the update's number alone: the rate, which items it sees
in which order and how they are augmented, and the random numbers of the network. A run that is killed and taken up
again therefore repeats itself exactly, and the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import copy
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hrformer.data.loader import LoaderDataset, PictureCache, batches_of, default_workers, to_device
from hrformer.data.order import Key, TrainOrder, mixed_seed
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.protocols import Evaluation
from hrformer.models.checkpoint import save_checkpoint
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import AnyRun
from hrformer.train.config_file import to_dict, write_config
from hrformer.train.config_rules import check
from hrformer.train.control import LossWindow, NonFiniteLoss, StopSignals, average, mean_of
from hrformer.train.distributed import any_process, processes, share_batch_norm
from hrformer.train.journal import Journal
from hrformer.train.machine import BuffersKept, Machine, find_batch_size
from hrformer.train.optim import (
    freeze,
    make_optimizer,
    parameter_groups,
    rate_at,
    set_rate,
    set_training,
    total_updates,
)
from hrformer.train.state import (
    BEST,
    TrainState,
    check_same_run,
    checkpoint_path,
    keep_as,
    read_state,
    save_state,
)
from hrformer.train.summary import summarise, write_summary
from hrformer.train.tasks import task_for
from hrformer.train.trackers import check_trackers
from hrformer.train.versions import write_versions

FREE_TO_CHANGE = ("data.root", "data.val_root", "runtime.", "save.", "log.", "batch.per_device", "recipe")
"""Settings that a resumed run may change; all others would make it another run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        out: run directory.
        main: name of the score that decides.
        best: its best value; None if nothing was validated.
        best_update: when.
        update: updates done.
        interrupted: by which signal the run was stopped before its end; empty if it was not.
    """

    out: Path
    main: str
    best: float | None
    best_update: int
    update: int
    interrupted: str = ""


def train(config: AnyRun, out: Path, *, resume: bool = False) -> RunResult:
    """Run a recipe to its end, or until a signal.

    Args:
        config: what to do.
        out: run directory; made if absent. Ends with ``best.safetensors`` and ``last.safetensors``, which
            ``hrformer.load`` takes, ``metrics.jsonl``, ``summary.html`` and ``checkpoints/``.
        resume: go on from ``checkpoints/last.pt``; from the start if the run had none yet.

    Raises:
        ValueError: a setting is out of range or does not fit the data, or ``out`` holds a run and ``resume`` is off.
        DataError: the data is not as it should be.
        ResumeError: the run in ``out`` cannot be taken up.
        NonFiniteLoss: the loss is no number any more.
    """
    check(config)
    check_trackers(config.log.trackers)
    with Machine(config.runtime, config.log, out) as machine, StopSignals() as stop:
        return _Run(config, out, machine, resume=resume).to_the_end(stop)


class _Run:
    """One run; :meth:`to_the_end` is the loop."""

    def __init__(self, config: AnyRun, out: Path, machine: Machine, *, resume: bool) -> None:
        self.config, self.out, self.machine = config, out, machine
        last = checkpoint_path(out)
        if last.exists() and not resume:
            raise ValueError(f"{out} holds a run already: go on with --resume, or choose another --out")
        self.task = task_for(config)
        torch.manual_seed(config.seed)
        model, self.loaded = self.task.build()
        self.frozen = freeze(model, config.model.frozen)
        self.spec = model.info.input_spec
        self.groups = parameter_groups(model, config.optim)
        model = self._placed(model)
        self.order = self._order(model)
        self.per_epoch = self.order.updates_per_epoch
        if config.runtime.sync_bn and machine.world_size > 1:
            model = cast(VisionModel, share_batch_norm(model, machine.device))
        self.ema = machine.average_of(model, config.ema_decay)
        # FSDP leaves no whole model behind; this one gets the weights that are written to files.
        self.shell = copy.deepcopy(model).cpu() if machine.sharded else None
        self.total = total_updates(config.schedule, self.per_epoch)
        self.model, self.optimizer = machine.prepare(model, make_optimizer(self.groups, config.optim))
        self.plain: VisionModel = machine.unwrap(self.model)
        self.state = TrainState()
        self.resumed = last.exists()
        if self.resumed:
            self._restore(last)
        self.window = LossWindow(machine.device, self.state.window)
        self.journal = self._journal()
        self.main = ""
        self.evaluation: Evaluation | None = None

    def _placed(self, model: VisionModel) -> VisionModel:
        runtime, machine = self.config.runtime, self.machine
        if runtime.gradient_checkpointing:
            if not isinstance(model.backbone, HighResolutionTrunk):
                raise ValueError(f"runtime.gradient_checkpointing: {model.info.name} cannot recompute its activations")
            model.backbone.set_grad_checkpointing(True)
        if runtime.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model = model.to(machine.device)
        if runtime.compile:
            model.compile()
        return model

    def _order(self, model: VisionModel) -> TrainOrder:
        batch, machine = self.config.batch, self.machine
        share = batch.total // machine.world_size
        size = batch.per_device
        if not size:
            size = find_batch_size(share, lambda count: self._probe(model, count), machine.device)
            group = processes()
            size = min(group.gather(size)) if group else size
        return TrainOrder(
            num_items=len(self.task.train_set),
            batch_size=batch.total,
            world_size=machine.world_size,
            rank=machine.rank,
            parts=max(-(-share // size), 1),
            seed=self.config.seed,
        )

    def _probe(self, model: VisionModel, count: int) -> None:
        """One forward and backward pass with so many items, to see whether they fit into memory."""
        items = LoaderDataset(self.task.train_set, self.task.transform(), self.config.seed)
        batch = next(batches_of(items, [[Key(0, 0)] * count]))
        batch = self.task.prepare(to_device(batch, self.machine.device), self.spec)
        set_training(model, self.frozen)
        # Adam's two moments will need as much memory as the gradients, twice.
        moments = [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in range(2)]
        with BuffersKept(model), self.machine.autocast():
            self.task.losses(model(batch["image"]), batch)["loss"].backward()
        model.zero_grad(set_to_none=True)
        del moments

    def _journal(self) -> Journal:
        config, machine = self.config, self.machine
        if machine.main:
            self.out.mkdir(parents=True, exist_ok=True)
            write_config(config, self.out / "config.json")
            write_versions(self.out)
        return Journal(
            self.out,
            self.total,
            config.batch.total,
            main=machine.main,
            first_update=self.state.update,
            every=config.log.every_updates,
            trackers=config.log.trackers,
            config=to_dict(config),
            accelerator=machine.accelerator,
        )

    def to_the_end(self, stop: StopSignals) -> RunResult:
        """Every update from where the run stands."""
        config, machine, state = self.config, self.machine, self.state
        last_saved, began = time.monotonic(), time.monotonic() - state.seconds
        with self.journal as journal:
            self._introduce()
            batches = self._batches()
            set_training(self.model, self.frozen)
            while state.update < self.total:
                rate = rate_at(state.update, config, self.per_epoch)
                set_rate(self.optimizer, rate)
                norm = self._update(batches)
                state.update += 1
                state.seconds = time.monotonic() - began
                journal.tick(config.batch.total)
                ends = state.update == self.total
                logs = ends or state.update % config.log.every_updates == 0
                validates = ends or self._is_due(state.update)
                saves = validates or self._saves_at(state.update)
                # All processes must ask at the same updates, and rarely on a GPU, where an answer has to wait.
                asks = logs or saves or machine.waits_for_nothing
                stops = asks and any_process(bool(stop.requested), machine.device)
                overdue = asks and any_process(self._is_overdue(last_saved), machine.device)
                if asks:
                    self._require_finite(rate)
                if logs:
                    self._log(rate, norm)
                if validates:
                    self._validate()
                    set_training(self.model, self.frozen)
                if saves or overdue or stops:
                    self._save()
                    last_saved = time.monotonic()
                if stops and not ends:
                    journal.note(f"{stop.requested or 'a signal'}: saved {checkpoint_path(self.out)} and stopped")
                    break
            return self._finish(stop.requested if state.update < self.total else "")

    def _batches(self) -> Any:
        config, runtime = self.config, self.config.runtime
        workers = default_workers(self.machine.world_size) if runtime.workers is None else runtime.workers
        cache = None
        if runtime.cache_gb > 0:
            cache = PictureCache(self.task.train_set, int(runtime.cache_gb * 2**30))
            cache = cache if cache.complete else None
        items = LoaderDataset(self.task.train_set, self.task.transform(), config.seed, cache)
        order = self.order.batches(self.state.update, self.total)
        return batches_of(items, order, workers=workers, pin_memory=self.machine.device.type == "cuda")

    def _update(self, batches: Any) -> torch.Tensor | None:
        """One optimiser step over the parts of the batch; returns the gradient's norm where it is clipped."""
        config, machine, parts = self.config, self.machine, self.order.parts
        self.optimizer.zero_grad()
        for part in range(parts):
            batch = to_device(next(batches), machine.device)
            self._seed(part)
            batch = self.task.prepare(batch, self.spec)
            with machine.accelerator.no_sync(self.model) if part + 1 < parts else nullcontext():
                losses = self.task.losses(self.model(batch["image"]), batch)
                machine.accelerator.backward(losses["loss"] / parts)
            self.window.add(losses, 1 / parts, self.state.update)
        norm = None
        if config.optim.clip_norm > 0:
            norm = machine.accelerator.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.plain)
        return norm

    def _seed(self, part: int) -> None:
        """Random numbers of drop path, dropout and mixing belong to the update, not to the run's past."""
        seed = mixed_seed(self.config.seed, self.state.update, self.machine.rank, part)
        torch.manual_seed(seed)
        # timm draws mixing from numpy and erasing from Python.
        np.random.seed(seed & 0xFFFFFFFF)
        random.seed(seed)

    def _is_due(self, update: int) -> bool:
        every = self.config.validate_updates or max(round(self.config.validate_epochs * self.per_epoch), 1)
        return update % every == 0

    def _is_overdue(self, last_saved: float) -> bool:
        minutes = self.config.save.every_minutes
        return minutes > 0 and time.monotonic() - last_saved > 60 * minutes

    def _saves_at(self, update: int) -> bool:
        every = self.config.save.every_updates
        return every > 0 and update % every == 0

    def _require_finite(self, rate: float) -> None:
        bad = self.window.first_bad()
        if any_process(bad is not None, self.machine.device):
            good = checkpoint_path(self.out)
            kept = f"the last good checkpoint is {good}" if good.exists() else "no checkpoint had been written"
            raise NonFiniteLoss(
                f"the loss is not finite at update {self.state.update - 1 if bad is None else bad}, learning rate "
                f"{rate:.3g}; {kept}. Take a lower --optim.lr, a longer warm-up, --optim.clip-norm, or bf16 or fp32 "
                "instead of fp16, and look for broken samples with `hrformer inspect data`"
            )

    def _log(self, rate: float, norm: torch.Tensor | None) -> None:
        values = mean_of(self._window_of_all()) | {"lr": rate}
        if norm is not None:
            values["grad_norm"] = float(norm)
        self.journal.log(self.state.update, self.state.update / self.per_epoch, values)
        self.window.reset()

    def _window_of_all(self) -> dict[str, float]:
        group, sums = processes(), self.window.sums()
        return average(group.gather(sums)) if group else sums

    def _model_to_keep(self) -> VisionModel:
        return self.ema.module if self.ema is not None else self.plain

    def _validate(self) -> None:
        config, state = self.config, self.state
        self.machine.share_buffers(self.plain)
        workers = default_workers(self.machine.world_size) if config.runtime.workers is None else config.runtime.workers
        with self.journal.aside("validation") as count:
            self.evaluation = evaluation = evaluate(
                self._model_to_keep(),
                self.task.val_set,
                config.evaluation,
                device=self.machine.device,
                workers=workers,
                precision=config.runtime.precision,
                processes=processes(),
                progress=count,
                worst=config.log.pictures,
            )
        self.main = evaluation.main
        state.last_validation, state.validations = state.update, state.validations + 1
        best = state.best is None or evaluation.value > state.best
        if best:
            state.best, state.best_update = evaluation.value, state.update
        self.journal.validation(state.update, state.update / self.per_epoch, evaluation, best=best)
        if self.machine.main:
            write_summary(self.out)
        if best:
            self._write_weights("best.safetensors", evaluation)

    def _write_weights(self, name: str, evaluation: Evaluation | None) -> None:
        facts = {} if evaluation is None else {"score": f"{evaluation.main} {evaluation.value:.4f} on val"}
        facts["recipe"] = f"{self.config.recipe}, update {self.state.update} of {self.total}"
        model = self._model_to_keep()
        if self.shell is not None:
            weights, _ = self.machine.state_dicts(self.model, self.optimizer)
            model = self.shell
            if self.machine.main:
                model.load_state_dict(weights)
        if self.machine.main:
            save_checkpoint(model, self.out / name, metadata=facts)

    def _save(self) -> None:
        machine, state = self.machine, self.state
        state.window = self._window_of_all()
        model, optimizer = machine.state_dicts(self.model, self.optimizer)
        if machine.main:
            ema = None if self.ema is None else self.ema.module.state_dict()
            save_state(
                self.out,
                state,
                config=to_dict(self.config),
                model=model,
                optimizer=optimizer,
                ema=ema,
                scaler=machine.scaler_state(),
            )
            if state.best_update == state.update:
                keep_as(self.out, BEST)
            every = self.config.save.keep_every
            if every and state.last_validation == state.update and state.validations % every == 0:
                keep_as(self.out, f"update_{state.update}.pt")
        machine.wait()

    def _restore(self, path: Path) -> None:
        self.state, content = read_state(path)
        check_same_run(content["config"], to_dict(self.config), FREE_TO_CHANGE)
        self.machine.load_state_dicts(self.model, self.optimizer, content["model"], content["optimizer"])
        self.machine.load_scaler_state(content["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"])

    def _introduce(self) -> None:
        task, order, machine = self.task, self.order, self.machine
        parameters = sum(p.numel() for group in self.groups for p in group["params"])
        self.journal.start(
            resumed=self.resumed,
            model=self.plain.info.name,
            trained_parameters=parameters,
            train_items=len(task.train_set),
            val_items=len(task.val_set),
            updates=self.total,
            updates_per_epoch=self.per_epoch,
            batch=self.config.batch.total,
            parts=order.parts,
            processes=machine.world_size,
            device=str(machine.device),
            precision=self.config.runtime.precision,
        )
        if self.loaded is not None and not self.resumed:
            self.journal.note(str(self.loaded))

    def _finish(self, interrupted: str) -> RunResult:
        state = self.state
        self._write_weights("last.safetensors", self.evaluation)
        self.journal.end(interrupted=interrupted, best=state.best, best_update=state.best_update, seconds=state.seconds)
        if self.machine.main:
            # A model split over the processes cannot be asked by one of them.
            model = None if self.machine.sharded else self._model_to_keep()
            summarise(self.out, self.config, self.task.val_set, model, self.evaluation)
        return RunResult(
            out=self.out,
            main=self.main,
            best=state.best,
            best_update=state.best_update,
            update=state.update,
            interrupted=interrupted,
        )
