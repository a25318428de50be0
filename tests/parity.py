"""Rebuild the weights and inputs of the parity goldens from numbers alone, and compare outputs."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Largest allowed difference as a share of a tensor's largest absolute value."""


def resizes_as_the_goldens() -> bool:
    """Whether OpenCV resizes byte for byte as on the goldens' processor: with AVX2 it rounds a few pixels otherwise."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _generator(key: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))


def golden_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of one state-dict entry by the scheme of the goldens' README."""
    z = _generator(key).standard_normal(shape, dtype=np.float32)
    last = key.rsplit(".", 1)[-1]
    if last == "relative_position_bias_table":
        return np.float32(0.5) * z
    if len(shape) >= 2:
        return z / np.sqrt(np.float32(np.prod(shape[1:])))
    if last == "running_var":
        return np.float32(1) + np.float32(0.1) * np.abs(z)
    if last == "weight":
        return np.float32(1) + np.float32(0.1) * z
    return np.float32(0.1) * z


@dataclass
class Golden:
    """One golden: its description and its arrays."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path, name: str) -> Golden:
        with np.load(folder / f"{name}.npz") as arrays:
            return cls(json.loads((folder / f"{name}.json").read_text()), dict(arrays))

    def state_dict(self) -> dict[str, Tensor]:
        """The reference model's state dict, integer buffers left out but for the batch counters."""
        state = {}
        for key, shape, dtype, *_ in self.meta["state_dict"]:
            if dtype == "int64":
                if not shape:
                    state[key] = torch.tensor(0)
                continue
            state[key] = torch.from_numpy(np.asarray(golden_value(key, tuple(shape)), dtype=np.float32))
        total = sum(float(np.abs(v.numpy().astype(np.float64)).sum()) for v in state.values())
        assert np.isclose(total, self.meta["check"]["abs_sum_f64"], rtol=1e-9), "the generator changed, not the model"
        return state

    def input(self) -> Tensor:
        """The reference input."""
        spec = self.meta["input"]
        return torch.from_numpy(_generator(spec["seed"]).standard_normal(tuple(spec["shape"]), dtype=np.float32))

    def error(self, name: str, tensor: Tensor) -> float:
        """Largest difference of a tensor and of its two means, as a share of the golden's absmax."""
        meta = self.meta["outputs"][name]
        assert list(tensor.shape) == meta["shape"], (name, tensor.shape, meta["shape"])
        x = tensor.detach().numpy()
        pairs = [(x.reshape(-1)[:: meta["stride"]], self.arrays[name])]
        if x.ndim == 4:
            pairs.append((x.mean((2, 3)), self.arrays[f"{name}__mean_hw"]))
            pairs.append((x.mean(1), self.arrays[f"{name}__mean_c"]))
        return max(float(np.abs(a - b.reshape(a.shape)).max()) for a, b in pairs) / meta["absmax"]


def assert_near(one: Any, other: Any) -> None:
    """Scores of one model in batches of another size: outputs differ in their last digit, no count does."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_near(a, b)
    else:
        assert one == (pytest.approx(other, rel=0, abs=1e-5) if isinstance(other, float) else other)
