"""A plan carried out: networks built, calls prepared, turns taken, records kept."""

from __future__ import annotations

import copy
import gc
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import own_process
import stages
from calls import Forward, make_input, prepare_training
from candidates import Candidate, Job
from conditions import Settings, apply, describe
from hrformer.models.model import VisionModel
from memory_probe import peak_on_gpu
from networks import build_network
from plan import Group, Plan, growth_of
from records import Document, Growth, Record
from timing import time_call, time_turn

log = logging.getLogger(__name__)

FIRST_CALLS = 3
"""Calls before the first turn; the slowest of them is what a user waits for a new shape. Some programs are made only
when a shape comes back."""

MOST_ROUNDS = {"memory": 1, "train-memory": 1, "start": 3}
"""Of kinds whose turn is a process or more, which takes seconds."""

Tell = Callable[[str], object]


@dataclass(kw_only=True, slots=True)
class Turn:
    """What a job does when it is its turn.

    Attributes:
        run: values by part of the record; the only part of most kinds is "".
        first: seconds of the slowest of the first calls, where there are any.
        note: how it is measured; perhaps known after the first turn only.
    """

    run: Callable[[], Mapping[str, Sequence[float]]]
    first: float | None = None
    note: str = ""


def run_plan(
    plan: Plan,
    settings: Settings,
    command: str,
    tell: Tell = log.info,
    keep: Callable[[Document], object] = lambda _: None,
) -> Document:
    """Measure everything.

    Args:
        plan: what.
        settings: how.
        command: that repeats the run, for the document.
        tell: called with a line about the work.
        keep: called after every group with what is known so far, so that a run that is cut short leaves something.

    Returns:
        The document. Candidates that cannot be built or run are in it, with the reason.
    """
    conditions = describe(settings.device, apply(settings))
    records: list[Record] = []
    growth: list[Growth] = []

    def document() -> Document:
        return Document(
            name=plan.name,
            command=command,
            conditions=conditions,
            records=tuple(records),
            growth=tuple(growth),
            verdicts=tuple(target.judge(records, growth) for target in plan.targets),
            baseline=plan.baseline,
        )

    with tempfile.TemporaryDirectory(prefix="hrformer-bench-") as folder:
        bench = Bench(settings, Path(folder), tell)
        for number, group in enumerate(plan.groups, start=1):
            tell(f"{number} of {len(plan.groups)}: {group.title}")
            found = bench.measure(group)
            records += found
            growth += growth_of(group, found)
            for record in found:
                if record.failure:
                    tell(f"  {record.candidate.label}: {record.failure}")
            keep(document())
    return document()


class Bench:
    """Measures groups one after another; networks that the next group needs too stay.

    Args:
        settings: how.
        folder: for files of the run; emptied by the caller.
        tell: called with a line about the work.
    """

    def __init__(self, settings: Settings, folder: Path, tell: Tell = log.info) -> None:
        self._settings, self._folder, self._tell = settings, folder, tell
        self._device = torch.device(settings.device)
        self._built: dict[Candidate, nn.Module] = {}
        self._forwards: dict[Candidate, tuple[Forward, nn.Module]] = {}

    def measure(self, group: Group) -> list[Record]:
        """Records of one group, in the order of its jobs: all take turns, round by round."""
        self._clean({job.candidate for job in group.jobs})
        failures: dict[Job, str] = {}
        turns: dict[Job, Turn] = {}
        for job in group.jobs:
            with self._failing(job, failures):
                turns[job] = self._prepare(group.kind, job)
        values: dict[Job, dict[str, list[tuple[float, ...]]]] = {job: {} for job in turns}
        with no_garbage_collection():
            for number in range(min(self._settings.rounds, MOST_ROUNDS.get(group.kind, self._settings.rounds))):
                # Back and forth: nobody always comes after the same neighbour.
                for job in turns if number % 2 == 0 else reversed(turns):
                    if job not in failures:
                        with self._failing(job, failures):
                            for part, found in turns[job].run().items():
                                values[job].setdefault(part, []).append(tuple(found))
                self._tell(f"  round {number + 1}")
        records = []
        for job in group.jobs:
            about: dict[str, Any] = {"candidate": job.candidate, "batch": job.batch, "size": job.size}
            about |= {"group": group.title, "kind": group.kind}
            if job in failures:
                records.append(Record(failure=failures[job], **about))
                continue
            about |= {"first": turns[job].first, "note": turns[job].note}
            records += [Record(part=part, rounds=tuple(rounds), **about) for part, rounds in values[job].items()]
        return records

    def _prepare(self, kind: str, job: Job) -> Turn:
        """Everything before a job's first turn: networks, inputs, files, first calls."""
        if kind in ("memory", "train-memory"):
            return self._weigh(job, kind == "train-memory")
        if kind == "start":
            return self._time_start(job)
        return self._time_stages(job) if kind == "stages" else self._time_calls(job, kind == "train")

    def _time_calls(self, job: Job, training: bool) -> Turn:
        seed, note = self._settings.seed, ""
        call: Callable[[], object]
        if training:
            # Never shared: a step changes the weights and the mode.
            call = prepare_training(self._network(job.candidate), job, self._device, seed)
        else:
            forward, _ = self._forward(job.candidate)
            x = make_input(job, self._device, seed)

            def call() -> object:
                return forward(x)

        first = max(time_call(call, self._device) for _ in range(FIRST_CALLS))
        if not training and (backend := forward.backend()):
            note = f"{job.candidate.way} is {backend}"
        return Turn(run=lambda: {"": time_turn(call, self._device, self._settings)}, first=first, note=note)

    def _weigh(self, job: Job, training: bool) -> Turn:
        def run() -> dict[str, list[float]]:
            self._clean(set())
            settings = self._settings
            if self._device.type == "cpu":
                peak, turn.note = own_process.peak_memory(job, training, settings)
            else:
                network = build_network(job.candidate, settings.checkouts, settings.seed).to(self._device)
                peak, turn.note = peak_on_gpu(network, job, training, self._device, settings.seed), "torch's allocator"
            return {"": [peak / 2**20]}

        turn = Turn(run=run)
        return turn

    def _time_stages(self, job: Job) -> Turn:
        forward, network = self._forward(job.candidate)
        if not isinstance(network, VisionModel):
            raise ValueError("stages are those of our predictors; the network must be one of ours or timm's")
        once = stages.stage_runner(forward, network.info, job, self._picture(), self._device)
        for _ in range(FIRST_CALLS):
            once()
        forward.backend()

        def run() -> dict[str, list[float]]:
            once()
            return {part: [seconds] for part, seconds in once().items()}

        return Turn(run=run)

    def _time_start(self, job: Job) -> Turn:
        weights, picture = own_process.write_weights(job.candidate, self._settings, self._folder), self._picture()

        def run() -> dict[str, list[float]]:
            cache = Path(tempfile.mkdtemp(dir=self._folder))
            found: dict[str, list[float]] = {}
            for name in ("first run", "later runs"):
                steps = own_process.time_start(job.candidate, weights, picture, cache, self._settings)
                found |= {f"{step}, {name}": [seconds] for step, seconds in steps.items()}
            return found

        return Turn(run=run)

    def _network(self, candidate: Candidate) -> nn.Module:
        """A copy of the candidate's network: all ways to run one start from the same weights."""
        if candidate.bare not in self._built:
            self._built[candidate.bare] = build_network(candidate, self._settings.checkouts, self._settings.seed)
        return copy.deepcopy(self._built[candidate.bare])

    def _forward(self, candidate: Candidate) -> tuple[Forward, nn.Module]:
        """Prepared forward pass of a candidate, and the network it was made from."""
        if candidate not in self._forwards:
            network = self._network(candidate)
            self._forwards[candidate] = Forward(network, candidate, self._device), network
        return self._forwards[candidate]

    def _picture(self) -> Path:
        return self._settings.picture or stages.make_picture(self._folder / "picture.jpg", self._settings.seed)

    def _clean(self, needed: set[Candidate]) -> None:
        """Forget all networks but those of some candidates, and what was compiled."""
        sources = {one.bare for one in needed}
        self._forwards = {one: kept for one, kept in self._forwards.items() if one in needed}
        self._built = {one: kept for one, kept in self._built.items() if one in sources}
        gc.collect()
        torch.compiler.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @staticmethod
    @contextmanager
    def _failing(job: Job, failures: dict[Job, str]) -> Iterator[None]:
        """Keep an error as a reason: the other candidates are still worth measuring."""
        try:
            yield
        except Exception as error:
            # Other people's code may raise anything; the first line says what, the log has the rest.
            log.debug("%s failed", job.candidate.label, exc_info=True)
            said = (str(error).strip().splitlines() or [""])[0]
            failures[job] = said if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: {said}"
            failures[job] = failures[job] or type(error).__name__


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """It would come in the middle of somebody's turn."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
