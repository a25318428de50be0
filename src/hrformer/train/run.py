"""What a run consists of: data, model, optimiser, state and journal, made from its configuration or a checkpoint."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from timm.utils import ModelEmaV3

from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.data.fingerprint import Fingerprint
from hrformer.data.loader import LoaderDataset, batches_of, to_device
from hrformer.data.order import Key, TrainOrder
from hrformer.data.set_types import names_of
from hrformer.evaluate.protocols import Evaluation
from hrformer.evaluate.scores import scores_for
from hrformer.fast.coat import set_grad_checkpointing
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import AnyRun, check
from hrformer.train.config_file import read_config, to_dict, write_config
from hrformer.train.control import Buffers, LossWindow, Undo
from hrformer.train.data_check import check_data, check_same_data, data_of, taking_up, tell_left_out
from hrformer.train.distributed import gather, share_batch_norm, together
from hrformer.train.fitting import VALIDATION_COST, as_before, fit_text, fitted, val_text
from hrformer.train.journal import Journal
from hrformer.train.machine import Machine, find_batch_size
from hrformer.train.optim import freeze, make_optimizer, parameter_groups, set_training, total_updates
from hrformer.train.progress import bars, score_text
from hrformer.train.run_folder import (
    BEST,
    TrainState,
    check_same_run,
    checkpoint_path,
    keep_as,
    read_state,
    require_disk,
    save_state,
    write_versions,
)
from hrformer.train.tasks import task_for


class Run:
    """One run, ready for its next update: new, or taken up from ``checkpoints/last.pt``.

    See :func:`hrformer.train.loop.train` for the arguments and what is raised.
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
        self.out, self.machine, self._saved = out, machine, saved
        last = checkpoint_path(out)
        self.resumed = last.exists()
        if self.resumed and not resume:
            raise ValueError(f"{out} holds a run already: go on with --resume, or choose another --out")
        with taking_up(out) if self.resumed else nullcontext():
            self.task = task_for(config)
        self.fitted = config.fit
        self.config = self.task.config = config = self._fitted(config)
        self.state, content = read_state(last) if self.resumed else (TrainState(), {})
        if self.resumed:
            check_same_run(last, content["config"], config)
        self._look_at_data(content.get("data"))
        self.task.meet_teacher(out, machine.device, config.runtime.workers or 0)
        torch.manual_seed(config.seed)
        model, self.loaded = self.task.build()
        self.frozen = freeze(model, config.model.frozen)
        self.spec = model.info.input_spec
        self.groups = parameter_groups(model, config.optim)
        with together():
            if machine.main:
                require_disk(out, model, averaged=config.ema_decay > 0)
        model = self._placed(model)
        self.item_seconds = self._time_of_an_item(model) if self.fitted else None
        self.order = self._order(model)
        self.per_epoch = self.order.updates_per_epoch
        self.total = total_updates(config.schedule, self.per_epoch)
        self._wrap(model)
        if self.resumed:
            self._restore(content)
        self.window = LossWindow(machine.device, self.state.window)
        self.undo = Undo(self.plain, self.optimizer.optimizer, self.window)
        self.journal = self._journal()
        self.evaluation: Evaluation | None = None
        self.best_evaluation: Evaluation | None = None

    def _fitted(self, config: AnyRun) -> AnyRun:
        """The run with nothing left open; one that is taken up again stays as it was."""
        task, machine = self.task, self.machine
        if not config.fit:
            return config
        if self.resumed:
            config = as_before(config, read_config(self.out / "config.json"))
        else:
            gpu, train, val = machine.device.type == "cuda", len(task.train_set), len(task.val_set)
            names = names_of(task.train_set)
            config = fitted(config, train, val, gpu=gpu, processes=machine.world_size, names=names)
        check(config)
        return config

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
        broken, self.data = gather((broken, self.data))[0]
        if self.machine.main:
            for split, files in broken.items():
                tell_left_out(split, files)
        self.task.leave_out(broken)
        val = self.task.val_set
        # Whatever the scores need is asked for now, not after the first updates.
        with together():
            self.main = scores_for(val, self.config.evaluation, len(val)).main

    def _placed(self, model: VisionModel) -> VisionModel:
        runtime = self.config.runtime
        if runtime.gradient_checkpointing:
            if not isinstance(model.backbone, HighResolutionTrunk):
                raise ValueError(f"runtime.gradient_checkpointing: {model.info.name} cannot recompute its activations")
            set_grad_checkpointing(model.backbone)
        if runtime.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model = model.to(self.machine.device)
        if runtime.compile:
            model.compile()
        return model

    def _time_of_an_item(self, model: VisionModel) -> float | None:
        """Seconds that the training of one item takes; None on a GPU, which is quick and slow to warm up."""
        if self.machine.device.type != "cpu" or self.machine.world_size > 1:
            return None
        count = min(self.config.batch.total, 4)
        self._probe(model, count)
        began = time.perf_counter()
        self._probe(model, count)
        return (time.perf_counter() - began) / count

    def _order(self, model: VisionModel) -> TrainOrder:
        batch, machine = self.config.batch, self.machine
        share = batch.total // machine.world_size
        size = batch.per_device
        if not size:
            size = min(gather(find_batch_size(share, lambda count: self._probe(model, count), machine.device)))
        items, parts, seed = len(self.task.train_set), max(-(-share // size), 1), self.config.seed
        place: dict[str, int] = {"world_size": machine.world_size, "rank": machine.rank}
        return TrainOrder(num_items=items, batch_size=batch.total, parts=parts, seed=seed, **place)

    def _probe(self, model: VisionModel, count: int) -> None:
        """One forward and backward pass with so many items, to see whether they fit into memory."""
        items = LoaderDataset(self.task.train_set, self.task.transform(), self.config.seed)
        batch = next(batches_of(items, [[Key(0, 0)] * count]))
        batch = self.task.prepare(to_device(batch, self.machine.device), self.spec)
        set_training(model, self.frozen)
        # Adam's two moments will need as much memory as the gradients, twice.
        moments = [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in range(2)]
        buffers = Buffers(model)
        try:
            with self.machine.accelerator.autocast():
                self.task.losses(model(batch["image"]), batch)["loss"].backward()
        finally:
            buffers.put_back()
        model.zero_grad()
        del moments

    def _wrap(self, model: VisionModel) -> None:
        """The model and its optimiser for the processes and the precision."""
        config, machine = self.config, self.machine
        if config.runtime.sync_bn and machine.world_size > 1:
            model = cast(VisionModel, share_batch_norm(model, machine.device))
        self.ema: ModelEmaV3 | None = None
        if config.ema_decay > 0:
            if machine.sharded:
                raise ValueError("ema_decay: an average of the weights needs whole parameters; use DDP or set it to 0")
            # Short runs would otherwise end near the weights they began with.
            self.ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True)
        # FSDP leaves no whole model behind; this one gets the weights that are written to files.
        self.shell = copy.deepcopy(model).cpu() if machine.sharded else None
        optimizer = make_optimizer(self.groups, config.optim)
        self.model, self.optimizer = machine.accelerator.prepare(model, optimizer)
        self.plain: VisionModel = machine.unwrap(self.model)

    def _restore(self, content: dict[str, Any]) -> None:
        # Before the first update nothing has happened that would not happen again.
        self.state = self.state if self.state.update else TrainState(seconds=self.state.seconds)
        self.machine.load_state_dicts(self.model, self.optimizer, content["model"], content["optimizer"])
        if content["scaler"] and (scaler := self.machine.accelerator.scaler):
            scaler.load_state_dict(content["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"])

    def _journal(self) -> Journal:
        config, machine = self.config, self.machine
        if machine.main:
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

    def introduce(self) -> None:
        """Tell the journal what is about to happen."""
        task, config = self.task, self.config
        items, val_items = len(task.train_set) - task.replaced_items, len(task.val_set)
        self.journal.start(
            resumed=self.resumed,
            model=self.plain.info.name,
            trained_parameters=sum(p.numel() for group in self.groups for p in group["params"]),
            train_items=items,
            **({"train_items_left_out": task.replaced_items} if task.replaced_items else {}),
            val_items=val_items,
            updates=self.total,
            updates_per_epoch=self.per_epoch,
            batch=config.batch.total,
            parts=self.order.parts,
            processes=self.machine.world_size,
            device=str(self.machine.device),
            precision=config.runtime.precision,
        )
        if self.resumed:
            return
        if self.fitted:
            seconds = None
            if self.item_seconds is not None:
                validated = val_items * -(-self.total // (config.validate_updates or self.per_epoch))
                seconds = self.item_seconds * (self.total * config.batch.total + VALIDATION_COST * validated)
            self.journal.note(fit_text(config, items, seconds))
        for text in (val_text(config, val_items), task.weights_text(), str(self.loaded or "")):
            if text:
                self.journal.note(text)

    def model_to_keep(self) -> VisionModel:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.ema.module if self.ema is not None else self.plain

    def window_of_all(self) -> dict[str, float]:
        """Sums of the losses since the last line of the log, averaged over the processes."""
        windows = gather(self.window.sums())
        return {name: sum(window[name] for window in windows) / len(windows) for name in windows[0]}

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
        state = self.state
        state.window = self.window_of_all()
        self.write_checkpoint()
        if self.machine.main:
            if state.best_update == state.update:
                keep_as(self.out, BEST)
            every = self.config.save.keep_every
            if every and state.last_validation == state.update and state.validations % every == 0:
                keep_as(self.out, f"update_{state.update}.pt")
            self._saved(self)
        self.machine.accelerator.wait_for_everyone()

    def write_checkpoint(self) -> None:
        """Write ``last.pt``; where the model is split over the processes, every one must take part."""
        model, optimizer = self.machine.state_dicts(self.model, self.optimizer)
        scaler = self.machine.accelerator.scaler
        if self.machine.main:
            save_state(
                self.out,
                self.state,
                config=to_dict(self.config),
                model=model,
                optimizer=optimizer,
                ema=None if self.ema is None else self.ema.module.state_dict(),
                scaler=(scaler.state_dict() or None) if scaler else None,
                data=self.data,
            )
