"""The teacher of hrformer_tiny_things."""

from __future__ import annotations

import torch

import things_teacher


def test_the_last_layer_is_the_regression_of_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(4000, 6, generator=generator), torch.randn(3, 6, generator=generator)
    labels = torch.multinomial((inputs @ true.T).softmax(1), 1, generator=generator)[:, 0]
    found = things_teacher.fitted(inputs, labels, 3, decay=1e-6).weight.detach()
    # Only differences between classes are determined.
    torch.testing.assert_close(found - found.mean(0), true - true.mean(0), atol=0.2, rtol=0)
    small = things_teacher.fitted(inputs, labels, 3, decay=10.0).weight.detach()
    assert small.abs().max() < 0.1
