"""No kernel gets a buffer that it would read or write beyond: each is checked against the kernel's sizes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hrformer.fast.x86.half import HALVES, TRAINING_HALVES
from hrformer.fast.x86.half import SIZES as HALF_SIZES
from hrformer.fast.x86.library import NativeLibrary, find_library
from hrformer.fast.x86.structures import HALF_STRUCTURES, SIZES, STRUCTURES, check_buffers

pytestmark = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")


@pytest.fixture
def library() -> NativeLibrary:
    found = find_library()[0]
    assert found is not None
    return found


def linear(library: NativeLibrary, **changed: object) -> Tensor:
    """One product, 5 rows of 3 numbers to 4, with some of its arguments replaced."""
    lanes = library.lanes
    given = {"rows": 5, "depth": 3, "channels": 4, "activation": 0, "after": 0, "residual": None}
    maps = {"x": torch.ones(5, 3), "y": torch.empty(5, 4)}
    weights = {"weight": torch.ones(3 * lanes), "bias": torch.ones(lanes)}
    arguments = given | maps | weights | changed
    library.call("linear", **arguments)
    y = arguments["y"]
    assert isinstance(y, Tensor)
    return y


def test_what_fits_is_computed(library: NativeLibrary) -> None:
    assert torch.equal(linear(library), torch.full((5, 4), 4.0))


WRONG: dict[str, tuple[str, Callable[[int], Tensor]]] = {
    "too small": ("x", lambda lanes: torch.ones(4, 3)),
    "too large": ("x", lambda lanes: torch.ones(6, 3)),
    "empty": ("x", lambda lanes: torch.ones(0)),
    "float64": ("x", lambda lanes: torch.ones(5, 3, dtype=torch.float64)),
    "bfloat16": ("x", lambda lanes: torch.ones(5, 3, dtype=torch.bfloat16)),
    "integers": ("x", lambda lanes: torch.ones(5, 3, dtype=torch.int32)),
    "on another device": ("x", lambda lanes: torch.ones(5, 3, device="meta")),
    "transposed": ("x", lambda lanes: torch.ones(3, 5).T),
    "expanded": ("x", lambda lanes: torch.ones(1, 3).expand(5, 3)),
    "sparse": ("x", lambda lanes: torch.ones(5, 3).to_sparse()),
    "negated": ("x", lambda lanes: torch._neg_view(torch.ones(5, 3))),
    "result too small": ("y", lambda lanes: torch.empty(5, 3)),
    "result of another kind": ("y", lambda lanes: torch.empty(5, 4, dtype=torch.float16)),
    "unpacked weights": ("weight", lambda lanes: torch.ones(3, 4)),
    "short bias": ("bias", lambda lanes: torch.ones(4)),
    "residual of one row": ("residual", lambda lanes: torch.ones(1, 4)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused_by_name(kind: str, library: NativeLibrary) -> None:
    field, make = WRONG[kind]
    with pytest.raises(ValueError, match=rf"kernel 'linear': {field} must be \d+ contiguous float32"):
        linear(library, **{field: make(library.lanes)})


def test_constants_are_checked_when_a_kernel_is_made(library: NativeLibrary) -> None:
    with pytest.raises(ValueError, match="kernel 'linear': weight must be"):
        library.kernel("linear", depth=3, channels=4, weight=torch.ones(5), bias=torch.ones(library.lanes))


@pytest.mark.parametrize(
    ("name", "half"), [*((name, False) for name in STRUCTURES), *((name, True) for name in HALF_STRUCTURES)]
)
def test_every_pointer_of_every_kernel_has_a_size_and_a_type(name: str, half: bool) -> None:
    fields = (HALF_STRUCTURES if half else STRUCTURES)[name]
    structure = type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})
    settings = structure(**{field: 1 for field, kind in fields.items() if kind is ctypes.c_int})
    pointers = [field for field, kind in fields.items() if kind is ctypes.c_void_p]
    sizes = HALF_SIZES[name](settings) if half and name in HALF_SIZES else SIZES[name](settings, 8)
    halves = TRAINING_HALVES.get(name, HALVES) if half else ()
    if name == "program":  # its pointers are to structures, whose tensors were checked when they were recorded
        assert sizes == {}
        return
    assert all(sizes[pointer] > 0 for pointer in pointers)
    for pointer in pointers:
        kinds = [torch.float32, torch.bfloat16]
        right, wrong = reversed(kinds) if pointer in halves else kinds
        check_buffers(name, settings, {pointer: torch.ones(sizes[pointer], dtype=right)}, 8, half=half)
        misfits = [(sizes[pointer] - 1, right), (sizes[pointer] + 1, right), (sizes[pointer], wrong)]
        for size, dtype in misfits:
            with pytest.raises(ValueError, match=f"kernel '{name}': {pointer} must be"):
                check_buffers(name, settings, {pointer: torch.ones(size, dtype=dtype)}, 8, half=half)
