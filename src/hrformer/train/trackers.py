"""TensorBoard, Weights & Biases, MLflow and others, through accelerate; a run taken up again goes on in its place."""

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

# Tracker of accelerate -> module, and what to ask pip for.
PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "aim": ("aim", "aim"),
    "clearml": ("clearml", "clearml"),
    "dvclive": ("dvclive", "dvclive"),
    "swanlab": ("swanlab", "swanlab"),
    "trackio": ("trackio", "trackio"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used; accelerate would leave them out without a word.

    Raises:
        ValueError: a name is unknown, or its package is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise ValueError(f"unknown tracker {name!r}; there are {', '.join(PACKAGES)}")
        module, package = PACKAGES[name]
        if find_spec(module) is None:
            raise ValueError(
                f"the tracker {name!r} needs a package that is not installed: pip install {package}. "
                "Without trackers, metrics.jsonl and summary.html are written all the same"
            )


class Trackers:
    """Sends scalars of the main process to accelerate's trackers.

    Which runs of W&B and MLflow belong to a run directory stands in its ``trackers.json``.

    Args:
        accelerator: made with ``log_with`` of these names.
        names: trackers; none for nothing to be sent.
        out: run directory.
        first_update: updates done before; above 0 the earlier records are continued.
        config: of the run, in JSON types.

    Raises:
        ValueError: a tracker cannot be used.
    """

    def __init__(
        self, accelerator: Any | None, names: Sequence[str], out: Path, first_update: int, config: Mapping[str, Any]
    ) -> None:
        check_trackers(names)
        if names and accelerator is None:
            raise ValueError(f"the trackers {', '.join(names)} need an Accelerator made with log_with={list(names)}")
        self._accelerator, self._names, self._out = accelerator, tuple(names), out
        self._first_update, self._config = first_update, config

    def start(self) -> None:
        """Open the records, or go on with those of the run that is taken up again."""
        if not self._names or self._accelerator is None:
            return
        resumed = self._first_update > 0
        ids = self._read_ids() if resumed else {}
        if "wandb" in self._names:
            ids.setdefault("wandb", uuid.uuid4().hex[:12])
        options: dict[str, dict[str, Any]] = {
            # TensorBoard hides what an interrupted run wrote from this step on.
            "tensorboard": {"purge_step": self._first_update + 1} if resumed else {},
            "wandb": {"dir": str(self._out), "name": self._out.name, "id": ids.get("wandb"), "resume": "allow"},
            "mlflow": {"run_name": self._out.name, "run_id": ids.get("mlflow")},
        }
        self._accelerator.init_trackers(
            PROJECT,
            config=None if resumed else {name: _setting(value) for name, value in flat(self._config).items()},
            init_kwargs={name: options[name] for name in self._names if name in options},
        )
        if "mlflow" in self._names:
            ids["mlflow"] = self._accelerator.get_tracker("mlflow", unwrap=True).info.run_id
        if ids:
            text = json.dumps(ids, indent=2) + "\n"
            write_file(self._out / "trackers.json", lambda part: part.write_text(text, encoding="utf-8"))

    def log(self, update: int, group: str, values: Mapping[str, Any]) -> None:
        """Send the finite numbers among the values as "group/name"."""
        if not self._names or self._accelerator is None:
            return
        numbers = {
            # MLflow takes these characters only; PCK's name has an @.
            f"{group}/{re.sub(r'[^A-Za-z0-9_. :/-]', '_', name)}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        if numbers:
            self._accelerator.log(numbers, step=update)

    def finish(self) -> None:
        """Close the records; the processes go on, which ``end_training`` would end as well."""
        if self._names and self._accelerator is not None:
            for tracker in self._accelerator.trackers:
                tracker.finish()
            self._accelerator.trackers = []

    def _read_ids(self) -> dict[str, str]:
        try:
            ids = json.loads((self._out / "trackers.json").read_text(encoding="utf-8"))
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
