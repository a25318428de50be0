"""What a run consists of: data, model, optimiser, state and journal, made from its configuration or a checkpoint."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.data.fingerprint import Fingerprint
from hrformer.data.loader import LoaderDataset, batches_of, to_device
from hrformer.data.order import Key, TrainOrder
from hrformer.data.set_types import names_of
from hrformer.evaluate.evaluate import scores_for
from hrformer.evaluate.protocols import Evaluation
from hrformer.evaluate.scores import NO_INTERVALS
from hrformer.fast.coat import set_grad_checkpointing
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import AnyRun
from hrformer.train.config_file import from_dict, read_config, to_dict, write_config
from hrformer.train.config_rules import check
from hrformer.train.control import LossWindow, average
from hrformer.train.data_check import check_data, check_same_data, data_of, taking_up, tell_left_out
from hrformer.train.distributed import processes, share_batch_norm, together, told_to_all
from hrformer.train.fitting import VALIDATION_COST, as_before, fit_text, fitted, val_text
from hrformer.train.journal import Journal
from hrformer.train.machine import BuffersKept, Machine, find_batch_size
from hrformer.train.optim import (
    freeze,
    make_optimizer,
    parameter_groups,
    set_training,
    total_updates,
)
from hrformer.train.progress import bars, score_text
from hrformer.train.room import disk_needed, want_of_disk
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
from hrformer.train.tasks import task_for
from hrformer.train.undo import Undo
from hrformer.train.versions import write_versions

FREE_TO_CHANGE = (
    *("data.root", "data.more_roots", "data.val_root", "data.skip_broken"),
    *("runtime.", "save.", "log.", "batch.per_device", "recipe"),
)
"""Settings that a resumed run may change; all others would make it another run."""


class Run:
    """One run, ready for its next update: new, or taken up from ``checkpoints/last.pt``.

    Args:
        config: what to do.
        out: run directory.
        machine: the processes it has.
        resume: whether ``out`` may hold a run already.
        saved: called by the main process whenever the checkpoint has been written.

    Raises:
        ValueError: see :func:`hrformer.train.loop.train`.
    """

    def __init__(
        self,
        config: AnyRun,
        out: Path,
        machine: Machine,
        *,
        resume: bool,
        saved: Callable[[Run], object] = lambda run: None,
    ) -> None:
        self.config, self.out, self.machine, self._saved = config, out, machine, saved
        last = checkpoint_path(out)
        if last.exists() and not resume:
            raise ValueError(f"{out} holds a run already: go on with --resume, or choose another --out")
        with taking_up(out) if last.exists() else nullcontext():
            self.task = task_for(config)
        self.fitted = config.fit
        self.config = config = self._fitted(last)
        before = read_state(last) if last.exists() else None
        if before is not None:
            check_same_run(_as_now(before[1]["config"], last), to_dict(config), FREE_TO_CHANGE)
        self._look_at_data(None if before is None else before[1].get("data"))
        torch.manual_seed(config.seed)
        model, self.loaded = self.task.build()
        self.frozen = freeze(model, config.model.frozen)
        self.spec = model.info.input_spec
        self.groups = parameter_groups(model, config.optim)
        told_to_all(want_of_disk(out, disk_needed(model, averaged=config.ema_decay > 0)) if machine.main else "")
        model = self._placed(model)
        self.item_seconds = self._time_of_an_item(model) if self.fitted else None
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
        self.resumed = before is not None
        if before is not None:
            self._restore(*before)
        self.window = LossWindow(machine.device, self.state.window)
        self.undo = Undo(self.plain, self.optimizer.optimizer, self.window)
        self.journal = self._journal()
        self.evaluation: Evaluation | None = None
        self.best_evaluation: Evaluation | None = None

    def _look_at_data(self, before: Mapping[str, Fingerprint] | None) -> None:
        """Refuse data that would end the run later or has changed; leave out what is broken if told to."""
        sets = {"train": self.task.train_set, "val": self.task.val_set}
        broken: dict[str, dict[int, tuple[str, str]]] = {}
        self.data: dict[str, Fingerprint] = {}
        with together():
            if self.machine.main:
                with bars(after=2.0) as progress:
                    broken = check_data(self.config, sets, progress)
                self.data = data_of(self.config, sets)
                if before:
                    check_same_data(self.config, before, self.data, broken, self.out)
        if group := processes():
            broken, self.data = group.gather((broken, self.data))[0]
        if self.machine.main:
            for split, files in broken.items():
                tell_left_out(split, files)
        self.task.leave_out(broken)
        val = self.task.val_set
        # Whatever the scores need is asked for now, not after the first updates.
        with together():
            self.main = scores_for(val, self.config.evaluation, len(val), NO_INTERVALS).main

    def _fitted(self, last: Path) -> AnyRun:
        """The run with nothing left open; one that is taken up again stays as it was."""
        task, machine, config = self.task, self.machine, self.config
        if not config.fit:
            return config
        if last.exists():
            config = as_before(config, read_config(self.out / "config.json"))
        else:
            gpu, train, val = machine.device.type == "cuda", len(task.train_set), len(task.val_set)
            names = names_of(task.train_set)
            config = fitted(config, train, val, gpu=gpu, processes=machine.world_size, names=names)
        check(config)
        task.adopt(config)
        return config

    def _time_of_an_item(self, model: VisionModel) -> float | None:
        """Seconds that the training of one item takes; None on a GPU, which is quick and slow to warm up."""
        if self.machine.device.type != "cpu" or self.machine.world_size > 1:
            return None
        count = min(self.config.batch.total, 4)
        self._probe(model, count)
        began = time.perf_counter()
        self._probe(model, count)
        return (time.perf_counter() - began) / count

    def _placed(self, model: VisionModel) -> VisionModel:
        runtime, machine = self.config.runtime, self.machine
        if runtime.gradient_checkpointing:
            if not isinstance(model.backbone, HighResolutionTrunk):
                raise ValueError(f"runtime.gradient_checkpointing: {model.info.name} cannot recompute its activations")
            set_grad_checkpointing(model.backbone)
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
            trackers=config.log.trackers,
            config=to_dict(config),
            accelerator=machine.accelerator,
        )

    def model_to_keep(self) -> VisionModel:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.ema.module if self.ema is not None else self.plain

    def window_of_all(self) -> dict[str, float]:
        """Sums of the losses since the last line of the log, averaged over the processes."""
        group, sums = processes(), self.window.sums()
        return average(group.gather(sums)) if group else sums

    def write_weights(self, name: str, evaluation: Evaluation | None) -> None:
        """Write the model for ``hrformer.load``; every process must take part."""
        facts = {} if evaluation is None else {"score": f"{score_text(evaluation.main, evaluation.value)} on val"}
        facts["recipe"] = f"{self.config.recipe}, update {self.state.update} of {self.total}"
        model = self.model_to_keep()
        if self.shell is not None:
            weights, _ = self.machine.state_dicts(self.model, self.optimizer)
            model = self.shell
            if self.machine.main:
                model.load_state_dict(weights)
        if self.machine.main:
            save_checkpoint(model, self.out / name, metadata=facts)

    def save(self) -> None:
        """Write the checkpoint, and keep it under other names where that is due; every process must take part."""
        machine, state = self.machine, self.state
        state.window = self.window_of_all()
        self._write_state(*machine.state_dicts(self.model, self.optimizer))
        if machine.main:
            if state.best_update == state.update:
                keep_as(self.out, BEST)
            every = self.config.save.keep_every
            if every and state.last_validation == state.update and state.validations % every == 0:
                keep_as(self.out, f"update_{state.update}.pt")
            self._saved(self)
        machine.wait()

    def save_alone(self) -> None:
        """Write the checkpoint of the main process after an error, of which the other processes may not know."""
        if self.machine.main and not self.machine.sharded:
            self.state.window = self.window.sums()
            self._write_state(*self.machine.state_dicts(self.model, self.optimizer))

    def _write_state(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        if self.machine.main:
            save_state(
                self.out,
                self.state,
                config=to_dict(self.config),
                model=model,
                optimizer=optimizer,
                ema=None if self.ema is None else self.ema.module.state_dict(),
                scaler=self.machine.scaler_state(),
                data=self.data,
            )

    def _restore(self, state: TrainState, content: dict[str, Any]) -> None:
        # Before the first update nothing has happened that would not happen again.
        self.state = state if state.update else TrainState(seconds=state.seconds)
        self.machine.load_state_dicts(self.model, self.optimizer, content["model"], content["optimizer"])
        self.machine.load_scaler_state(content["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"])

    def introduce(self) -> None:
        """Tell the journal what is about to happen."""
        task, order, machine = self.task, self.order, self.machine
        parameters = sum(p.numel() for group in self.groups for p in group["params"])
        self.journal.start(
            resumed=self.resumed,
            model=self.plain.info.name,
            trained_parameters=parameters,
            train_items=len(task.train_set) - task.replaced_items,
            **({"train_items_left_out": task.replaced_items} if task.replaced_items else {}),
            val_items=len(task.val_set),
            updates=self.total,
            updates_per_epoch=self.per_epoch,
            batch=self.config.batch.total,
            parts=order.parts,
            processes=machine.world_size,
            device=str(machine.device),
            precision=self.config.runtime.precision,
        )
        if not self.resumed:
            self._tell_fit()
            if weights := task.weights_text():
                self.journal.note(weights)
        if self.loaded is not None and not self.resumed:
            self.journal.note(str(self.loaded))

    def _tell_fit(self) -> None:
        config, task = self.config, self.task
        train, val = len(task.train_set) - task.replaced_items, len(task.val_set)
        if self.fitted:
            seconds = None
            if self.item_seconds is not None:
                validated = val * -(-self.total // (config.validate_updates or self.per_epoch))
                seconds = self.item_seconds * (self.total * config.batch.total + VALIDATION_COST * validated)
            self.journal.note(fit_text(config, train, seconds))
        if warning := val_text(config, val):
            self.journal.note(warning)


def _as_now(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """A saved configuration with the fields that have come since, at their defaults.

    Raises:
        ResumeError: this version cannot express it.
    """
    try:
        return to_dict(from_dict(saved))
    except ValueError as error:
        raise ResumeError(f"{path} was written by another version: {error}") from error
