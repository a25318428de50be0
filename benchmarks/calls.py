"""From a network to something that can be timed: a forward pass, or a training step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from candidates import Candidate, Job
from hrformer.fast.optimize import FastModel, optimize
from hrformer.fast.runtimes.openvino import OpenVINORuntime
from hrformer.fast.triton.graphs import GraphedModel
from hrformer.losses import (
    HardPixels,
    classification_cross_entropy,
    heatmap_mse,
    ohem_cross_entropy,
    segmentation_losses,
)

RECOMPILATIONS = 64
"""Shapes that torch compiles before it gives up and runs plain code; its own 8 would end a sweep silently."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Forward:
    """A candidate's forward pass: call it with (B, 3, H, W).

    Compiling, where there is any, may wait for the first call.

    Args:
        network: in evaluation mode; changed in place.
        candidate: how to run it.
        device: where.

    Raises:
        ValueError: the candidate's backend is not for this device, or not installed.
    """

    def __init__(self, network: nn.Module, candidate: Candidate, device: torch.device) -> None:
        self._candidate, self._device = candidate, device
        self._run: Callable[[Tensor], Any] = _placed(network, candidate, device, input_dtype(candidate, device)).eval()
        if candidate.way == "eager-graphs":
            self._run = GraphedModel(network).eval()
        elif candidate.way.startswith("compiled"):
            self._run = _compiled(network, candidate)
        elif candidate.way.startswith("fast"):
            if candidate.precision == "fp16" and device.type == "cpu":
                raise ValueError(f"{candidate.label}: the runtimes on the CPU compute in fp32 or bf16")
            inside = "bf16" if candidate.precision == "bf16" and device.type == "cpu" else "fp32"
            backend = _backend(candidate) or "auto"
            if (backend, inside) == ("openvino", "bf16"):
                # Its program alone. With random weights HRNet's is a sixth of the largest output off, and ``optimize``
                # would not take it.
                self._run = OpenVINORuntime(network, threads=torch.get_num_threads(), bf16=True, folder=None).run
                return
            # No cache: random weights are never met again.
            options: dict[str, Any] = {"backend": backend, "precision": inside, "cache": False}
            self._run = optimize(network, **options)

    def __call__(self, x: Tensor) -> Any:
        """The network's output."""
        with torch.inference_mode(), autocast(self._candidate, self._device):
            return self._run(x)

    def backend(self) -> str:
        """What the calls so far were run by, where ``optimize`` had a choice; empty else.

        Raises:
            ValueError: it fell back to the plain network or, on the CPU, to another precision, which would be timed
                under a wrong name.
        """
        if not isinstance(self._run, FastModel):
            return ""
        wanted = _backend(self._candidate)
        if self._run.backend == "reference" or (wanted and self._run.backend != wanted):
            raise ValueError(f"{self._candidate.label}: the plain network ran in place of {wanted or 'a fast one'}")
        if self._device.type == "cpu" and self._run.precision != self._candidate.precision:
            raise ValueError(f"{self._candidate.label}: {self._run.backend} ran in {self._run.precision}")
        return self._run.backend


def make_input(job: Job, device: torch.device, seed: int) -> Tensor:
    """Random pictures (B, 3, H, W), normalised ones' mean and spread, in the candidate's layout and precision."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(job.batch, 3, *job.size, generator=generator).to(device)
    if job.candidate.layout == "channels_last":
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    return pictures.to(input_dtype(job.candidate, device))


def prepare_training(network: nn.Module, job: Job, device: torch.device, seed: int) -> Callable[[], Tensor]:
    """One training step: forward, loss, backward, AdamW.

    Half precision is autocast over float32 weights, whatever the candidate says, since nothing else trains; fp16 with
    a loss scaler. The losses are those of the published runs, from ``hrformer.losses``, for every candidate: cross-
    entropy, heatmap MSE, OHEM plus auxiliary cross-entropy.

    Args:
        network: changed in place.
        job: how to run it, and on how many pictures of which size.
        device: where.
        seed: of pictures and targets.

    Returns:
        A call that makes a step and returns the loss before it, a scalar on the device.

    Raises:
        ValueError: the candidate's way cannot be trained.
    """
    candidate = job.candidate
    if candidate.way.startswith(("fast", "eager-")):
        raise ValueError(f"{candidate.label}: training runs eager or compiled, not by {candidate.way}")
    network = _placed(network, candidate, device, torch.float32).train()
    module = _compiled(network, candidate) if candidate.way.startswith("compiled") else network
    x = make_input(job, device, seed).float()
    loss_of = _loss(network, job, device, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=candidate.precision == "fp16")

    def step() -> Tensor:
        half = candidate.precision != "fp32"
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, DTYPES[candidate.precision]) if half else nullcontext():
            loss = loss_of(module(x))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        # Kept on the device: reading it would make the host wait, which a training loop does not do at every step.
        return loss.detach()

    return step


def input_dtype(candidate: Candidate, device: torch.device) -> torch.dtype:
    """Of weights and input of a forward pass."""
    if candidate.half_by == "autocast" or _takes_float32(candidate, device):
        return torch.float32
    return DTYPES[candidate.precision]


def autocast(candidate: Candidate, device: torch.device) -> Any:
    """The context of a forward pass; empty where none is wanted."""
    wanted = candidate.precision != "fp32" and candidate.half_by == "autocast"
    if not wanted or _takes_float32(candidate, device):
        return nullcontext()
    return torch.autocast(device.type, DTYPES[candidate.precision])


def _takes_float32(candidate: Candidate, device: torch.device) -> bool:
    return candidate.way.startswith("fast") and device.type == "cpu"


def _backend(candidate: Candidate) -> str:
    """The backend that the way names; empty for ``optimize``'s own choice."""
    return candidate.way.removeprefix("fast").removeprefix("-")


def _compiled(network: nn.Module, candidate: Candidate) -> Callable[[Tensor], Any]:
    """Compiled for every shape by itself, as a user of one shape would have it."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    mode = "reduce-overhead" if candidate.way == "compiled-graphs" else "default"
    return cast(Callable[[Tensor], Any], torch.compile(network, dynamic=False, mode=mode))


def _placed(network: nn.Module, candidate: Candidate, device: torch.device, dtype: torch.dtype) -> nn.Module:
    network = network.to(device, dtype)
    # The overload of ``to`` with a memory format takes no other argument.
    return network.to(memory_format=torch.channels_last) if candidate.layout == "channels_last" else network


def _loss(network: nn.Module, job: Job, device: torch.device, seed: int) -> Callable[[Any], Tensor]:
    """Loss of a network's output against random targets of the output's shape."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        shape = network.eval()(torch.zeros(1, 3, *job.size, device=device)).shape
    network.train()
    if job.candidate.task == "classification":
        labels = torch.randint(shape[1], (job.batch,), generator=generator).to(device)
        return lambda logits: classification_cross_entropy(logits, labels)
    if job.candidate.task == "pose":
        targets = torch.rand(job.batch, *shape[1:], generator=generator).to(device)
        weights = torch.ones(job.batch, shape[1], device=device)
        return lambda maps: heatmap_mse(maps, targets, weights)
    pixels = torch.randint(shape[1], (job.batch, *job.size), generator=generator).to(device)
    # What the published segmentation runs train on; part of every segmentation candidate's step.
    hard = HardPixels()

    def segmentation(outputs: Any) -> Tensor:
        if isinstance(outputs, Tensor):
            return ohem_cross_entropy(outputs, pixels, hard)
        auxiliary, main = outputs
        return segmentation_losses(auxiliary, main, pixels, hard=hard)["loss"]

    return segmentation
