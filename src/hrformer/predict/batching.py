"""Running a network over parts of many pictures in full batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@dataclass(kw_only=True, slots=True, eq=False)
class _Open(Generic[Job, Answer]):
    job: Job
    parts: int
    answers: list[Answer] = field(default_factory=list)


def run_in_batches(
    jobs: Iterable[tuple[Job, Sequence[Tensor]]], run: Callable[[Tensor], Sequence[Answer]], batch_size: int
) -> Iterator[tuple[Job, list[Answer]]]:
    """Collect the parts of all jobs into batches; hand each job back, in order, with the answers for its parts.

    Parts of different shapes never share a batch. Jobs are taken only as fast as results are asked for, so memory
    holds a few batches whatever the number of jobs.

    Args:
        jobs: a job and its parts, tensors of the network's input for one item each; a job may have none.
        run: maps stacked parts (B, ...) to B answers.
        batch_size: most parts per call of ``run``.
    """
    queue: deque[_Open[Job, Answer]] = deque()
    waiting: list[tuple[_Open[Job, Answer], Tensor]] = []

    def flush() -> None:
        if not waiting:
            return
        answers = run(torch.stack([part for _, part in waiting]))
        for (entry, _), answer in zip(waiting, answers, strict=True):
            entry.answers.append(answer)
        waiting.clear()

    for job, parts in jobs:
        entry: _Open[Job, Answer] = _Open(job=job, parts=len(parts))
        queue.append(entry)
        for part in parts:
            if waiting and part.shape != waiting[0][1].shape:
                flush()
            waiting.append((entry, part))
            if len(waiting) >= batch_size:
                flush()
        # Many pictures without a single person behind one that waits would pile up in memory.
        if len(queue) > 2 * batch_size:
            flush()
        while queue and len(queue[0].answers) == queue[0].parts:
            done = queue.popleft()
            yield done.job, done.answers
    flush()
    for done in queue:
        yield done.job, done.answers
