"""What tests of kernels share: where they run, buffers that show unwritten elements, trained modules, error bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from hrformer.fast.x86.build import library_path
from hrformer.fast.x86.library import NativeLibrary, find_library

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter multiplies raw bits of bfloat16, so that needs a GPU.
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if DEVICE.type == "cuda" else [])


def compiled_library(instruction_set: str) -> NativeLibrary:
    """The kernels in float32 for an instruction set; skips the test where they cannot run."""
    path = library_path(instruction_set)
    if find_library()[0] is None or not path.is_file():
        pytest.skip(f"needs compiled kernels: {find_library()[1]}")
    if instruction_set == "avx512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs a processor with AVX-512")
    return NativeLibrary(str(path))


@contextmanager
def nan_filled_buffers() -> Iterator[None]:
    """``torch.empty`` and ``torch.empty_like`` give NaN, so that elements a kernel does not write show."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make_filled(*args: Any, **kwargs: Any) -> Tensor:
            buffer = make(*args, **kwargs)
            return buffer.fill_(float("nan")) if buffer.is_floating_point() else buffer

        return make_filled

    empty, empty_like = filled(torch.empty), filled(torch.empty_like)
    with mock.patch.object(torch, "empty", empty), mock.patch.object(torch, "empty_like", empty_like):
        yield


def assert_accurate(
    ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], exact: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """The error of each result is at most twice that of plain PyTorch at the same precision.

    Errors are norms of the difference from float64. Half a unit in the last place of ``dtype`` on every element is
    forgiven: plain PyTorch may happen to round nothing.
    """
    for name, wanted in exact.items():
        assert ours[name].shape == wanted.shape, name
        assert ours[name].isfinite().all(), f"{name} has unwritten or non-finite elements"
        error, allowed = error_and_allowed(ours[name], plain[name], wanted, dtype)
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def error_and_allowed(ours: Tensor, plain: Tensor, exact: Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Error of a result, and the largest that ``assert_accurate`` accepts."""
    floor = torch.finfo(dtype).eps / 2 * exact.norm()
    allowed = 2 * (plain.double() - exact).norm() + floor
    return float((ours.double() - exact).norm()), float(allowed)


def rounded(dtype: torch.dtype, *size: int) -> Tensor:
    """Normal float64 numbers that ``dtype`` holds exactly, so that errors are those of the computation alone."""
    return torch.randn(size, device=DEVICE).to(dtype).double()


def trained(module: nn.Module) -> nn.Module:
    """In evaluation mode, with statistics, scales and biases as training leaves them: none is 0 or 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.bias, std=0.5)
    return module.eval().to(DEVICE)
