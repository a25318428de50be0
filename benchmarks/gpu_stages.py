"""Stages of ``gpu.py`` that need the package, each in a process of its own: whole networks, and training here."""

from __future__ import annotations

import argparse
import copy
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import gpu_device
from calls import DTYPES
from candidates import Candidate, default_size
from gpu_host import no_device, sanitizer
from gpu_record import WRONG_USE, Case, Record, Skip, stage_json
from gpu_speed import profile_cases, speed_cases
from hrformer.checkpoints.checkpoint import save_checkpoint
from hrformer.fast.fused import fuse_trunk
from hrformer.fast.optimize import optimize
from hrformer.fast.triton.launch import switched_off
from hrformer.recipes.catalogue import find_recipe
from hrformer.train.config import AnyRun, ModelConfig, SaveConfig, ScheduleConfig
from hrformer.train.loop import train
from hrformer.train.run import Run
from kernel_accuracy import error_and_allowed
from networks import build_network
from peers import parse_peers

HERE = Path(__file__).resolve().parent

NETWORKS = [
    (model, task, size)
    for task, size in (
        ("pose", (256, 192)),
        ("classification", (224, 224)),
        ("pose", (384, 288)),
        ("segmentation", (512, 1024)),
    )
    for model in ("hrformer_small", "hrformer_base")
]
TINY = [(gpu_device.SPECK, "pose", (32, 32))]
PRECISIONS = ("bf16", "fp16", "fp32")
"""In the order of worth."""
MEMCHECK_SECONDS = 40
MOST_BYTES = 16_000_000
"""Of a file of weights, less than what borrowed machines hand back."""
LAST_SECONDS = 8
"""For a run to write its weights and its summary."""


def run_stage(options: argparse.Namespace) -> int:
    """All cases of the stage that ``options`` names."""
    try:
        switched_off()
        parse_peers(options.peer)
        for name in options.train:
            find_recipe(name)
    except ValueError as error:
        print(error)
        return WRONG_USE
    if no_device(options):
        return WRONG_USE
    device = torch.device(options.device)
    gpu_device.add_specks()
    gpu_device.prepare(device, interpret=options.stage in ("networks", "profile"))
    if options.stage == "forward":
        return _forward_once(options, device)
    record = Record(stage_json(options), lambda: gpu_device.is_alive(device), options.seconds)
    stages = {
        "networks": lambda: network_cases(options, device),
        "speed": lambda: speed_cases(options, device, record),
        "profile": lambda: profile_cases(options, device),
        "train": lambda: train_cases(options, device, record),
    }
    return record.run_all(stages[options.stage]())


def network_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """Whole networks in bf16; gradients of a step; a forward under the sanitizer; the networks in other precisions."""
    networks, (first, *others) = (TINY, ["fp16"]) if options.tiny else (NETWORKS, PRECISIONS)

    def compared(dtype: str) -> Iterator[Case]:
        for network in networks:
            name = f"{network[0]} {network[1]} {network[2][0]}x{network[2][1]} {dtype}"
            yield name, lambda network=network: _compare(*network, dtype, device, options.tiny)

    yield from compared(first)
    for task in ("pose",) if options.tiny else ("pose", "segmentation", "classification"):
        model = gpu_device.SPECK if options.tiny else "hrformer_small"
        yield f"gradients of {model} {task}", lambda task=task, model=model: _gradients(model, task, device)
    yield "memcheck of a forward", lambda: _memcheck(options, device)
    for dtype in others:
        yield from compared(dtype)


@cache
def _built(model: str, task: Any) -> nn.Module:
    """Settled random weights, the same in every process and precision; the last few networks stay."""
    with gpu_device.plain_training():
        return build_network(Candidate(model=model, task=task), {})


@cache
def _exact(model: str, task: Any, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Two pictures, and what the network makes of them in float64."""
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).half().to(device)
    with torch.no_grad():
        return x, copy.deepcopy(_built(model, task)).to(device).double()(x.double())


@torch.no_grad()
def _compare(
    model: str, task: str, size: tuple[int, int], dtype: str, device: torch.device, tiny: bool
) -> Mapping[str, Any]:
    """Errors of ours over those allowed, at most twice plain PyTorch's: 1 is the limit."""
    plain = copy.deepcopy(_built(model, task)).to(device, DTYPES[dtype]).eval()
    fused, graphed = fuse_trunk(plain), optimize(plain, backend="auto")
    odd = (size[0] - 3, size[1] + 5) if tiny else (size[0] - 15, size[1] + 9)
    facts: dict[str, Any] = {}
    for label, batch, place in (("batch 1", 1, size), ("batch 16", 16, size), ("odd size", 2, odd)):
        if tiny and batch == 16:
            continue
        pictures, exact = _exact(model, task, place, device)
        # Where a batch is large, the first and the last picture are compared; all must be finite.
        x = pictures.repeat(-(-batch // 2), 1, 1, 1)[-batch:].to(DTYPES[dtype])
        ends = [0, batch - 1] if batch > 1 else [0]
        wanted = exact[-len(ends) :]
        allowed_by = plain(x[ends])
        ways: list[tuple[str, Callable[[Tensor], Tensor], int]] = [("", fused, 1)]
        if not (tiny and label != "batch 1"):
            # Captured at the second call of a shape, replayed at the third.
            ways.append((", graph", graphed, 3))
        for way, run, calls in ways:
            for _ in range(calls):
                ours = run(x)
            error, allowed = error_and_allowed(ours[ends], allowed_by, wanted, DTYPES[dtype])
            facts[label + way] = round(error / allowed, 3) if ours.isfinite().all() else float("nan")
    wrong = [label for label, share in facts.items() if not share <= 1]
    return facts | ({"wrong": f"too inexact: {', '.join(wrong)}"} if wrong else {})


def _forward_once(options: argparse.Namespace, device: torch.device) -> int:
    """One forward of S by our kernels in bf16, for the sanitizer to watch."""
    # The sanitizer may be gone by then, and what it started would go on beside the next cases.
    signal.alarm(MEMCHECK_SECONDS if device.type == "cuda" else 0)
    model, task, size = TINY[0] if options.tiny else NETWORKS[0]
    half = torch.float16 if device.type == "cpu" else torch.bfloat16
    fused = fuse_trunk(_built(model, task).to(device, half))
    with torch.no_grad():
        fused(torch.randn(1, 3, *size).to(device, half))
    gpu_device.synchronize(device)
    return 0


def _memcheck(options: argparse.Namespace, device: torch.device) -> Mapping[str, Any]:
    program = sanitizer()
    if device.type == "cpu":
        _forward_once(options, device)
        raise Skip("there is no device to check; the forward itself ran")
    if program is None:
        raise Skip("compute-sanitizer is absent: neither on PATH nor in a CUDA folder")
    # Calls of CUDA that libraries try and do without are no errors of a kernel.
    command = [program, "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "9"]
    command += [
        sys.executable,
        str(HERE / "gpu.py"),
        "--stage",
        "forward",
        "--out",
        str(options.out),
        "--device",
        options.device,
    ]
    command += ["--tiny"] if options.tiny else []
    # Every tensor in an allocation of its own: behind its end the sanitizer then sees no neighbour.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        finished = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MEMCHECK_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Skip(f"compute-sanitizer was not done after {MEMCHECK_SECONDS} s") from error
    print(finished.stdout)
    found = [line for line in finished.stdout.splitlines() if "ERROR SUMMARY" in line or "Invalid" in line]
    facts = {"found": "; ".join(dict.fromkeys(found)) or "no summary"}
    return facts | ({"wrong": f"exit status {finished.returncode}"} if finished.returncode else {})


def _gradients(model: str, task: str, device: torch.device) -> Mapping[str, Any]:
    """Gradients of a step with our kernels in bf16 autocast, against plain ones and float64."""
    network = copy.deepcopy(_built(model, task)).to(device).train()
    for part in network.modules():
        for name in ("drop_prob", "p"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)  # nothing is left to chance
    # Four pictures of one cell at the coarsest branch: the statistics of two would magnify every rounding.
    batch, size = (4, (32, 32)) if model == gpu_device.SPECK else (2, default_size(task))
    x = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1)).to(device)
    half = torch.float16 if device.type == "cpu" else torch.bfloat16
    ours = _step(network, x, half)
    with gpu_device.plain_training():
        plain, exact = _step(network, x, half), _step(network.double(), x.double(), None)
    error, allowed = error_and_allowed(ours, plain, exact, half)
    facts = {"error/allowed": round(error / allowed, 3), "error/norm": float(error / exact.norm())}
    return facts | ({} if error <= allowed else {"wrong": "the gradients are too inexact"})


def _step(network: nn.Module, x: Tensor, half: torch.dtype | None) -> Tensor:
    """All gradients, one behind the other, of a loss that weighs every output differently."""
    network = copy.deepcopy(network)
    with torch.autocast(x.device.type, half or torch.bfloat16, enabled=half is not None):
        result = network(x)
    outputs = [y for y in tree_leaves(result) if isinstance(y, Tensor)]
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(y.shape, generator=generator).to(x.device, x.dtype) for y in outputs]
    loss = sum(((y.to(x.dtype) * w).square().mean() for y, w in zip(outputs, weights, strict=True)), x.new_zeros(()))
    wanted = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs])


def train_cases(options: argparse.Namespace, device: torch.device, record: Record) -> Iterator[Case]:
    """The recipes share the time that is left."""
    for number, name in enumerate(options.train):
        if not record.known(name):
            seconds = record.left() / (len(options.train) - number)
            yield name, lambda name=name, seconds=seconds: _train(name, options, device, record, seconds)


def _train(
    name: str, options: argparse.Namespace, device: torch.device, record: Record, seconds: float
) -> Mapping[str, Any]:
    config, out = _config(name, options, device), options.out / "train" / name
    weights = options.out / "weights" / f"{name}.safetensors"

    def keep(run: Run) -> None:
        files = write_small(run, weights)
        losses = {key: value / run.state.window["count"] for key, value in run.state.window.items() if key == "loss"}
        record.note(name, update=run.state.update, of=run.total, best=run.state.best, weights=files, **losses)

    def too_late(number: int, frame: object) -> NoReturn:
        raise TimeoutError(f"{seconds:.0f} s were over before its first update")

    # As Ctrl-C would: the run writes its checkpoint and ends. It handles the signal itself once it has begun.
    before = signal.signal(signal.SIGTERM, too_late)
    end = threading.Timer(max(seconds - LAST_SECONDS, 1), os.kill, (os.getpid(), signal.SIGTERM))
    end.daemon = True
    end.start()
    try:
        result = train(config, out, resume=True, saved=keep)
    finally:
        end.cancel()
        signal.signal(signal.SIGTERM, before)
    best = {} if result.best is None else {"score": f"{result.main} {result.best:.4f} at update {result.best_update}"}
    return {"update": result.update, "ended": result.interrupted or "at its end", **best}


def _config(name: str, options: argparse.Namespace, device: torch.device) -> AnyRun:
    """The recipe on the given data, without what a bare environment lacks: trackers, and drawn pictures."""
    config = find_recipe(name)()
    on_cpu = device.type == "cpu"
    runtime = replace(config.runtime, cpu=on_cpu, threads=0, workers=0 if on_cpu else None)
    config = replace(
        config,
        data=replace(config.data, root=options.data),
        runtime=runtime,
        log=replace(config.log, trackers=(), pictures=0),
        save=SaveConfig(every_updates=1 if options.tiny else 0, every_minutes=1),
    )
    if not options.tiny:
        return config
    return replace(
        config,
        model=ModelConfig(name=gpu_device.SPECK, head_planes=4, head_width=16),
        schedule=ScheduleConfig(updates=2),
        batch=replace(config.batch, total=4),
        validate_updates=2,
    )


def write_small(run: Run, path: Path) -> str:
    """Write a run's weights in 16 bits, as files of at most ``MOST_BYTES``; their names.

    One file is what ``hrformer.load`` takes. More are parts of it, ``NAME.1-of-3.safetensors`` and so on: the tensors
    of all parts together are the state dict.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model = run.model_to_keep()
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    total = sum(value.numel() * value.element_size() for value in half.values())
    # The header with names and shapes takes some, too.
    if total < 0.98 * MOST_BYTES:
        save_checkpoint(model, path, half=True, metadata={"recipe": f"{run.config.recipe}, update {run.state.update}"})
        return path.name
    count = math.ceil(total / (0.9 * MOST_BYTES))
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    sizes = [0] * count
    for key, value in sorted(half.items(), key=lambda item: -item[1].numel()):
        smallest = sizes.index(min(sizes))
        parts[smallest][key] = value.contiguous().cpu()
        sizes[smallest] += value.numel() * value.element_size()
    names = [f"{path.stem}.{number}-of-{count}.safetensors" for number in range(1, count + 1)]
    for name, part in zip(names, parts, strict=True):
        whole = path.with_name(name + ".part")
        save_file(part, whole)
        os.replace(whole, path.with_name(name))
    return f"{names[0]} and {count - 1} more"
