"""The standard runs: what the project promises about speed, on a CPU and on one GPU."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import product

from hrformer.benchmark.candidates import VITPOSE, Candidate, Layout, Origin, Way, default_size
from hrformer.benchmark.peers import ORIGINS, has_peer
from hrformer.benchmark.plan import Group, Job, Plan, Selector, Target, sweep_group
from hrformer.benchmark.start import TOTAL
from hrformer.models.model import Task

POSE = default_size("pose")
CITYSCAPES = (1024, 2048)
LINEAR = 1.1
"""Largest exponent that passes for growth in proportion: a tenth more than 1 is what caches and rounding to whole
windows can do."""

RIVALS = {"hrformer_small": "hrnet_w32", "hrformer_base": "hrnet_w48"}
"""HRNet of about the same accuracy (COCO, 256x192: 74.0 and 74.4, 75.6 and 75.1 AP)."""

Peers = Collection[Origin]


def _some(
    model: str,
    task: Task,
    ways: tuple[Way, ...],
    layouts: tuple[Layout, ...] = ("contiguous",),
    origin: Origin = "ours",
) -> list[Candidate]:
    return [
        Candidate(origin=origin, model=model, task=task, way=way, layout=layout)
        for way, layout in product(ways, layouts)
    ]


def _peers(model: str, task: Task, peers: Peers, ways: tuple[Way, ...] = ("eager",)) -> list[Candidate]:
    there = [origin for origin in ORIGINS if origin in peers and has_peer(origin, model, task)]
    return [candidate for origin in there for candidate in _some(model, task, ways, origin=origin)]


def _jobs(candidates: list[Candidate], batch: int, size: tuple[int, int], half: bool = False) -> tuple[Job, ...]:
    if half:
        candidates = [replace(one, precision="bf16") for one in candidates]
    return tuple(Job(candidate=one, batch=batch, size=size) for one in candidates)


def _ours(model: str) -> Selector:
    return Selector(origin="ours", model=model)


def _official(model: str, ways: tuple[Way, ...] = ("eager",)) -> Selector:
    return Selector(origin="official", model=model, ways=ways)


def cpu(peers: Peers = ()) -> Plan:
    """Targets on a CPU: pose at 256x192, a training step of the small classifier, growth, and the first result.

    Args:
        peers: other implementations at hand.
    """
    groups: list[Group] = []
    targets: list[Target] = []
    for (model, rival), batch in product(RIVALS.items(), (1, 8)):
        title = f"Pose 256x192, {model}, batch {batch}"
        candidates = _some(model, "pose", ("eager", "fast", "fast-openvino"))
        candidates += _peers(model, "pose", peers)
        candidates += _some(rival, "pose", ("eager",), ("contiguous", "channels_last"))
        candidates += _some(rival, "pose", ("fast-openvino", "fast-onnxruntime"))
        if model == "hrformer_base":
            candidates += _some(VITPOSE, "pose", ("eager", "fast-openvino"), origin="transformers")
        groups.append(Group(title=title, kind="forward", jobs=_jobs(candidates, batch, POSE)))
        then = 1.6 if model == "hrformer_small" else 1.1
        targets += [
            Target(
                name=f"{model} against the official code in eager, batch {batch}",
                group=title,
                ours=_ours(model),
                against=_official(model),
                due=3.0,
                then=5.0,
            ),
            Target(
                name=f"{model} against the best of {rival}, batch {batch}",
                group=title,
                ours=_ours(model),
                against=_ours(rival),
                due=1.0,
                then=then,
            ),
        ]
    more, judged = _cpu_training(peers)
    sweeps, limits = _growth([Candidate(model="hrformer_small", task="pose", way="fast")], (1, 2, 4, 8, 16), 1)
    start = "Start, hrformer_small for pose"
    started = Group(title=start, kind="start", jobs=_jobs(_some("hrformer_small", "pose", ("eager", "fast")), 1, POSE))
    fast = Selector(origin="ours", model="hrformer_small", ways=("fast",))
    limits += [
        Target(name=f"first result, {cache}", group=start, ours=fast, due=5.0, unit="s", part=f"{TOTAL}, {cache}")
        for cache in ("first run", "later runs")
    ]
    return Plan(name="cpu", groups=(*groups, *more, *sweeps, started), targets=(*targets, *judged, *limits))


def _cpu_training(peers: Peers) -> tuple[list[Group], list[Target]]:
    model, size = "hrformer_small", default_size("classification")
    candidates = _some(model, "classification", ("eager",)) + _peers(model, "classification", peers)
    candidates += _some("hrnet_w32", "classification", ("eager",), origin="timm")
    candidates += _some("swin_tiny_patch4_window7_224", "classification", ("eager",), origin="timm")
    jobs = _jobs(candidates, 4, size)
    step = Group(title="Training step, classification 224, batch 4", kind="train", jobs=jobs)
    memory = Group(title="Training memory, classification 224, batch 4", kind="train-memory", jobs=jobs[:3])
    names = {step.title: ("training step", 1.8, 2.5), memory.title: ("training memory", 2.0, None)}
    return [step, memory], [
        Target(
            name=f"{model}, {name} against the official code",
            group=title,
            ours=_ours(model),
            against=_official(model),
            due=due,
            then=then,
        )
        for title, (name, due, then) in names.items()
    ]


def _growth(candidates: list[Candidate], batches: tuple[float, ...], batch: int) -> tuple[list[Group], list[Target]]:
    model = candidates[0].model
    groups = [
        sweep_group(f"Growth with the batch, {model}", candidates, "batch", batches, batch=1, size=POSE),
        sweep_group(f"Growth with the pixels, {model}", candidates, "size", (0.5, 1, 1.5, 2), batch=batch, size=POSE),
    ]
    return groups, [
        Target(
            name=f"{model}, {group.title.partition(',')[0].lower()}",
            group=group.title,
            ours=_ours(model),
            due=LINEAR,
            unit="exponent",
        )
        for group in groups
    ]


def gpu(peers: Peers = ()) -> Plan:
    """Targets on one GPU in bfloat16: pose at 256x192, batch 64 and 1; a training step; large segmentation; growth.

    Args:
        peers: other implementations at hand.
    """
    groups: list[Group] = []
    targets: list[Target] = []
    for model, rival in RIVALS.items():
        title = f"Pose 256x192, {model}, batch 64, bf16"
        candidates = _some(model, "pose", ("eager", "fast")) + _peers(model, "pose", peers)
        candidates += _some(rival, "pose", ("eager", "compiled"), ("channels_last",))
        if model == "hrformer_base":
            candidates += _some(VITPOSE, "pose", ("eager", "compiled"), origin="transformers")
        groups.append(Group(title=title, kind="forward", jobs=_jobs(candidates, 64, POSE, half=True)))
        due, then = (1.0, 1.5) if model == "hrformer_base" else (1.3, 2.0)
        rivals: list[tuple[str, Selector, float, float | None]] = [(f"the best of {rival}", _ours(rival), due, then)]
        if model == "hrformer_base":
            vit = Selector(origin="transformers", model=VITPOSE)
            rivals += [
                ("the official code in eager", _official(model), 5.0, None),
                (f"the best of {VITPOSE}", vit, 1.0, None),
            ]
        targets += [
            Target(name=f"{model} against {name}", group=title, ours=_ours(model), against=other, due=due, then=then)
            for name, other, due, then in rivals
        ]
    parts = [_gpu_latency(peers), _gpu_training(peers), _gpu_segmentation(peers)]
    sweeps = _growth(
        [Candidate(model="hrformer_base", task="pose", way="fast", precision="bf16")], (8, 16, 32, 64, 128), 16
    )
    for some, judged in (*parts, sweeps):
        groups += some
        targets += judged
    return Plan(name="gpu", groups=tuple(groups), targets=tuple(targets))


def _gpu_latency(peers: Peers) -> tuple[list[Group], list[Target]]:
    title, model = "Latency, hrformer_base for pose, batch 1, bf16", "hrformer_base"
    candidates = _some(model, "pose", ("eager", "fast")) + _peers(model, "pose", peers)
    candidates += _some("hrnet_w48", "pose", ("eager", "fast"), ("channels_last",))
    candidates += _some(VITPOSE, "pose", ("eager",), origin="transformers")
    limit = Target(
        name=f"{model}, latency of one picture", group=title, ours=_ours(model), due=3.0, then=1.5, unit="ms"
    )
    return [Group(title=title, kind="forward", jobs=_jobs(candidates, 1, POSE, half=True))], [limit]


def _gpu_training(peers: Peers) -> tuple[list[Group], list[Target]]:
    model, rival = "hrformer_base", "hrnet_w48"
    candidates = _some(model, "pose", ("eager",)) + _peers(model, "pose", peers)
    candidates += _some(rival, "pose", ("eager", "compiled"), ("channels_last",))
    jobs = _jobs(candidates, 32, POSE, half=True)
    step = Group(title="Training step, hrformer_base for pose, batch 32, bf16", kind="train", jobs=jobs)
    memory = Group(title="Training memory, hrformer_base for pose, batch 32, bf16", kind="train-memory", jobs=jobs)
    ours, official = _ours(model), _official(model)
    return [step, memory], [
        Target(name=f"{model}, training step against the official code", group=step.title, ours=ours, against=official,
               due=3.0, then=5.0),
        Target(name=f"{model}, training step against the best of {rival}", group=step.title, ours=ours,
               against=_ours(rival), due=1.0),
        Target(name=f"{model}, training memory against the official code", group=memory.title, ours=ours,
               against=official, due=2.0),
    ]  # fmt: skip


def _gpu_segmentation(peers: Peers) -> tuple[list[Group], list[Target]]:
    model = "hrformer_base"
    candidates = _some(model, "segmentation", ("eager", "fast")) + _peers(model, "segmentation", peers)
    jobs = _jobs(candidates, 1, CITYSCAPES, half=True)
    speed = Group(title="Segmentation 1024x2048, hrformer_base with OCR, bf16", kind="forward", jobs=jobs)
    memory = Group(title="Segmentation memory 1024x2048, hrformer_base with OCR, bf16", kind="memory", jobs=jobs)
    dues = {speed.title: ("speed", 4.0), memory.title: ("memory", 3.0)}
    return [speed, memory], [
        Target(
            name=f"{model} with OCR, {what} against the official code",
            group=title,
            ours=_ours(model),
            against=_official(model),
            due=due,
        )
        for title, (what, due) in dues.items()
    ]


PRESETS: Mapping[str, Callable[[Peers], Plan]] = {"cpu": cpu, "gpu": gpu}
