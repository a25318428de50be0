"""Which parameters are trained, which of them decay, and at what rate.

The three official codes differ in what they exempt from weight decay; see the table in ``OptimConfig.exempt``. A rate
is a pure function of the update's number, counted from 0; a resumed run hence needs no scheduler state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import OptimConfig, RunConfig, ScheduleConfig

# Parts of the trunk by the name a user freezes them by; a stage takes the transition before it along.
TRUNK_PARTS: dict[str, tuple[str, ...]] = {
    "stem": ("conv1", "bn1", "conv2", "bn2"),
    "stage1": ("layer1",),
    "stage2": ("transition1", "stage2"),
    "stage3": ("transition2", "stage3"),
    "stage4": ("transition3", "stage4"),
}


def freeze(model: VisionModel, parts: Iterable[str]) -> list[nn.Module]:
    """Take parts of the backbone out of training: their parameters need no gradient any more.

    Args:
        model: changed in place.
        parts: of ``ModelConfig.frozen``; "norms" are the statistics of batch norms that have some, those of fresh
            layers excepted.

    Returns:
        The frozen modules; they belong into eval mode, see :func:`set_training`.

    Raises:
        ValueError: the model has no such part.
    """
    frozen: list[nn.Module] = []
    norms: list[nn.Module] = []
    for part in parts:
        if part == "norms":
            norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and _has_seen(module)]
        elif part == "backbone":
            frozen.append(model.backbone)
        elif not isinstance(model.backbone, HighResolutionTrunk):
            raise ValueError(f"model.frozen: {model.info.name} can only be frozen as a whole, by 'backbone'")
        else:
            frozen += [model.backbone.get_submodule(name) for name in TRUNK_PARTS[part]]
    for module in frozen:
        module.requires_grad_(False)
    return frozen + norms


def _has_seen(norm: _BatchNorm) -> bool:
    """Whether a batch norm has statistics of pictures, and not those of its start."""
    return norm.running_mean is not None and bool(norm.running_mean.any())


def set_training(model: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Training mode, except for frozen parts, whose batch norms keep their statistics."""
    model.train()
    for module in frozen:
        module.eval()


def parameter_groups(model: VisionModel, config: OptimConfig) -> list[dict[str, Any]]:
    """Groups for the optimiser: "params", "names", "weight_decay" and "scale" (factor on the rate).

    Raises:
        ValueError: nothing is left to train.
    """
    norm_layers = [m for m in model.modules() if isinstance(m, _BatchNorm | nn.LayerNorm | nn.GroupNorm)]
    norms = {id(p) for layer in norm_layers for p in layer.parameters()}
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table, bias = name.endswith("relative_position_bias_table"), name.endswith(".bias")
        exempt = {
            "classification": parameter.ndim <= 1 or bias,
            "pose": table,
            "segmentation": id(parameter) in norms or table or bias,
            "none": False,
        }[config.exempt]
        scale = config.layer_decay ** _layers_above(name) * (1 if name.startswith("backbone.") else config.head_factor)
        empty = {"params": [], "names": [], "scale": scale, "weight_decay": 0.0 if exempt else config.weight_decay}
        group = groups.setdefault((exempt, scale), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ValueError("model.frozen leaves nothing to train")
    return list(groups.values())


def _layers_above(name: str) -> int:
    """How many stages lie between a parameter and the head: 0 for the head itself, 5 for the stem."""
    if not name.startswith("backbone."):
        return 0
    part = name.split(".")[1]
    for number, members in enumerate(reversed(TRUNK_PARTS.values()), start=1):
        if part in members:
            return number
    # timm's backbones: numbered stages or blocks are not told apart.
    return 1 if re.search(r"\d", name) else len(TRUNK_PARTS)


def make_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Optimiser of the configuration, torch's fused form where it has one; rates are set at every update."""
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    # One pass over all weights instead of a dozen: 20 ms instead of 70 for HRFormer-S on two cores.
    fused = devices <= {"cpu", "cuda"} or None
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def total_updates(schedule: ScheduleConfig, updates_per_epoch: int) -> int:
    """Length of a run in optimiser steps."""
    return schedule.updates or max(round(schedule.epochs * updates_per_epoch), 1)


def rate_at(update: int, config: RunConfig, updates_per_epoch: int) -> float:
    """Learning rate of one update.

    Raises:
        ValueError: the warm-up takes the whole run.
    """
    schedule, optim = config.schedule, config.optim
    peak = optim.lr * config.batch.total / optim.lr_batch if optim.lr_batch else optim.lr
    total, ratio = total_updates(schedule, updates_per_epoch), schedule.warmup_ratio
    warmup = schedule.warmup_updates or round(schedule.warmup_epochs * updates_per_epoch)
    warmup = warmup or int(schedule.warmup_share * total)
    if schedule.kind == "step":
        milestones = [round(epoch * updates_per_epoch) for epoch in schedule.milestones]
        return step_rate(update, peak, milestones, schedule.gamma, warmup, ratio)
    if warmup >= total:
        raise ValueError(f"the warm-up of {warmup} updates must be shorter than the run, which has {total}")
    if schedule.kind == "cosine":
        return cosine_rate(update, peak, total, warmup, peak * ratio, peak * schedule.floor_ratio)
    return poly_rate(update, peak, total, schedule.power, warmup, ratio)


def cosine_rate(update: int, peak: float, total: int, warmup: int, start: float, floor: float) -> float:
    """ImageNet: linear warm-up from ``start``, then a cosine that does not restart its clock, as in timm 0.3.2.

    At the end of a warm-up of 20 from 300 epochs the rate drops to a cosine that is already 20 epochs old. The
    official loop sets the rate after each update, so update t runs at the schedule's value for t - 1 and update
    0 at ``start``. Published, at batch 1024: peak 1e-3, start 1e-6, floor 1e-5.
    """
    clock = max(update - 1, 0)
    if clock < warmup:
        return start + clock * (peak - start) / warmup
    if clock >= total:
        return floor
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * clock / total))


def step_rate(update: int, peak: float, milestones: Sequence[int], gamma: float, warmup: int, ratio: float) -> float:
    """COCO pose (MSRA): times ``gamma`` at each milestone, with a linear warm-up of the first updates.

    The official repository's form: update i of the warm-up runs at ``ratio + (1 - ratio) i / warmup`` times the rate.
    mmpose 1.x divides by ``warmup - 1``, so reaches the peak one update earlier. Published: peak 5e-4, gamma 0.1 after
    epochs 170 and 200 of 210, warm-up of 500 updates from a share of 1e-3.
    """
    rate = peak * gamma ** sum(update >= milestone for milestone in milestones)
    return rate * _warmup_share(update, warmup, ratio)


def poly_rate(update: int, peak: float, total: int, power: float, warmup: int, ratio: float) -> float:
    """Segmentation: linear warm-up, then ``peak (1 - share done after the warm-up)^power``; 0 from ``total`` on.

    Published: peak 1e-4, power 0.9, warm-up of 1500 updates from a share of 1e-6.
    """
    if update < warmup:
        return peak * _warmup_share(update, warmup, ratio)
    done = (update - warmup) / (total - warmup)
    return peak * max(1 - done, 0.0) ** power


def _warmup_share(update: int, warmup: int, ratio: float) -> float:
    """Rises linearly from ``ratio`` at update 0 to 1 at the end of the warm-up."""
    return 1.0 if update >= warmup else ratio + (1 - ratio) * update / warmup
