"""Packed weights, unpacked again by their description."""

from __future__ import annotations

import pytest
import torch

from hrformer.fast.x86.stages import filled, pack_product, panel_widths


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
