"""A plan carried out: networks built, calls prepared, turns taken, records kept."""

from __future__ import annotations

import copy
import gc
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hrformer.benchmark import memory, stages, start
from hrformer.benchmark.calls import Forward, make_input, prepare_forward, prepare_training
from hrformer.benchmark.candidates import Candidate, bare
from hrformer.benchmark.conditions import Conditions, apply, describe
from hrformer.benchmark.networks import Sources, build_network
from hrformer.benchmark.plan import Group, Job, Plan
from hrformer.benchmark.records import Document, Growth, Record
from hrformer.benchmark.targets import growth_of, judge
from hrformer.benchmark.timing import TimingConfig, time_call, time_interleaved
from hrformer.models.model import VisionModel

log = logging.getLogger(__name__)

FIRST_CALLS = 3
"""Calls before the first turn; the slowest of them is what a user waits for a new shape."""

START_ROUNDS = 3
"""Processes started per candidate, at most: each takes seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a run needs besides its plan.

    Attributes:
        conditions: the same for every candidate.
        sources: where networks come from.
        timing: rounds and seconds.
        picture: file for ``stages`` and ``start``; None makes one.
        tell: called with a line about the work.
        keep: called after every group with what is known so far, so that a run that is cut short leaves something.
    """

    conditions: Conditions = field(default_factory=Conditions)
    sources: Sources = field(default_factory=Sources)
    timing: TimingConfig = field(default_factory=TimingConfig)
    picture: Path | None = None
    tell: Callable[[str], object] = log.info
    keep: Callable[[Document], object] = lambda _: None


def run_plan(plan: Plan, settings: Settings, command: str) -> Document:
    """Measure everything.

    Args:
        plan: what.
        settings: how.
        command: that repeats the run, for the document.

    Returns:
        The document. Candidates that cannot be built or run are in it, with the reason.
    """
    applied = apply(settings.conditions)
    conditions = describe(applied, settings.conditions.device)
    records: list[Record] = []
    growth: list[Growth] = []

    def document() -> Document:
        return Document(
            name=plan.name,
            command=command,
            conditions=conditions,
            records=tuple(records),
            growth=tuple(growth),
            verdicts=tuple(judge(target, records, growth) for target in plan.targets),
            baseline=plan.baseline,
        )

    with tempfile.TemporaryDirectory(prefix="hrformer-bench-") as folder:
        bench = Bench(settings, Path(folder))
        for number, group in enumerate(plan.groups, start=1):
            settings.tell(f"{number} of {len(plan.groups)}: {group.title}")
            found = bench.measure(group)
            records += found
            growth += growth_of(group, found)
            for record in found:
                if record.failure:
                    settings.tell(f"  {record.candidate.label}: {record.failure}")
            settings.keep(document())
    return document()


class Bench:
    """Measures groups one after another; networks that the next group needs too stay.

    Args:
        settings: how.
        folder: for files of the run; emptied by the caller.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._device = torch.device(settings.conditions.device)
        self._built: dict[Candidate, nn.Module] = {}
        self._forwards: dict[Candidate, tuple[Forward, Any]] = {}

    def measure(self, group: Group) -> list[Record]:
        """Records of one group, in the order of its jobs."""
        needed = {job.candidate for job in group.jobs}
        self._forwards = {one: kept for one, kept in self._forwards.items() if one in needed}
        sources = {bare(one) for one in needed}
        self._built = {one: kept for one, kept in self._built.items() if one in sources}
        self._clean()
        kinds: dict[str, Callable[[Group], list[Record]]] = {
            "forward": self._time,
            "train": self._time,
            "memory": self._weigh,
            "train-memory": self._weigh,
            "stages": self._time_stages,
            "start": self._time_starts,
        }
        return kinds[group.kind](group)

    def _time(self, group: Group) -> list[Record]:
        prepare = self._step if group.kind == "train" else self._pass
        calls: list[Callable[[], Any]] = []
        ready: list[tuple[Job, float, str]] = []
        records: dict[Job, Record] = {}
        for job in group.jobs:
            with self._failing(group, job, records):
                call, ask = prepare(job)
                # Some programs are made only when a shape comes back.
                first = max(time_call(call, self._device) for _ in range(FIRST_CALLS))
                ready.append((job, first, ask()))
                calls.append(call)
        samples = time_interleaved(calls, self._device, self._settings.timing, self._tell_round)
        for (job, first, backend), rounds in zip(ready, samples, strict=True):
            note = f"{job.candidate.way} is {backend}" if backend else ""
            records[job] = self._record(group, job, rounds, first=first, note=note)
        return [records[job] for job in group.jobs]

    def _pass(self, job: Job) -> tuple[Callable[[], Any], Callable[[], str]]:
        """A forward pass, and what asks for the backend that ran it."""
        forward, _ = self._forward(job.candidate)
        x = make_input(job.candidate, job.batch, job.size, self._device, self._settings.conditions.seed)
        return lambda: forward(x), forward.backend

    def _step(self, job: Job) -> tuple[Callable[[], Any], Callable[[], str]]:
        # Never shared: a step changes the weights and the mode.
        network = self._network(job.candidate)
        seed = self._settings.conditions.seed
        step = prepare_training(network, job.candidate, job.batch, job.size, self._device, seed)
        return step, str

    def _network(self, candidate: Candidate) -> nn.Module:
        """A copy of the candidate's network: all ways to run one start from the same weights."""
        source = bare(candidate)
        if source not in self._built:
            self._built[source] = build_network(source, self._settings.sources)
        return copy.deepcopy(self._built[source])

    def _forward(self, candidate: Candidate) -> tuple[Forward, Any]:
        """Prepared forward pass of a candidate, and the network it was made from."""
        if candidate not in self._forwards:
            network = self._network(candidate)
            self._forwards[candidate] = prepare_forward(network, candidate, self._device), network
        return self._forwards[candidate]

    def _weigh(self, group: Group) -> list[Record]:
        training = group.kind == "train-memory"
        records: dict[Job, Record] = {}
        self._forwards.clear()
        self._built.clear()
        for job in group.jobs:
            self._clean()
            with self._failing(group, job, records):
                peak, note = self._peak(job, training)
                records[job] = self._record(group, job, [[peak / 2**20]], note=note)
        return [records[job] for job in group.jobs]

    def _peak(self, job: Job, training: bool) -> tuple[int, str]:
        settings = self._settings
        if self._device.type == "cpu":
            return memory.peak_in_own_process(
                job.candidate, training, job.batch, job.size, settings.sources, settings.conditions
            )
        network = build_network(job.candidate, settings.sources).to(self._device)
        seed = settings.conditions.seed

        def prepare() -> Callable[[], Any]:
            if training:
                return prepare_training(network, job.candidate, job.batch, job.size, self._device, seed)
            forward = prepare_forward(network, job.candidate, self._device)
            x = make_input(job.candidate, job.batch, job.size, self._device, seed)
            return lambda: forward(x)

        return memory.peak_on_gpu(prepare, self._device), "torch's allocator"

    def _time_stages(self, group: Group) -> list[Record]:
        picture = self._picture()
        runs: dict[Job, Callable[[torch.device], dict[str, float]]] = {}
        records: dict[Job, Record] = {}
        for job in group.jobs:
            with self._failing(group, job, records):
                forward, network = self._forward(job.candidate)
                if not isinstance(network, VisionModel):
                    raise ValueError("stages are those of our predictors; the network must be one of ours or timm's")
                run = stages.stage_runner(forward, network.info, job.candidate, job.size, job.batch, picture)
                for _ in range(FIRST_CALLS):
                    run(self._device)
                forward.backend()
                runs[job] = run
        parts = (*stages.STAGES, stages.TOTAL)
        rounds: dict[tuple[Job, str], list[list[float]]] = {(job, part): [] for job in runs for part in parts}
        for number in range(self._settings.timing.rounds):
            for job in runs if number % 2 == 0 else reversed(runs):
                runs[job](self._device)
                seconds = runs[job](self._device)
                for part in parts:
                    rounds[job, part].append([seconds[part]])
            self._tell_round(number + 1)
        found = [self._record(group, job, values, part=part) for (job, part), values in rounds.items()]
        return [*found, *records.values()]

    def _time_starts(self, group: Group) -> list[Record]:
        picture = self._picture()
        weights: dict[Job, Path] = {}
        records: dict[Job, Record] = {}
        for job in group.jobs:
            with self._failing(group, job, records):
                weights[job] = start.write_weights(job.candidate, self._settings.sources, self._folder)
        rounds: dict[tuple[Job, str], list[list[float]]] = {}
        for number in range(min(self._settings.timing.rounds, START_ROUNDS)):
            for position, job in enumerate(job for job in group.jobs if job in weights):
                cache = self._folder / f"cache-{number}-{position}"
                for name in ("first run", "later runs"):
                    with self._failing(group, job, records):
                        seconds = start.time_start(
                            job.candidate, weights[job], picture, cache, self._settings.conditions
                        )
                        for part, value in seconds.items():
                            rounds.setdefault((job, f"{part}, {name}"), []).append([value])
            self._tell_round(number + 1)
        found = [
            self._record(group, job, values, part=part) for (job, part), values in rounds.items() if job not in records
        ]
        return [*found, *records.values()]

    def _picture(self) -> Path:
        return self._settings.picture or stages.make_picture(
            self._folder / "picture.jpg", self._settings.conditions.seed
        )

    def _tell_round(self, number: int) -> None:
        self._settings.tell(f"  round {number}")

    def _clean(self) -> None:
        gc.collect()
        torch.compiler.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @staticmethod
    def _record(group: Group, job: Job, rounds: Sequence[Sequence[float]], **more: Any) -> Record:
        return Record(
            group=group.title,
            kind=group.kind,
            candidate=job.candidate,
            batch=job.batch,
            size=job.size,
            rounds=tuple(tuple(values) for values in rounds),
            **more,
        )

    @staticmethod
    @contextmanager
    def _failing(group: Group, job: Job, records: dict[Job, Record]) -> Iterator[None]:
        """Turn an error into a record of it: the other candidates are still worth measuring."""
        try:
            yield
        except Exception as error:
            # Other people's code may raise anything; the first line says what, the log has the rest.
            log.debug("%s failed", job.candidate.label, exc_info=True)
            said = str(error).strip().splitlines() or [""]
            reason = said[0] if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: {said[0]}"
            records[job] = Record(
                group=group.title,
                kind=group.kind,
                candidate=job.candidate,
                batch=job.batch,
                size=job.size,
                failure=reason or type(error).__name__,
            )
