"""Window attention against a loop over windows, its padding, its bias table, and how the layer is built."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hrformer.models.attention import WindowAttention, relative_position_index, resize_bias_table, window_padding
from hrformer.models.blocks import TransformerBlock
from plain_attention import window_attention


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((8, 3, 7), "num_heads must divide channels, got 3 heads for 8"), ((8, 2, 0), "window must be at least 1")],
)
def test_bad_shapes_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowAttention(*arguments)


def test_exported_graphs_hold_plain_operations() -> None:
    with torch.no_grad():
        program = torch.export.export(layer().eval(), (torch.randn(1, 9, 5, 8),))
    assert "hrformer" not in str(program.graph)


@pytest.mark.parametrize("size", [(14, 7), (9, 5), (3, 20), (2, 2)])
def test_one_exported_block_serves_every_height_and_width(size: tuple[int, int]) -> None:
    block = TransformerBlock(8, 2).eval()
    sides = {2: torch.export.Dim("height", min=2, max=512), 3: torch.export.Dim("width", min=2, max=512)}
    with (
        torch.no_grad(),
        torch.fx.experimental._config.patch(backed_size_oblivious=True),
    ):  # one window is no case apart
        program = torch.export.export(block, (torch.randn(1, 8, 16, 12),), dynamic_shapes=({**sides},))
        x = torch.randn(1, 8, *size)
        torch.testing.assert_close(program.module()(x), block(x))


# (height, width, window, channels, heads)
SIZES = [
    (7, 7, 7, 8, 2),  # one window
    (14, 21, 7, 8, 1),  # tiled exactly
    (8, 6, 7, 8, 2),  # both padded, width below the window
    (16, 12, 7, 6, 3),
    (14, 9, 7, 8, 4),  # width padded only, by an odd number
    (5, 7, 7, 8, 2),  # height padded only
    (3, 4, 7, 8, 2),  # window larger than the map
    (1, 1, 7, 8, 2),  # one cell in 48 padded ones
    (1, 9, 4, 8, 2),  # even window
    (6, 5, 1, 8, 2),  # a window per cell
    (16, 12, 13, 4, 2),
    (15, 31, 15, 4, 1),
]


def random_case(height: int, width: int, window: int, channels: int, heads: int, bias: bool) -> dict[str, Tensor]:
    """Arguments of ``window_attention`` in float64; projection biases are far from 0, so that padding matters."""
    generator = torch.Generator().manual_seed(height * 100 + width)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = window * window
    case = {
        "x": draw(2, height, width, channels),
        "qkv_weight": draw(3 * channels, channels),
        "qkv_bias": draw(3 * channels),
        "proj_weight": draw(channels, channels),
        "proj_bias": draw(channels),
    }
    return case | ({"bias": draw(heads, tokens, tokens)} if bias else {})


def attention_by_loops(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    bias: Tensor | None = None,
    *,
    window: int,
    num_heads: int,
) -> Tensor:
    """One picture, window and head at a time, straight from the recipe; nothing shared with the package."""
    batch, height, width, channels = x.shape
    rows, cols = math.ceil(height / window), math.ceil(width / window)
    top, left = (rows * window - height) // 2, (cols * window - width) // 2
    padded = x.new_zeros(batch, rows * window, cols * window, channels)
    padded[:, top : top + height, left : left + width] = x
    result = torch.zeros_like(padded)
    d = channels // num_heads
    for b in range(batch):
        for r in range(rows):
            for c in range(cols):
                here = (b, slice(r * window, (r + 1) * window), slice(c * window, (c + 1) * window))
                tokens = padded[here].reshape(window * window, channels)
                q, k, v = (tokens @ qkv_weight.T + qkv_bias).split(channels, 1)
                heads = []
                for h in range(num_heads):
                    part = slice(h * d, (h + 1) * d)
                    scores = q[:, part] * d**-0.5 @ k[:, part].T
                    if bias is not None:
                        scores = scores + bias[h]
                    heads.append(scores.softmax(1) @ v[:, part])
                result[here] = (torch.cat(heads, 1) @ proj_weight.T + proj_bias).reshape(window, window, channels)
    return result[:, top : top + height, left : left + width]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_window_attention_equals_loops(size: tuple[int, int, int, int, int], with_bias: bool) -> None:
    case = random_case(*size, with_bias)
    case.setdefault("bias", None)
    options = {"window": size[2], "num_heads": size[4]}
    torch.testing.assert_close(
        window_attention(**case, **options), attention_by_loops(**case, **options), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("size", [(8, 6, 7, 8, 2), (3, 4, 5, 4, 1), (6, 6, 3, 6, 3)])
def test_gradients_equal_loops(size: tuple[int, int, int, int, int]) -> None:
    options = {"window": size[2], "num_heads": size[4]}
    gradients = []
    for function in (window_attention, attention_by_loops):
        case = {name: value.requires_grad_() for name, value in random_case(*size, True).items()}
        output = function(**case, **options)
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        gradients.append(torch.autograd.grad((output * weight).sum(), list(case.values())))
    for name, ours, theirs in zip(random_case(*size, True), *gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def test_gradcheck() -> None:
    case = random_case(3, 2, 2, 4, 2, True)
    inputs = [value.requires_grad_() for value in case.values()]
    assert torch.autograd.gradcheck(lambda *args: window_attention(*args, window=2, num_heads=2), inputs)


def test_padded_tokens_take_part() -> None:
    """Their keys and values are the projection biases; masking them would give another result."""
    case = random_case(1, 1, 2, 2, 1, False)
    x, weight, bias = case["x"], case["qkv_weight"], case["qkv_bias"]
    q, k, v = (x.reshape(2, 2) @ weight.T + bias).split(2, 1)
    _, k0, v0 = bias.split(2)
    for b in range(2):
        scores = torch.stack([q[b] @ k[b], *[q[b] @ k0] * 3]) / math.sqrt(2)
        mixed = scores.softmax(0) @ torch.stack([v[b], v0, v0, v0])
        expected = mixed @ case["proj_weight"].T + case["proj_bias"]
        output = window_attention(**case, bias=None, window=2, num_heads=1)
        torch.testing.assert_close(output[b, 0, 0], expected)


def test_memory_format_does_not_matter() -> None:
    case = random_case(9, 5, 4, 8, 2, True)
    strided = case | {"x": case["x"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)}
    assert not strided["x"].is_contiguous()
    torch.testing.assert_close(
        window_attention(**strided, window=4, num_heads=2), window_attention(**case, window=4, num_heads=2)
    )


def test_bias_follows_the_dtype_of_the_map() -> None:
    case = {name: value.bfloat16() for name, value in random_case(8, 6, 7, 8, 2, True).items()}
    output = window_attention(**case | {"bias": case["bias"].float()}, window=7, num_heads=2)
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(output).all()


@pytest.mark.parametrize(
    ("height", "width", "window", "expected"),
    [
        (56, 56, 7, (0, 0, 0, 0)),
        (64, 48, 7, (0, 1, 3, 3)),  # 6 rows and 1 column: the odd one goes after
        (8, 6, 7, (0, 1, 3, 3)),
        (1, 1, 7, (3, 3, 3, 3)),
        (15, 2, 13, (5, 6, 5, 6)),
    ],
)
def test_padding_is_centred(height: int, width: int, window: int, expected: tuple[int, int, int, int]) -> None:
    assert window_padding(height, width, window) == expected


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_index_equals_loops(window: int) -> None:
    cells = [(r, c) for r in range(window) for c in range(window)]
    side = 2 * window - 1
    expected = [(r1 - r2 + window - 1) * side + (c1 - c2 + window - 1) for r1, c1 in cells for r2, c2 in cells]
    index = relative_position_index(window)
    assert index.dtype == torch.int64
    assert index.tolist() == expected
    assert set(expected) == set(range(side * side))


def test_index_is_not_shared_between_devices() -> None:
    """A cache once handed the meta tensors of one model to all later ones, whose bias was then random memory."""
    with torch.device("meta"):
        assert relative_position_index(5).device.type == "meta"
    assert relative_position_index(5).device.type == "cpu"
    assert relative_position_index(5).data_ptr() != relative_position_index(5).data_ptr()


def test_resize_to_the_same_window_changes_nothing() -> None:
    table = torch.randn(169, 4)
    assert torch.equal(resize_bias_table(table, 7), table)


def test_resize_keeps_the_dtype() -> None:
    assert resize_bias_table(torch.randn(169, 4).half(), 13).dtype == torch.float16


@pytest.mark.parametrize("rows", [168, 16, 2])
def test_resize_refuses_what_is_no_table(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"\(2K-1\)\^2 rows, got {rows}"):
        resize_bias_table(torch.randn(rows, 4), 13)
