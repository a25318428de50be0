"""``hrformer bench``: how fast models run on this machine, plain and by ``optimize``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Literal

import torch
from rich.table import Table
from tyro.conf import Positional, arg

from hrformer.cli.arguments import General
from hrformer.cli.messages import note, say, wide_console
from hrformer.fast.choice import Precision, weights_precision
from hrformer.fast.optimize import optimize
from hrformer.models.model import Task, VisionModel, find_device
from hrformer.predict.predictors import load
from hrformer.train.run_folder import versions
from hrformer.zoo import create_model, list_models

FIRST_CALLS = 3  # Calls before the timed ones: runtimes compile a size when it comes for the third time
LEAST_CALLS = 5  # Timed calls, however long they take

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": torch.float32}


@dataclass(frozen=True, kw_only=True)
class BenchArguments(General):
    """Time models on this machine: plain PyTorch, and `hrformer.optimize`, on random pictures.

    Beside other implementations, with training, memory and start: `python benchmarks/run.py` of the repository.
    """

    # Names from `hrformer models`, weight files, or hf://OWNER/REPO. A model alone has random weights.
    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...")] = ("hrformer_small",)
    task: Task = "pose"  # Head of models that are named without weights.
    batch: tuple[int, ...] = (1,)  # How many pictures go through the network at once.
    # Height and width of the pictures. Default: what the weights are for, or the task's usual size.
    size: tuple[int, int] | None = None
    # Of weights and arithmetic; fp16 is for a GPU. auto: bf16 in the rows of `hrformer.optimize` where our kernels have
    # it for this processor, else fp32.
    precision: Precision | Literal["fp16"] = "fp32"
    device: str | None = None  # Where to run, such as cpu or cuda:0. Default: the GPU if there is one.
    threads: int = 0  # On a CPU. Default: as many as PyTorch takes, one per core.
    seconds: float = 2.0  # How long each row is timed, at least.


def run_bench(arguments: BenchArguments) -> int:
    """Time all models and print the table."""
    device, size = find_device(arguments.device), arguments.size
    if min(arguments.batch, default=0) < 1 or (size is not None and min(size) < 32):
        raise ValueError(f"--batch must be at least 1 and --size 32 32, got {arguments.batch} and {size}")
    if arguments.threads < 0 or arguments.seconds < 0:
        raise ValueError(f"--threads and --seconds must not be negative, got {arguments.threads}, {arguments.seconds}")
    if arguments.precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 is for a GPU; a CPU takes fp32, bf16 or auto")
    named, task = list_models(), arguments.task
    models = {n: create_model(n, task) if n in named else load(n, "cpu").model for n in arguments.models}
    table = Table(title=f"{arguments.precision} on {device}", title_justify="left")
    for column in ("model", "run by", "in"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "size", "first call", "median", "pictures/s", "peak memory"):
        table.add_column(column, justify="right")
    if device.type == "cuda":
        table.caption = "Peak memory: above the weights."
    with _conditions(arguments.threads):
        for name, model in models.items():
            model.eval()
            height, width = size or model.info.input_spec.size
            for batch in arguments.batch:
                note(f"{name}, batch {batch}")
                x = torch.randn(batch, model.info.options.get("in_chans", 3), height, width)
                for way, first, middle, peak in _timings(model, x, arguments.precision, device, arguments.seconds):
                    cells = [name, *way, str(batch), f"{height}x{width}", f"{first:.3g} s"]
                    cells += [f"{1000 * middle:.4g} ms", f"{batch / middle:.3g}"]
                    table.add_row(*cells, f"{peak / 2**20:.0f} MiB" if peak else "-")
            model.to("cpu")
        threads = torch.get_num_threads()
    wide_console().print(table)
    machine = versions()
    gpus = f"; {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    say(f"{machine['cpu']}, {threads} threads{gpus}; torch {machine['torch']}; {machine['date']}")
    return 0


def _timings(
    model: VisionModel, x: torch.Tensor, precision: Precision | Literal["fp16"], device: torch.device, seconds: float
) -> Iterator[tuple[tuple[str, str], float, float, int]]:
    """What runs the model, in which precision, and how long that takes: first plain PyTorch, then as ``optimize`` does.

    ``model``, float32 in evaluation mode, and ``x`` (B, C, H, W) are on the CPU.
    """
    dtype = DTYPES[precision]
    pictures = x.to(device, dtype)
    plain = model.to(device, dtype)
    yield ("PyTorch", weights_precision(plain)), *_time(lambda: plain(pictures), device, seconds)
    if device.type == "cpu":
        # Kernels and runtimes on the CPU take float32 and compute in bfloat16 inside.
        plain, pictures = plain.float(), x
    fast = optimize(plain, precision="fp32" if precision == "fp16" else precision)
    way = f"optimize: {'PyTorch' if fast.backend == 'reference' else fast.backend}"
    if fast.reason:
        note(fast.reason)
    yield (way, fast.precision), *_time(lambda: fast(pictures), device, seconds)


@torch.inference_mode()
def _time(call: Callable[[], object], device: torch.device, seconds: float) -> tuple[float, float, int]:
    """Seconds of the slowest of the first calls and of the median one; on a GPU bytes in use at most, above weights."""

    def once() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    first = max(once() for _ in range(FIRST_CALLS))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times: list[float] = []
    while len(times) < LEAST_CALLS or sum(times) < seconds:
        times.append(once())
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return first, median(times), peak


@contextmanager
def _conditions(threads: int) -> Iterator[None]:
    """So many threads, and zero for denormal numbers, which random weights lead to and which are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
