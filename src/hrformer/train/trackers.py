"""TensorBoard, Weights & Biases and MLflow, through accelerate; a run taken up again goes on in its place."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hrformer.files import write_file

PROJECT = "hrformer"

KNOWN = ("tensorboard", "wandb", "mlflow")
"""Trackers, each called as accelerate, Python and pip call it."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used; accelerate would leave them out without a word.

    Raises:
        ValueError: a name is unknown, or its package is not installed.
    """
    for name in names:
        if name not in KNOWN:
            raise ValueError(f"unknown tracker {name!r}; there are {', '.join(KNOWN)}")
        if find_spec(name) is None:
            raise ValueError(
                f"the tracker {name!r} needs a package that is not installed: pip install {name}. "
                "Without trackers, metrics.jsonl and summary.html are written all the same"
            )


class Trackers:
    """Sends scalars of the main process to accelerate's trackers.

    Which runs of W&B and MLflow belong to a run directory stands in its ``trackers.json``.

    Args:
        accelerator: made with ``log_with`` of these names; anything without trackers.
        names: trackers; none for nothing to be sent.
        out: run directory.

    Raises:
        ValueError: a tracker cannot be used.
    """

    def __init__(self, accelerator: Any, names: Sequence[str], out: Path) -> None:
        check_trackers(names)
        self._accelerator, self._names, self._file = accelerator, names, out / "trackers.json"

    def start(self, first_update: int, config: Mapping[str, Any]) -> None:
        """Open the records, or go on with those of the run that is taken up again.

        Args:
            first_update: updates done before; above 0 the earlier records are continued.
            config: of the run, in JSON types.
        """
        if not self._names:
            return
        ids = self._read_ids() if first_update else {}
        if "wandb" in self._names:
            ids.setdefault("wandb", uuid.uuid4().hex[:12])
        name = self._file.parent.name
        options: dict[str, dict[str, Any]] = {
            # TensorBoard hides what an interrupted run wrote from this step on.
            "tensorboard": {"purge_step": first_update + 1} if first_update else {},
            "wandb": {"dir": str(self._file.parent), "name": name, "id": ids.get("wandb"), "resume": "allow"},
            "mlflow": {"run_name": name, "run_id": ids.get("mlflow")},
        }
        self._accelerator.init_trackers(
            PROJECT,
            config=None if first_update else {name: _setting(value) for name, value in flat(config).items()},
            init_kwargs={name: options[name] for name in self._names},
        )
        if "mlflow" in self._names:
            ids["mlflow"] = self._accelerator.get_tracker("mlflow", unwrap=True).info.run_id
        if ids:
            text = json.dumps(ids, indent=2) + "\n"
            write_file(self._file, lambda part: part.write_text(text, encoding="utf-8"))

    def log(self, update: int, group: str, values: Mapping[str, Any]) -> None:
        """Send the finite numbers among the values as "group/name"."""
        numbers = {
            # MLflow takes these characters only; PCK's name has an @.
            f"{group}/{re.sub(r'[^A-Za-z0-9_. :/-]', '_', name)}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        if self._names and numbers:
            self._accelerator.log(numbers, step=update)

    def finish(self) -> None:
        """Close the records; the processes go on, which ``end_training`` would end as well."""
        if self._names:
            for tracker in self._accelerator.trackers:
                tracker.finish()
            self._accelerator.trackers = []

    def _read_ids(self) -> dict[str, str]:
        try:
            ids = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return ids if isinstance(ids, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _setting(value: Any) -> bool | int | float | str:
    """What every tracker takes as a setting."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return "" if value is None else str(value)
