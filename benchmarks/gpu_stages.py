"""What each stage of ``gpu.py`` does, in a process of its own: cases, one after another, recorded as they end."""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gpu_device
from gpu_record import Case, Record, Skip, stage_json
from gpu_speed import profile_cases, speed_cases
from gpu_tools import sanitizer
from gpu_train import train_cases
from hrformer.benchmark.candidates import Candidate, default_size
from hrformer.benchmark.networks import Sources, build_network
from hrformer.benchmark.timing import TimingConfig, time_interleaved
from hrformer.fast.fused_blocks import fuse_trunk
from hrformer.fast.graphs import map_tensors
from hrformer.fast.optimize import optimize
from hrformer.kernels.launch import assembler_version, switched_off
from kernel_accuracy import error_and_allowed

HERE = Path(__file__).resolve().parent

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
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
MEMCHECK_SECONDS = 40
TINY = [(gpu_device.SPECK, "pose", (32, 32))]


def run_stage(options: argparse.Namespace) -> int:
    """All cases of the stage that ``options`` names."""
    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device that torch can use; --device cpu --tiny runs everything on the processor")
        return 2
    try:
        switched_off()
    except ValueError as error:
        print(error)
        return 2
    device = torch.device(options.device)
    gpu_device.add_specks()
    gpu_device.prepare(device, interpret=options.stage in ("networks", "profile"))
    if options.stage == "forward":
        return _forward_once(options, device)
    record = Record(stage_json(options), lambda: gpu_device.is_alive(device), options.seconds)
    stages = {
        "machine": lambda: machine_cases(options, device),
        "networks": lambda: network_cases(options, device),
        "speed": lambda: speed_cases(options, device, record),
        "profile": lambda: profile_cases(options, device),
        "train": lambda: train_cases(options, device, record),
    }
    return record.run_all(stages[options.stage]())


def machine_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    side = 512 if options.tiny else 8192

    def about() -> Mapping[str, Any]:
        return gpu_device.facts(device) | {"torch": torch.__version__, "ptxas": ".".join(map(str, assembler_version()))}

    def bandwidth() -> Mapping[str, Any]:
        source = torch.zeros(side * side * 16, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        seconds = _seconds(lambda: target.copy_(source), device)
        return {"GB/s": 2 * source.numel() / seconds / 1e9}

    def products() -> Mapping[str, Any]:
        a = torch.randn(side, side, device=device).to(torch.bfloat16)
        return {"TFLOP/s": 2 * side**3 / _seconds(lambda: a @ a, device) / 1e12}

    yield "device", about
    yield "copy, read and written", bandwidth
    yield f"bf16 product of {side} x {side}", products


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median of one call."""
    for _ in range(3):
        call()
    (rounds,) = time_interleaved([call], device, TimingConfig(rounds=3, seconds=0.1, warmup=0.05, most_calls=50))
    return sorted(value for values in rounds for value in values)[sum(map(len, rounds)) // 2]


def network_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """Whole networks in bf16; gradients of a step; a forward under the sanitizer; the networks in other precisions."""
    networks, (first, *others) = (TINY, ["fp16"]) if options.tiny else (NETWORKS, list(DTYPES))

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
        return build_network(Candidate(model=model, task=task), Sources())


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
    command = [program, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, str(HERE / "gpu.py")]
    command += ["--stage", "forward", "--out", str(options.out), "--device", options.device]
    command += ["--tiny"] if options.tiny else []
    try:
        finished = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=MEMCHECK_SECONDS, check=False
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
    size = (32, 32) if model == gpu_device.SPECK else default_size(task)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)).to(device)
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
    outputs: list[Tensor] = []
    map_tensors(lambda y: outputs.append(y) or y, result)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(y.shape, generator=generator).to(x.device, x.dtype) for y in outputs]
    loss = sum(((y.to(x.dtype) * w).square().mean() for y, w in zip(outputs, weights, strict=True)), x.new_zeros(()))
    wanted = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in pairs])
