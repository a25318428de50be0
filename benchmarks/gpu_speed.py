"""Speed, memory and profile on one device: the groups of the preset "gpu", ordered by worth."""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import gpu_device
import presets
from calls import DTYPES, Forward, make_input, prepare_training
from candidates import TIMM_NAMES, Candidate, Job, default_size
from conditions import Settings, apply
from gpu_record import Case, Record
from hrformer.fast import stages as fused
from hrformer.fast.fused import fuse_trunk
from hrformer.fast.triton import attention_op as attention
from hrformer.fast.triton import feed_forward_op as depthwise
from measuring import Bench
from networks import build_network
from peers import parse_peers
from plan import Group, Plan, growth_of
from records import Record as Measured

COSTLIEST = 25

BOUNDS = {"pose": (35, 49, 175)}
"""HRFormer-B, 256x192, microseconds for a picture on an H200 at 790 TFLOP/s and 4.3 TB/s: arithmetic, memory with
every stage fused, memory with none."""
STEP_BATCH, FORWARD_BATCH = 32, 64


def speed_cases(options: argparse.Namespace, device: torch.device, record: Record) -> Iterator[Case]:
    """Every group as a case; where one took the process with it, its candidates one by one instead."""
    peers = parse_peers(options.peer)
    plan = _plan(tuple(peers), options.tiny)
    rounds, seconds, warmup = (1, 0, 0) if options.tiny else (5, 0.2, 0.05)
    settings = Settings(device=device.type, checkouts=peers, rounds=rounds, seconds=seconds, warmup=warmup)
    apply(settings)
    with tempfile.TemporaryDirectory(prefix="hrformer-gpu-") as folder:
        bench = Bench(settings, Path(folder), print)

        def measured(group: Group) -> Mapping[str, Any]:
            records = bench.measure(group)
            growth = growth_of(group, records)
            verdicts = [target.judge(records, growth) for target in plan.targets if target.group == group.title]
            rows = [_row(one) for one in records]
            rows += [{"candidate": f"target: {v.name}", "median": _verdict(v)} for v in verdicts]
            failed = [one.candidate.label for one in records if one.failure and one.candidate.origin == "ours"]
            return {"rows": rows, **({"wrong": f"failed: {', '.join(failed)}"} if failed else {})}

        for group in plan.groups:
            yield group.title, lambda group=group: measured(group)
            if record.died(group.title):
                for job in group.jobs:
                    alone = replace(group, title=f"{group.title}: {job.candidate.label}", jobs=(job,))
                    yield alone.title, lambda alone=alone: measured(alone)


def _plan(peers: tuple[Any, ...], tiny: bool) -> Plan:
    """The groups of the preset with plain rivals in CUDA graphs first, and those with compiled ones behind all others.

    Compiling takes a minute for a network, longer than all the rest of its group.
    """
    preset = presets.gpu(peers)
    first, last, targets = [], [], list(preset.targets)
    for group in _sorted([*preset.groups, *_more_groups()]):
        jobs = [job for one in group.jobs for job in _at_once(one, group.kind)]
        first.append(replace(group, jobs=tuple(jobs)))
        if compiled := [job for job in group.jobs if job.candidate.way == "compiled"]:
            ours = [job for job in group.jobs if job.candidate.origin == "ours" and "hrformer" in job.candidate.model]
            best = [job for job in ours if job.candidate.way == "fast"] or ours
            own = [replace(job, candidate=replace(job.candidate, way="compiled")) for job in best]
            title = f"{group.title}, compiled"
            last.append(replace(group, title=title, jobs=(*best, *own, *compiled)))
            targets += [replace(target, group=title) for target in preset.targets if target.group == group.title]
    groups = [*first, *last]
    if tiny:
        one_of_each = {group.kind: group for group in reversed(first)}
        groups = [_shrunk(group) for group in (first[0], one_of_each["train"], one_of_each["train-memory"], last[0])]
        targets = []
    return Plan(name="gpu", groups=tuple(groups), targets=tuple(targets))


def _sorted(groups: list[Group]) -> list[Group]:
    """Batch 64 and batch 1, steps, memory, the rest as it comes; B before S."""
    order = ("Pose", "Latency", "Training step", "Training memory", "Segmentation", "Classification", "Growth")

    def place(group: Group) -> tuple[int, bool]:
        return order.index(next(word for word in order if group.title.startswith(word))), "small" in group.title

    return sorted(groups, key=place)


def _more_groups() -> list[Group]:
    """What the preset does not have: S at batch 1 and in training, and DeiT-B beside B as a classifier."""

    def group(title: str, kind: Any, batch: int, size: tuple[int, int], *candidates: Candidate) -> Group:
        jobs = tuple(Job(candidate=replace(one, precision="bf16"), batch=batch, size=size) for one in candidates)
        return Group(title=title, kind=kind, jobs=jobs)

    small, pose, plane = "hrformer_small", default_size("pose"), default_size("classification")
    w32 = Candidate(model="hrnet_w32", task="pose", layout="channels_last")
    ways = [Candidate(model=small, task="pose", way=way) for way in ("eager", "fast")]
    deit = Candidate(origin="timm", model=TIMM_NAMES["deit_b"], task="classification")
    base = Candidate(model="hrformer_base", task="classification", way="fast")
    return [
        group(f"Latency, {small} for pose, batch 1, bf16", "forward", 1, pose, *ways, w32),
        group(f"Training step, {small} for pose, batch 32, bf16", "train", STEP_BATCH, pose, ways[0], w32),
        group(f"Training memory, {small} for pose, batch 32, bf16", "train-memory", STEP_BATCH, pose, ways[0], w32),
        group("Classification 224, batch 64, bf16", "forward", FORWARD_BATCH, plane, base, deit),
    ]


def _at_once(job: Job, kind: str) -> Iterator[Job]:
    """The job as it is measured before anything is compiled; nothing for what is not installed."""
    one = job.candidate
    if one.way == "compiled" or (one.origin == "transformers" and find_spec("transformers") is None):
        return
    ours = one.origin == "ours" and one.model.startswith("hrformer")
    if one.way == "eager" and not ours and one.origin != "official" and kind == "forward":
        yield replace(job, candidate=replace(one, way="eager-graphs"))
    else:
        yield job
    if one.way == "eager" and ours and kind == "forward":
        yield replace(job, candidate=replace(one, layout="channels_last", way="eager-graphs"))


def _shrunk(group: Group) -> Group:
    """The same group with tiny networks, two pictures and no compiling; a checkout's network keeps its name.

    Memory is that of one network: on a CPU it takes long, and the others' would run the same lines.
    """
    small = {"hrformer": gpu_device.SPECK, "hrnet": gpu_device.HRNET_SPECK}
    jobs: dict[Job, None] = {}
    for job in group.jobs:
        one = job.candidate
        if one.origin == "ours":
            way = "eager" if one.way == "compiled" else one.way
            one = replace(one, model=small[one.model.partition("_")[0]], precision="fp32", way=way)
        elif one.origin == "official":
            one = replace(one, model="hrformer_small", precision="fp32")
        else:
            continue
        jobs[replace(job, candidate=one, batch=2, size=(32, 32))] = None
    return replace(group, jobs=tuple(jobs)[: 1 if "memory" in group.kind else None])


def _row(one: Measured) -> dict[str, Any]:
    if one.failure:
        return {"candidate": one.candidate.label, "batch": one.batch, "failure": one.failure}
    row = {"candidate": one.candidate.label, "batch": one.batch, "size": f"{one.size[0]}x{one.size[1]}"}
    row |= {"median": f"{one.median:.4g} MiB" if "memory" in one.kind else f"{1000 * one.median:.4g} ms"}
    if one.images_per_second:
        row["images/s"] = round(one.images_per_second, 1)
    return row | {"first call": f"{one.first:.3g} s" if one.first else "", "note": one.note}


def _verdict(verdict: Any) -> str:
    if verdict.measured is None:
        return f"not measured: {verdict.reason}"
    return f"{verdict.measured:.3g}, due {verdict.due:g} {verdict.unit}: {'met' if verdict.met else 'missed'}"


def profile_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    """Kernels of B's forward and of its training step, by the time they take."""
    model, size = (gpu_device.SPECK, (16, 16)) if options.tiny else ("hrformer_base", default_size("pose"))
    half: Any = "fp16" if device.type == "cpu" else "bf16"
    candidate = Candidate(model=model, task="pose", way="eager", precision=half)
    with gpu_device.plain_training():
        built = build_network(candidate, {})
    forwards, steps = (1, 2) if options.tiny else (FORWARD_BATCH, STEP_BATCH)

    def forward() -> Mapping[str, Any]:
        # Without a graph, in which the profiler would see one launch.
        network = fuse_trunk(copy.deepcopy(built).to(device, DTYPES[half]))
        run = Forward(network, candidate, device)
        x = make_input(Job(candidate=candidate, batch=forwards, size=size), device, 0)
        return _profile(lambda: run(x), device, forwards)

    def step() -> Mapping[str, Any]:
        # fp16 would want a loss scaler, and bf16 is what the interpreter does not have.
        chosen = replace(candidate, precision="fp32") if device.type == "cpu" else candidate
        job = Job(candidate=chosen, batch=steps, size=size)
        return _profile(prepare_training(built, job, device, 0), device, steps)

    yield f"forward of {model}, batch {forwards}, {half}", forward
    yield f"training step of {model}, batch {steps}, {half}", step


def _profile(call: Callable[[], object], device: torch.device, batch: int) -> Mapping[str, Any]:
    with _Work() as work:
        call()
    gpu_device.synchronize(device)
    with torch.profiler.profile(activities=gpu_device.activities(device), record_shapes=True, with_flops=True) as found:
        call()
        gpu_device.synchronize(device)
    events = [event for event in found.key_averages() if gpu_device.own_time(event, device) > 0]
    kernels = sorted(
        (event for event in events if gpu_device.is_kernel(event, device)),
        key=lambda event: gpu_device.own_time(event, device),
        reverse=True,
    )
    total = sum(gpu_device.own_time(event, device) for event in kernels)
    rows = [
        {
            "kernel": event.key[:70],
            "calls": event.count,
            "us": round(gpu_device.own_time(event, device)),
            "share": f"{gpu_device.own_time(event, device) / total:.1%}",
        }
        for event in kernels[:COSTLIEST]
    ]
    operators = found.key_averages(group_by_input_shape=True)
    rows += [{"kernel": f"ours: {name}", "calls": work.calls[name], **work.amounts(name)} for name in work.calls]
    rows += [
        {"kernel": f"operator: {e.key} {e.input_shapes}"[:110], "calls": e.count, "GFLOP": round(e.flops / 1e9, 3)}
        for e in sorted(operators, key=lambda e: e.flops or 0, reverse=True)[:8]
        if e.flops
    ]
    arithmetic, memory, unfused = BOUNDS["pose"]
    note = (
        f"{total / batch:.1f} us of kernels for a picture. Bounds of B's forward, 256x192, on an H200: {arithmetic} us "
        f"of arithmetic (790 TFLOP/s), {memory} us of memory with every stage fused (4.3 TB/s), {unfused} us with none."
    )
    return {"rows": rows, "note": note}


class _Work:
    """Counts, while it is active, the bytes that our kernels must move and the products that they take."""

    PLACES = (
        (fused, "window_block"), (fused, "pointwise_kernel"), (fused, "attention_forward"),
        (fused, "depthwise_pointwise_kernel"), (fused, "fusion_sum_kernel"), (attention, "attention_forward"),
        (attention, "attention_backward"), (depthwise, "depthwise_forward"), (depthwise, "depthwise_backward"),
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._flops: Counter[str] = Counter()
        self._patches = [
            mock.patch.object(module, name, self._counted(getattr(module, name))) for module, name in self.PLACES
        ]

    def __enter__(self) -> _Work:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        for patch in self._patches:
            patch.stop()

    def _counted(self, launch: Callable[..., Any]) -> Callable[..., Any]:
        name = launch.__name__

        def counted(*given: Any, **options: Any) -> Any:
            result = launch(*given, **options)
            self.calls[name] += 1
            self._bytes[name] += sum(
                t.numel() * t.element_size() for t in _tensors([*given, *options.values(), result])
            )
            self._flops[name] += _products(name, given, signature(launch).bind(*given, **options).arguments)
            return result

        return counted

    def amounts(self, name: str) -> dict[str, Any]:
        """Gigabytes read and written at least once, and floating-point operations of the products."""
        return {"GB": round(self._bytes[name] / 1e9, 4), "GFLOP": round(self._flops[name] / 1e9, 3)}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])


def _products(name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> int:
    """Twice the multiplications of a launch, padding of windows included and that of blocks not."""
    x = given[0]
    cells = x.numel() // x.shape[-1] if isinstance(x, Tensor) else 0
    if name == "pointwise":
        return 2 * cells * given[1].channels[0] * given[1].channels[1]
    if name == "depthwise_pointwise":
        inner, outer = given[1].product.channels
        return 2 * (cells // named.get("stride", 1) ** 2) * (9 * inner + inner * outer)
    if name in ("depthwise_forward", "depthwise_backward"):
        return 18 * x.numel() * (1 if name.endswith("forward") else 3)
    if name in ("window_block", "attention_forward", "attention_backward"):
        window = given[1].window if name == "window_block" else named["window"]
        batch, height, width = x.shape[:3]
        tokens = batch * -(-height // window) * -(-width // window) * window**2
        channels = x.shape[-1] // (3 if name == "attention_forward" else 1)
        products = 2 if name != "attention_backward" else 5
        whole = 8 * tokens * channels**2 if name == "window_block" else 0
        return whole + 2 * products * tokens * window**2 * channels
    return 0
