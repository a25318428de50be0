"""The whole pipeline of a small pose model as a file, made once for all processes of a test run: it takes a minute."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from hrformer.export.export import ExportReport, export
from hrformer.predict.predictors import load
from training import WEIGHTS

POSE = WEIGHTS / "hrformer_nano_lspet.safetensors"


def exported_pose(factory: pytest.TempPathFactory, folder: Path) -> tuple[ExportReport, list[str]]:
    """``POSE`` exported to ``folder``, with the report and what was told on the way."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made, record = shared / "exported_pose", shared / "exported_pose.pickle"
    with FileLock(f"{made}.lock"):
        if not record.is_file():
            told: list[str] = []
            report = export(load(POSE, "cpu"), made, licence="mine", told=told.append)
            record.write_bytes(pickle.dumps((report, told)))
    report, told = pickle.loads(record.read_bytes())
    shutil.copytree(made, folder)
    return replace(report, file=folder / report.file.name), told
