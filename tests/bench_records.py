"""Records and documents of ``benchmarks/`` with made-up figures, for tests."""

from __future__ import annotations

from typing import Any

from candidates import Candidate
from records import Document, Record

CONDITIONS: dict[str, Any] = {
    "date": "2026-01-02T03:04:05+00:00",
    "python": "3.11.7",
    "torch": "2.14.1",
    "openvino": "2026.4.1",
    "platform": "Linux",
    "cpu": "Some CPU",
    "cores": 2,
    "gpus": [],
    "device": "cpu",
    "threads": 2,
    "malloc": "glibc: as set",
    "commit": "0123abc",
}


def candidate(model: str = "hrformer_small", **fields: Any) -> Candidate:
    return Candidate(**({"model": model, "task": "pose"} | fields))


def record(one: Candidate, *rounds: tuple[float, ...], **fields: Any) -> Record:
    usual: dict[str, Any] = {"group": "G", "kind": "forward", "batch": 1, "size": (256, 192)}
    return Record(candidate=one, rounds=rounds, **(usual | fields))


def document(*records: Record, **fields: Any) -> Document:
    usual: dict[str, Any] = {"name": "custom", "command": "python benchmarks/run.py", "conditions": CONDITIONS}
    return Document(records=records, **(usual | fields))
