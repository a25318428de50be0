"""The attention layer: position bias, window changes, construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from hrformer.layers import attention as attention_module
from hrformer.layers.attention import WindowAttention
from hrformer.ops.windows import resize_bias_table


def layer(**options) -> WindowAttention:
    """A small layer whose bias is large enough to see."""
    attention = WindowAttention(8, 2, 7, **options)
    with torch.no_grad():
        attention.relative_position_bias_table.normal_(generator=torch.Generator().manual_seed(1))
    return attention


def test_bias_table_is_added_once_per_pair() -> None:
    """A table with one huge row: every token attends to the neighbour that the row stands for."""
    attention = WindowAttention(4, 1, 3)
    with torch.no_grad():
        attention.qkv.weight.zero_()
        attention.qkv.weight[8:] = torch.eye(4)  # values are the tokens
        attention.qkv.bias.zero_()
        attention.proj.weight.copy_(torch.eye(4))
        attention.proj.bias.zero_()
        attention.relative_position_bias_table.zero_()
        attention.relative_position_bias_table[13] = 50.0  # same row, key one column to the left
        x = torch.randn(1, 3, 3, 4)
        output = attention(x)
    torch.testing.assert_close(output[:, :, 1:], x[:, :, :-1])
    # Without such a neighbour all nine tokens count alike.
    torch.testing.assert_close(output[:, :, 0], x.mean((1, 2), keepdim=True)[:, 0].expand(1, 3, 4))


def test_position_bias_switch() -> None:
    attention, x = layer(), torch.randn(1, 9, 5, 8)
    on = attention(x)
    table = attention.relative_position_bias_table.detach().clone()
    attention.set_position_bias(False)
    off = attention(x)
    assert (on - off).abs().max() > 1e-2
    assert torch.equal(attention.relative_position_bias_table, table), "the table stays, it is only not added"
    with torch.no_grad():
        attention.relative_position_bias_table.zero_()
    attention.set_position_bias(True)
    torch.testing.assert_close(attention(x), off)


@pytest.mark.parametrize("enabled", [True, False])
def test_unused_table_needs_no_gradient(enabled: bool) -> None:
    attention = layer(position_bias=enabled)
    assert attention.relative_position_bias_table.requires_grad is enabled
    attention(torch.randn(1, 7, 7, 8)).sum().backward()
    missing = [name for name, p in attention.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert (attention.relative_position_bias_table.grad is not None) is enabled


@pytest.mark.parametrize(("case", "window"), [("2heads_to_25", 13), ("4heads_to_29", 15)])
def test_set_window_equals_golden(parity_dir: Path, case: str, window: int) -> None:
    with np.load(parity_dir / "protocol" / "segmentation.npz") as arrays:
        table, expected = (torch.from_numpy(arrays[f"rpe_{side}_{case}"]) for side in ("in", "out"))
    attention = WindowAttention(8 * table.shape[1], table.shape[1], 7)
    attention.load_state_dict({"relative_position_bias_table": table}, strict=False)
    attention.set_window(window)
    torch.testing.assert_close(attention.relative_position_bias_table.data, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [5, 13, 15])
def test_set_window_equals_a_layer_built_so(window: int) -> None:
    attention, x = layer(), torch.randn(2, 16, 12, 8)
    fresh = WindowAttention(8, 2, window)
    state = attention.state_dict()
    state["relative_position_bias_table"] = resize_bias_table(state["relative_position_bias_table"], window)
    fresh.load_state_dict(state)
    attention.set_window(window)
    assert attention.window == window
    assert torch.equal(attention.relative_position_index, fresh.relative_position_index)
    assert isinstance(attention.relative_position_bias_table, torch.nn.Parameter)
    torch.testing.assert_close(attention(x), fresh(x))


def test_set_window_keeps_a_bias_that_is_off() -> None:
    attention = layer(position_bias=False)
    attention.set_window(13)
    assert not attention.relative_position_bias_table.requires_grad


def test_fresh_table_is_narrow() -> None:
    table = WindowAttention(64, 32, 7).relative_position_bias_table
    assert table.shape == (169, 32)
    assert table.std().item() == pytest.approx(0.02, rel=0.05)
    assert table.mean().item() == pytest.approx(0.0, abs=2e-3)


def test_index_is_not_stored() -> None:
    assert list(layer().state_dict()) == [
        "relative_position_bias_table",
        "qkv.weight",
        "qkv.bias",
        "proj.weight",
        "proj.bias",
    ]


def test_layer_built_after_one_on_meta_works() -> None:
    with torch.device("meta"):
        assert WindowAttention(8, 2, 7).relative_position_index.is_meta
    assert not WindowAttention(8, 2, 7).relative_position_index.is_meta


@pytest.mark.parametrize("size", [(7, 14), (9, 5)])
def test_training_with_the_operator_changes_nothing(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that CUDA tensors go in training; on the CPU the operator's plain reference runs."""
    attention, x = layer(), torch.randn(2, *size, 8)
    plain = attention(x)
    expected = torch.autograd.grad(plain.square().sum(), list(attention.parameters()))
    monkeypatch.setattr(attention_module, "kernels_train", lambda _: True)
    output = attention(x)
    torch.testing.assert_close(output, plain)
    got = torch.autograd.grad(output.square().sum(), list(attention.parameters()))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((8, 3, 7), "num_heads must divide channels, got 3 heads for 8"), ((8, 2, 0), "window must be at least 1")],
)
def test_bad_shapes_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowAttention(*arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_one_compiled_graph_serves_all_sizes(batch: int, training: bool) -> None:
    """With and without padding, with one window and with more, smaller than a window."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    attention = layer().train(training)
    compiled = torch.compile(attention, backend=backend, fullgraph=True, dynamic=True)
    for size in [(14, 21), (3, 9), (8, 6), (15, 28), (2, 3), (7, 5)]:
        x = torch.randn(batch, *size, 8)
        expected = torch.autograd.grad(attention(x).square().sum(), list(attention.parameters()))
        got = torch.autograd.grad(compiled(x).square().sum(), list(attention.parameters()))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


def test_a_changed_projection_is_compiled_as_it_is() -> None:
    torch._dynamo.reset()
    attention, x = layer(), torch.randn(1, 5, 9, 8)
    attention.qkv = torch.nn.Sequential(attention.qkv, torch.nn.Tanh())
    compiled = torch.compile(attention, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(x), attention(x))


def test_exported_graphs_hold_plain_operations() -> None:
    with torch.no_grad():
        program = torch.export.export(layer().eval(), (torch.randn(1, 9, 5, 8),))
    assert "hrformer" not in str(program.graph)
