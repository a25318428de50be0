"""Which parameters are trained, which of them decay, and at what rate.

The three official codes differ in what they exempt from weight decay; see the table in ``OptimConfig.exempt``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk
from hrformer.train.config import OptimConfig, RunConfig, ScheduleConfig
from hrformer.train.schedules import cosine_rate, poly_rate, step_rate

BIAS_TABLE = "relative_position_bias_table"

# Parts of the trunk by the name a user freezes them by; a stage takes the transition before it along.
TRUNK_PARTS: dict[str, tuple[str, ...]] = {
    "stem": ("conv1", "bn1", "conv2", "bn2"),
    "stage1": ("layer1",),
    "stage2": ("transition1", "stage2"),
    "stage3": ("transition2", "stage3"),
    "stage4": ("transition3", "stage4"),
}


def freeze(model: VisionModel, parts: Iterable[str]) -> list[nn.Module]:
    """Take parts of the backbone out of training.

    Args:
        model: changed in place: the parameters of these parts need no gradient.
        parts: "stem", "stage1" to "stage4", or "backbone" for everything but the head; "norms" for the statistics
            of batch norms that have some, those of fresh layers excepted; their parameters go on being trained.

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
        elif part not in TRUNK_PARTS:
            known = ", ".join([*TRUNK_PARTS, "backbone", "norms"])
            raise ValueError(f"model.frozen: {part!r} is no part; there are {known}")
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
        decayed = not is_exempt(name, parameter, config.exempt, norm=id(parameter) in norms)
        scale = config.layer_decay ** _layers_above(name) * (1 if name.startswith("backbone.") else config.head_factor)
        empty = {"params": [], "names": [], "scale": scale, "weight_decay": config.weight_decay if decayed else 0.0}
        group = groups.setdefault((decayed, scale), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ValueError("model.frozen leaves nothing to train")
    return list(groups.values())


def is_exempt(name: str, parameter: torch.Tensor, rule: str, *, norm: bool) -> bool:
    """Whether a parameter is not decayed.

    Args:
        name: full name in the model.
        parameter: itself, for its shape.
        rule: of ``OptimConfig.exempt``.
        norm: whether it belongs to a normalisation layer.
    """
    table = name.endswith(BIAS_TABLE)
    if rule == "classification":
        return parameter.ndim <= 1 or name.endswith(".bias")
    if rule == "pose":
        return table
    if rule == "segmentation":
        return norm or table or name.endswith(".bias")
    return False


def _layers_above(name: str) -> int:
    """How many stages lie between a parameter and the head: 0 for the head itself, 5 for the stem."""
    if not name.startswith("backbone."):
        return 0
    part = name.removeprefix("backbone.").partition(".")[0]
    order = list(TRUNK_PARTS)
    for number, (_, members) in enumerate(reversed(TRUNK_PARTS.items()), start=1):
        if part in members:
            return number
    # timm's backbones: numbered stages or blocks are not told apart.
    return 1 if re.search(r"\d", name) else len(order)


def make_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Optimiser of the configuration, torch's fused form where it has one; rates are set at every update."""
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    # One pass over all weights instead of a dozen: 20 ms instead of 70 for HRFormer-S on two cores.
    fused = devices <= {"cpu", "cuda"} or None
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def peak_rate(config: RunConfig) -> float:
    """Peak rate of a run at its total batch."""
    optim = config.optim
    return optim.lr * config.batch.total / optim.lr_batch if optim.lr_batch else optim.lr


def total_updates(schedule: ScheduleConfig, updates_per_epoch: int) -> int:
    """Length of a run in optimiser steps."""
    return schedule.updates or max(round(schedule.epochs * updates_per_epoch), 1)


def rate_at(update: int, config: RunConfig, updates_per_epoch: int) -> float:
    """Learning rate of one update, counted from 0; a pure function, so that resuming needs no state."""
    schedule, peak = config.schedule, peak_rate(config)
    total = total_updates(schedule, updates_per_epoch)
    warmup = schedule.warmup_updates or round(schedule.warmup_epochs * updates_per_epoch)
    warmup = warmup or int(schedule.warmup_share * total)
    if schedule.kind == "cosine":
        return cosine_rate(
            update,
            peak=peak,
            total_updates=total,
            warmup_updates=warmup,
            warmup_start=peak * schedule.warmup_ratio,
            floor=peak * schedule.floor_ratio,
        )
    if schedule.kind == "step":
        return step_rate(
            update,
            peak=peak,
            milestones=[round(epoch * updates_per_epoch) for epoch in schedule.milestones],
            gamma=schedule.gamma,
            warmup_updates=warmup,
            warmup_ratio=schedule.warmup_ratio,
        )
    return poly_rate(
        update,
        peak=peak,
        total_updates=total,
        power=schedule.power,
        warmup_updates=warmup,
        warmup_ratio=schedule.warmup_ratio,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
