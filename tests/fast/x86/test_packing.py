"""Packed weights, unpacked again by their description."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from hrformer.fast.x86.half import GROUP, NEVER, PACKERS, grouped, joined, pack, pack_half, parted
from hrformer.fast.x86.stages import filled, pack_product, panel_widths
from hrformer.fast.x86.structures import HALF_STRUCTURES, check_buffers
from stage_weights import attention_weights, convolution_weights, depthwise_weights, product_weights


@pytest.mark.parametrize("vectors", range(1, 14))
def test_panels_hold_all_vectors_and_four_at_most(vectors: int) -> None:
    widths = panel_widths(vectors)
    assert sum(widths) == vectors
    assert max(widths) <= 4
    assert all(width == 3 for width in widths[:-1])


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize(("out", "into"), [(1, 1), (16, 5), (78, 312), (200, 3)])
def test_packing_moves_every_weight_and_fills_with_zeros(out: int, into: int, lanes: int) -> None:
    weight = torch.randn(out, into)
    packed = pack_product(weight, lanes)
    vectors = -(-out // lanes)
    assert packed.shape == (into * vectors * lanes,)
    found, at = torch.zeros(vectors * lanes, into), 0
    for width in panel_widths(vectors):
        size = width * lanes
        start = sum(len(rows) for rows in found.split(1)[: at // into])
        found[start : start + size] = packed[at : at + into * size].view(into, size).T
        at += into * size
    assert torch.equal(found[:out], weight)
    assert found[out:].count_nonzero() == 0


def test_vectors_are_filled() -> None:
    assert filled(torch.ones(3, 5, dtype=torch.float64), 8).tolist() == [[1.0] * 5 + [0.0] * 3] * 3
    assert filled(torch.ones(16), 8).shape == (16,)


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 78])
def test_groups_are_parted_into_even_and_odd_places(count: int) -> None:
    numbers = torch.arange(1.0, count + 1).expand(2, 3, count)
    found = parted(numbers)
    assert found.shape == (2, 3, grouped(count))
    assert found.is_contiguous()
    whole = torch.zeros(2, 3, grouped(count))
    for group in range(0, grouped(count), GROUP):
        for i in range(GROUP // 2):
            whole[..., group + 2 * i] = found[..., group + i]
            whole[..., group + 2 * i + 1] = found[..., group + GROUP // 2 + i]
    assert torch.equal(whole[..., :count], numbers)
    assert whole[..., count:].count_nonzero() == 0


def test_values_are_joined_in_pieces() -> None:
    assert joined(8) == list(range(8))
    assert joined(24) == [*range(4), *range(8, 12), *range(4, 8), *range(12, 16), *range(16, 24)]
    for dim in range(8, 136, 8):
        assert sorted(joined(dim)) == list(range(dim))
        assert joined(dim)[: dim // 32 * 32] == joined(dim // 32 * 32)


@pytest.mark.parametrize(("out", "into"), [(1, 1), (16, 5), (17, 32), (32, 33), (48, 20), (78, 312), (200, 3)])
def test_half_packing_rounds_every_weight_and_fills_with_zeros(out: int, into: int) -> None:
    weight = torch.randn(out, into, dtype=torch.float64)
    packed = pack_half(weight)
    outputs, depth = -(-out // 16) * 16, grouped(into)
    assert (packed.shape, packed.dtype) == ((outputs * depth,), torch.bfloat16)
    found, at = torch.zeros(outputs, depth, dtype=torch.bfloat16), 0
    for start in range(0, outputs, GROUP):
        width = min(GROUP, outputs - start)
        for k in range(0, depth, 2):
            for n in range(width):
                found[start + n, k : k + 2] = packed[at : at + 2]
                at += 2
    assert at == len(packed)
    assert torch.equal(found[:out, :into], weight.float().bfloat16())
    assert found[out:].count_nonzero() == found[:, into:].count_nonzero() == 0


@pytest.mark.parametrize("channels", [20, 34])
@pytest.mark.parametrize("name", sorted(PACKERS))
def test_half_fields_are_of_the_sizes_that_kernels_are_given(name: str, channels: int) -> None:
    """Of channels of which neither vectors, heads nor groups are whole."""
    weights: dict[str, tuple[Any, ...]] = {
        "attention": (attention_weights(channels, 2, 3),),
        "feed_forward": (depthwise_weights(50, channels), product_weights(channels, 50, norm=True)),
        "linear": (product_weights(channels, 50),),
        "convolution": (convolution_weights(channels, 50, (3, 2)),),
        "separable": (depthwise_weights(channels, 50, 2),),
    }
    fields = pack(name, *weights[name])
    structure = type(name, (ctypes.Structure,), {"_fields_": list(HALF_STRUCTURES[name].items())})()
    tensors = {field: value for field, value in fields.items() if isinstance(value, Tensor)}
    for field, value in fields.items():
        if field not in tensors:
            setattr(structure, field, value)
    pointers = {field for field, kind in HALF_STRUCTURES[name].items() if kind is ctypes.c_void_p}
    assert tensors.keys() == pointers - {"x", "y", "residual"}
    check_buffers(name, structure, tensors, 16, half=True)


def test_half_heads_are_filled_up_and_places_without_token_never_count() -> None:
    fields = pack("attention", attention_weights(20, 2, 3, bias=False))
    assert (fields["heads"], fields["head_dim"]) == (2, 16)
    scores = fields["bias"]
    # Tiles read up to 16 rows beyond those of the last head.
    assert scores.shape == (2 * 9 + 16, 32)
    assert (scores[:-16, :9] == 0).all()
    assert (scores[:, 9:] == NEVER).all()
    assert (scores[-16:] == NEVER).all()
