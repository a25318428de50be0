"""Recorded kernels: the same results in new memory, and no recording of what kernels alone do not compute."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from half_libraries import any_half_library, use
from hrformer.fast.folding import PointwiseWeights
from hrformer.fast.x86 import stages as native
from hrformer.fast.x86.library import find_library, kernel_threads
from hrformer.fast.x86.program import ALIGNMENT, NotRecordableError, Program, place_maps

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")


def test_maps_of_the_same_time_do_not_overlap_and_others_share() -> None:
    generator = torch.Generator().manual_seed(0)
    lives = []
    for _ in range(60):
        first, length, size = torch.randint(0, 30, (3,), generator=generator).tolist()
        lives.append((64 * size + 4, first, first + length))
    places, total = place_maps(lives)
    assert all(place % ALIGNMENT == 0 for place in places)
    for i, (size, first, last) in enumerate(lives):
        assert places[i] + size <= total
        for j in range(i):
            other, begin, end = lives[j]
            apart = places[i] + size <= places[j] or places[j] + other <= places[i]
            assert apart or last < begin or end < first
    at_once = [sum(size for size, first, last in lives if first <= step <= last) for step in range(60)]
    assert total < 1.2 * max(at_once)
    assert place_maps([]) == ([], 0)


def layer(seed: int) -> PointwiseWeights:
    generator = torch.Generator().manual_seed(seed)
    return PointwiseWeights(weight=torch.randn(16, 16, generator=generator) / 4, bias=torch.ones(16))


LAYERS = [layer(seed) for seed in range(5)]


def chain(x: Tensor) -> list[Tensor]:
    """Five products, with a residual from the second, and two results, one of them a view."""
    maps = [x]
    for weights in LAYERS:
        maps.append(native.pointwise(maps[-1], weights, residual=maps[2] if len(maps) == 4 else None))
    return [maps[3].permute(0, 3, 1, 2), maps[5]]


@needs_kernels
def test_a_run_gives_what_the_function_gives_in_new_memory() -> None:
    program = Program(chain, torch.randn(2, 3, 5, 16))
    kept = []
    for _ in range(3):
        x = torch.randn(2, 3, 5, 16)
        found, expected = program(x), chain(x)
        assert [y.shape for y in found] == [y.shape for y in expected]
        assert [y.stride() for y in found] == [y.stride() for y in expected]
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        kept.append((found, [y.clone() for y in found]))
    assert all(torch.equal(*pair) for found, copies in kept for pair in zip(found, copies, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_in_bfloat16_gives_what_the_function_gives(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, any_half_library())
    for weights in LAYERS:
        monkeypatch.setattr(weights, "made", {})
    with kernel_threads(threads):
        program = Program(chain, torch.randn(2, 3, 5, 16).bfloat16())
        for _ in range(3):
            x = torch.randn(2, 3, 5, 16).bfloat16()
            found, expected = program(x), chain(x)
            assert [y.dtype for y in found] == [torch.bfloat16] * 2
            assert [y.stride() for y in found] == [y.stride() for y in expected]
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
            assert expected[1].float().allclose(chain(x.float())[1], rtol=0.1, atol=0.1)


@needs_kernels
def test_a_recording_is_of_one_precision() -> None:
    """A map in float32 between kernels in bfloat16 was made by no kernel."""
    with pytest.raises(NotRecordableError, match="reads what no kernel wrote"):
        Program(lambda x: [native.pointwise(x.float(), LAYERS[0])], torch.randn(1, 2, 2, 16).bfloat16())


@needs_kernels
def test_inputs_may_lie_inside_other_memory() -> None:
    wide = torch.randn(3, 2, 3, 5, 16)
    program = Program(chain, wide[1])
    other = torch.randn(3, 2, 3, 5, 16)
    assert torch.equal(program(other[1])[1], chain(other[1])[1])


@needs_kernels
def test_threads_run_one_recording_side_by_side() -> None:
    program = Program(chain, torch.randn(1, 4, 4, 16))
    wrong: list[int] = []

    def repeat(seed: int) -> None:
        x = torch.randn(1, 4, 4, 16, generator=torch.Generator().manual_seed(seed))
        with kernel_threads(1):
            expected = chain(x)
            for _ in range(200):
                if not torch.equal(program(x)[1], expected[1]):
                    wrong.append(seed)

    callers = [threading.Thread(target=repeat, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@needs_kernels
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: [native.pointwise(x + 1, LAYERS[0])], "kernel 0 reads what no kernel wrote"),
        (lambda x: [native.pointwise(x, LAYERS[0]) + 1], "a result was written by no kernel"),
        (lambda x: [x], "two results share their memory, or the input is one"),
        (lambda x: [native.pointwise(x, LAYERS[0])] * 2, "two results share their memory"),
    ],
)
def test_other_operations_are_noticed(function, message: str) -> None:
    with pytest.raises(NotRecordableError, match=message):
        Program(function, torch.randn(1, 2, 2, 16))
