"""The standard runs: what the project promises about speed, on a CPU and on one GPU."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import product
from typing import Any

from candidates import VITPOSE, Candidate, Job, Layout, Origin, Precision, Way, default_size
from hrformer.models.model import Task
from own_process import TO_FIRST_RESULT
from peers import REPOSITORIES, has_peer
from plan import Group, Plan, Selector, Target, sweep_group
from records import Kind

POSE = default_size("pose")
CITYSCAPES = (1024, 2048)
LINEAR = 1.1
"""Largest exponent that passes for growth in proportion: a tenth more than 1 is what caches and rounding to whole
windows can do."""

SMALL, BASE = "hrformer_small", "hrformer_base"
RIVALS = {SMALL: "hrnet_w32", BASE: "hrnet_w48"}
"""HRNet of about the same accuracy (COCO, 256x192: 74.0 and 74.4, 75.6 and 75.1 AP)."""

Peers = Collection[Origin]


class _Parts:
    """Groups and targets of a preset, as they are added.

    Args:
        peers: other implementations at hand.
        half: everything in bfloat16.
    """

    def __init__(self, peers: Peers, half: bool) -> None:
        self.peers, self.half = peers, half
        self.groups: list[Group] = []
        self.targets: list[Target] = []

    def some(
        self,
        model: str,
        task: Task,
        *ways: Way,
        layouts: tuple[Layout, ...] = ("contiguous",),
        origin: Origin = "ours",
    ) -> list[Candidate]:
        """A network in several ways and layouts; all in bfloat16 where the preset is."""
        half: Precision = "bf16" if self.half else "fp32"
        return [
            Candidate(origin=origin, model=model, task=task, way=way, layout=layout, precision=half)
            for way, layout in product(ways, layouts)
        ]

    def peers_of(self, model: str, task: Task) -> list[Candidate]:
        """The same network by the other implementations that are at hand and have it."""
        there = [origin for origin in REPOSITORIES if origin in self.peers and has_peer(origin, model, task)]
        return [one for origin in there for one in self.some(model, task, "eager", origin=origin)]

    def group(
        self, title: str, kind: Kind, candidates: Iterable[Candidate], batch: int, size: tuple[int, int] = POSE
    ) -> str:
        """Add a group; returns its title."""
        jobs = tuple(Job(candidate=one, batch=batch, size=size) for one in candidates)
        self.groups.append(Group(title=title, kind=kind, jobs=jobs))
        return title

    def target(
        self, group: str, name: str, model: str, against: Selector | None, due: float, then: float | None, **more: Any
    ) -> None:
        """Add a target for a group."""
        ours = Selector(model=model, ways=more.pop("ways", ()), precision=more.pop("precision", None))
        self.targets.append(Target(name=name, group=group, ours=ours, against=against, due=due, then=then, **more))

    def growth(self, model: str, batches: tuple[float, ...], batch: int) -> None:
        """Add sweeps over batches, and over sizes at one batch, each with its target."""
        candidates = self.some(model, "pose", "fast")
        over_batch, over_pixels = f"Growth with the batch, {model}", f"Growth with the pixels, {model}"
        self.groups += [
            sweep_group(over_batch, candidates, "batch", batches, batch=1, size=POSE),
            sweep_group(over_pixels, candidates, "size", (0.5, 1, 1.5, 2), batch=batch, size=POSE),
        ]
        self.target(over_batch, f"{model}, growth with the batch", model, None, LINEAR, None, unit="exponent")
        self.target(over_pixels, f"{model}, growth with the pixels", model, None, LINEAR, None, unit="exponent")


def _official(model: str) -> Selector:
    return Selector(origin="official", model=model, ways=("eager",))


def cpu(peers: Peers = ()) -> Plan:
    """Targets on a CPU: pose at 256x192, a training step of the small classifier, growth, and the first result.

    Args:
        peers: other implementations at hand.
    """
    parts = _Parts(peers, half=False)
    some = parts.some
    for (model, rival), batch in product(RIVALS.items(), (1, 8)):
        candidates = some(model, "pose", "eager", "fast", "fast-openvino") + parts.peers_of(model, "pose")
        candidates += some(rival, "pose", "eager", layouts=("contiguous", "channels_last"))
        candidates += some(rival, "pose", "fast-openvino", "fast-onnxruntime")
        if model == BASE:
            candidates += some(VITPOSE, "pose", "eager", "fast-openvino", origin="transformers")
        title = parts.group(f"Pose 256x192, {model}, batch {batch}", "forward", candidates, batch)
        name = f"{model} against the official code in eager, batch {batch}"
        parts.target(title, name, model, _official(model), 3.0, 5.0)
        name = f"{model} against the best of {rival}, batch {batch}"
        parts.target(title, name, model, Selector(model=rival), 1.0, 1.6 if model == SMALL else 1.1)

    task: Task = "classification"
    size = default_size(task)
    candidates = some(SMALL, task, "eager") + parts.peers_of(SMALL, task)
    candidates += some("hrnet_w32", task, "eager", origin="timm")
    candidates += some("swin_tiny_patch4_window7_224", task, "eager", origin="timm")
    title = parts.group("Training step, classification 224, batch 4", "train", candidates, 4, size)
    parts.target(title, f"{SMALL}, training step against the official code", SMALL, _official(SMALL), 2.5, 4.0)
    title = parts.group("Training memory, classification 224, batch 4", "train-memory", candidates[:3], 4, size)
    parts.target(title, f"{SMALL}, training memory against the official code", SMALL, _official(SMALL), 2.0, None)

    parts.growth(SMALL, (1, 2, 4, 8, 16), 1)
    title = parts.group(f"Start, {SMALL} for pose", "start", some(SMALL, "pose", "eager", "fast"), 1)
    for cache in ("first run", "later runs"):
        part = f"{TO_FIRST_RESULT}, {cache}"
        parts.target(title, f"first result, {cache}", SMALL, None, 5.0, None, unit="s", part=part, ways=("fast",))
    return Plan(name="cpu", groups=tuple(parts.groups), targets=tuple(parts.targets))


def cpu_bf16(peers: Peers = ()) -> Plan:
    """Targets on a CPU in bfloat16: pose at 256x192 against HRNet in the same precision and our own float32, and a
    training step against the official code in the precision that suits it best.

    Args:
        peers: other implementations at hand; only for training.
    """
    parts = _Parts(peers, half=True)
    for (model, rival), batch in product(RIVALS.items(), (1, 8)):
        candidates = parts.some(model, "pose", "fast", "fast-openvino") + parts.some(rival, "pose", "fast-openvino")
        candidates += _Parts(peers, half=False).some(model, "pose", "fast")
        title = parts.group(f"Pose 256x192, {model}, batch {batch}, bf16", "forward", candidates, batch)
        name = f"{model} against the best of {rival}, bf16, batch {batch}"
        half: Precision = "bf16"
        parts.target(title, name, model, Selector(model=rival), 1.0, 1.5, precision=half)
        if model == BASE:
            name = f"{model} in bf16 against its own float32, batch {batch}"
            own = Selector(model=model, precision="fp32")
            parts.target(title, name, model, own, 1.6, 1.8, precision=half, ways=("fast",))
    _cpu_training(parts)
    return Plan(name="cpu-bf16", groups=tuple(parts.groups), targets=tuple(parts.targets))


def _cpu_training(parts: _Parts) -> None:
    task: Task = "classification"
    candidates: list[Candidate] = []
    for one in (parts, _Parts(parts.peers, half=False)):
        candidates += one.some(SMALL, task, "eager") + one.peers_of(SMALL, task)
    size, words = default_size(task), "classification 224, batch 4, bf16"
    kinds: tuple[tuple[Kind, str, float, float | None], ...] = (
        ("train", "step", 2.5, 4.0),
        ("train-memory", "memory", 2.0, None),
    )
    for kind, word, due, then in kinds:
        title = parts.group(f"Training {word}, {words}", kind, candidates, 4, size)
        name = f"{SMALL}, training {word} in bf16 against the official code at its best"
        parts.target(title, name, SMALL, _official(SMALL), due, then, precision="bf16")


def gpu(peers: Peers = ()) -> Plan:
    """Targets on one GPU in bfloat16: pose at 256x192, batch 64 and 1; a training step; large segmentation; growth.

    Args:
        peers: other implementations at hand.
    """
    parts = _Parts(peers, half=True)
    for model, rival in RIVALS.items():
        candidates = parts.some(model, "pose", "eager", "fast") + parts.peers_of(model, "pose")
        candidates += parts.some(rival, "pose", "eager", "compiled", layouts=("channels_last",))
        if model == BASE:
            candidates += parts.some(VITPOSE, "pose", "eager", "compiled", origin="transformers")
        title = parts.group(f"Pose 256x192, {model}, batch 64, bf16", "forward", candidates, 64)
        due, then = (1.0, 1.5) if model == BASE else (1.3, 2.0)
        parts.target(title, f"{model} against the best of {rival}", model, Selector(model=rival), due, then)
        if model == BASE:
            vit = Selector(origin="transformers", model=VITPOSE)
            parts.target(title, f"{model} against the official code in eager", model, _official(model), 5.0, None)
            parts.target(title, f"{model} against the best of {VITPOSE}", model, vit, 1.0, None)
    _gpu_latency(parts)
    _gpu_training(parts)
    _gpu_segmentation(parts)
    parts.growth(BASE, (8, 16, 32, 64, 128), 16)
    return Plan(name="gpu", groups=tuple(parts.groups), targets=tuple(parts.targets))


def _gpu_latency(parts: _Parts) -> None:
    candidates = parts.some(BASE, "pose", "eager", "fast") + parts.peers_of(BASE, "pose")
    candidates += parts.some("hrnet_w48", "pose", "eager", "fast", layouts=("channels_last",))
    candidates += parts.some(VITPOSE, "pose", "eager", origin="transformers")
    title = parts.group(f"Latency, {BASE} for pose, batch 1, bf16", "forward", candidates, 1)
    parts.target(title, f"{BASE}, latency of one picture", BASE, None, 3.0, 1.5, unit="ms")


def _gpu_training(parts: _Parts) -> None:
    rival = RIVALS[BASE]
    candidates = parts.some(BASE, "pose", "eager") + parts.peers_of(BASE, "pose")
    candidates += parts.some(rival, "pose", "eager", "compiled", layouts=("channels_last",))
    step = parts.group(f"Training step, {BASE} for pose, batch 32, bf16", "train", candidates, 32)
    memory = parts.group(f"Training memory, {BASE} for pose, batch 32, bf16", "train-memory", candidates, 32)
    official = _official(BASE)
    parts.target(step, f"{BASE}, training step against the official code", BASE, official, 3.0, 5.0)
    parts.target(step, f"{BASE}, training step against the best of {rival}", BASE, Selector(model=rival), 1.0, None)
    parts.target(memory, f"{BASE}, training memory against the official code", BASE, official, 2.0, None)


def _gpu_segmentation(parts: _Parts) -> None:
    candidates = parts.some(BASE, "segmentation", "eager", "fast") + parts.peers_of(BASE, "segmentation")
    kinds: tuple[tuple[Kind, str, str, float], ...] = (
        ("forward", "Segmentation", "speed", 4.0),
        ("memory", "Segmentation memory", "memory", 3.0),
    )
    for kind, words, what, due in kinds:
        title = parts.group(f"{words} 1024x2048, {BASE} with OCR, bf16", kind, candidates, 1, CITYSCAPES)
        name = f"{BASE} with OCR, {what} against the official code"
        parts.target(title, name, BASE, _official(BASE), due, None)


PRESETS: Mapping[str, Callable[[Peers], Plan]] = {"cpu": cpu, "cpu-bf16": cpu_bf16, "gpu": gpu}
