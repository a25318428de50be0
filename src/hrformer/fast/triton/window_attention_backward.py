"""Window attention backward: weights are recomputed from each token's softmax terms, nothing of size N * N is stored.

Dimension letters as in ``window_attention``. Windows of one block (N <= 64) take one kernel for all gradients;
larger ones take three, for the queries, for keys and values, and for the bias. Gradients of the bias and of the
padded tokens are added in registers over all windows of a program, written once for each program and summed in a
fixed order: no atomics, so a run repeats bit by bit on one GPU model.

With S the scores, P their softmax and G the gradient of the output, for one window and head:
dV = P^T G; dS = P * (G V^T - rowsum(G * out)); dQ = scale * dS K; dK = scale * dS^T Q; dbias = dS.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from hrformer.fast.triton.launch import device_of, jit, tl
from hrformer.fast.triton.window_attention import SIZES, WindowGrid, load_bias, load_tokens, token_cells, window_corner


@jit()
def load_gradient(source, cells, inside, C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(BLOCK, BLOCK_D) values from a map with C values in a cell; 0 for tokens in the padding."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < D)[None, :]
    return tl.load(source + cells[:, None] * C + dims[None, :], mask=mask, other=0.0)


@jit()
def store_tokens(target, values, cells, inside, ROW: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write (BLOCK, BLOCK_D) values of real tokens to a map with ROW values in a cell."""
    dims = tl.arange(0, BLOCK_D)
    mask = inside[:, None] & (dims < D)[None, :]
    tl.store(target + cells[:, None] * ROW + dims[None, :], values.to(target.dtype.element_ty), mask=mask)


@jit()
def load_softmax(softmax, row, queries, K: tl.constexpr):
    """Largest score and 1 / sum of each query; +inf for rows beyond the window, which makes their weights 0."""
    place = softmax + row * 2 + queries
    highest = tl.load(place, mask=queries < K * K, other=float("inf"))
    return highest, 1.0 / tl.load(place + K * K, mask=queries < K * K, other=1.0)


@jit()
def attention_weights(query, key, value, gradient, bias_tile, highest, shrink, scale):
    """Weights P and their gradient G V^T, both float32; ``highest`` and ``shrink`` from ``load_softmax``."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale + bias_tile
    weights = tl.exp(scores - highest[:, None]) * shrink[:, None]
    return weights, tl.dot(gradient, tl.trans(value), input_precision="ieee")


@jit()
def sum_padding(gradient, tokens, inside, K: tl.constexpr):
    """(BLOCK_D,) sum over the padded tokens of a block."""
    padded = (tokens < K * K) & (inside == 0)
    return tl.sum(tl.where(padded[:, None], gradient, 0.0), 0)


@jit()
def store_padding(target, key_sum, value_sum, C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write sums for padded keys and values: a row (2, C) of which the program owns one head."""
    dims = tl.arange(0, BLOCK_D)
    tl.store(target + dims, key_sum, mask=dims < D)
    tl.store(target + C + dims, value_sum, mask=dims < D)


@jit()
def store_bias(target, head, queries, keys, tile, K: tl.constexpr):
    """Write one block of a partial bias gradient (h, N, N)."""
    place = (head * (K * K) + queries[:, None]) * (K * K) + keys[None, :]
    tl.store(target + place, tile, mask=(queries < K * K)[:, None] & (keys < K * K)[None, :])


@jit(do_not_specialize=SIZES)
def single_block_kernel(
    grad_out, qkv, padding, bias, softmax, grad_qkv, grad_padding, grad_bias,
    height, width, rows, cols, top, left, num_windows, scale,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr, BIAS_GRAD: tl.constexpr,
):  # fmt: skip
    """All gradients of windows that are one block; program axes: head, slot."""
    head = tl.program_id(0)
    slot = tl.cast(tl.program_id(1), tl.int64)
    C: tl.constexpr = HEADS * D
    tokens = tl.arange(0, BLOCK)
    padding += head * D
    bias_tile = load_bias(bias, head, tokens, tokens, K, HAS_BIAS)
    bias_sum = tl.zeros((BLOCK, BLOCK), tl.float32)
    key_sum = tl.zeros((BLOCK_D,), tl.float32)
    value_sum = tl.zeros((BLOCK_D,), tl.float32)
    for window in range(tl.program_id(1), num_windows, tl.num_programs(1)):
        corner, y, x = window_corner(window, height, width, rows, cols, top, left, K)
        cells, inside = token_cells(tokens, y, x, height, width, K)
        source = qkv + corner * (3 * C) + head * D
        query = load_tokens(source, padding, cells, inside, 3 * C, D, BLOCK_D)
        key = load_tokens(source + C, padding + C, cells, inside, 3 * C, D, BLOCK_D)
        value = load_tokens(source + 2 * C, padding + 2 * C, cells, inside, 3 * C, D, BLOCK_D)
        gradient = load_gradient(grad_out + corner * C + head * D, cells, inside, C, D, BLOCK_D)
        row = (tl.cast(window, tl.int64) * HEADS + head) * (K * K)
        highest, shrink = load_softmax(softmax, row, tokens, K)
        weights, from_value = attention_weights(query, key, value, gradient, bias_tile, highest, shrink, scale)
        from_scores = weights * (from_value - tl.sum(weights * from_value, 1)[:, None])
        if BIAS_GRAD:
            bias_sum += from_scores
        from_scores = from_scores.to(key.dtype)
        grad_value = tl.dot(tl.trans(weights.to(gradient.dtype)), gradient, input_precision="ieee")
        grad_key = tl.dot(tl.trans(from_scores), query, input_precision="ieee") * scale
        grad_query = tl.dot(from_scores, key, input_precision="ieee") * scale
        target = grad_qkv + corner * (3 * C) + head * D
        store_tokens(target, grad_query, cells, inside, 3 * C, D, BLOCK_D)
        store_tokens(target + C, grad_key, cells, inside, 3 * C, D, BLOCK_D)
        store_tokens(target + 2 * C, grad_value, cells, inside, 3 * C, D, BLOCK_D)
        key_sum += sum_padding(grad_key, tokens, inside, K)
        value_sum += sum_padding(grad_value, tokens, inside, K)
    store_padding(grad_padding + slot * (2 * C) + head * D, key_sum, value_sum, C, D, BLOCK_D)
    if BIAS_GRAD:
        store_bias(grad_bias + slot * (HEADS * K * K * K * K), head, tokens, tokens, bias_sum, K)


@jit(do_not_specialize=SIZES)
def query_kernel(
    grad_out, qkv, padding, bias, out, softmax, delta, grad_qkv,
    height, width, rows, cols, top, left, num_windows, scale,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries, and ``delta`` = rowsum(grad_out * out); program axes: head and query block, slot."""
    head = tl.program_id(0) % HEADS
    C: tl.constexpr = HEADS * D
    queries = tl.program_id(0) // HEADS * BLOCK + tl.arange(0, BLOCK)
    padding += head * D
    for window in range(tl.program_id(1), num_windows, tl.num_programs(1)):
        corner, y, x = window_corner(window, height, width, rows, cols, top, left, K)
        cells, inside = token_cells(queries, y, x, height, width, K)
        source = qkv + corner * (3 * C) + head * D
        query = load_tokens(source, padding, cells, inside, 3 * C, D, BLOCK_D)
        gradient = load_gradient(grad_out + corner * C + head * D, cells, inside, C, D, BLOCK_D)
        attended = load_gradient(out + corner * C + head * D, cells, inside, C, D, BLOCK_D)
        row_delta = tl.sum(gradient.to(tl.float32) * attended.to(tl.float32), 1)
        row = (tl.cast(window, tl.int64) * HEADS + head) * (K * K)
        tl.store(delta + row + queries, row_delta, mask=queries < K * K)
        highest, shrink = load_softmax(softmax, row, queries, K)
        grad_query = tl.zeros((BLOCK, BLOCK_D), tl.float32)
        for start in range(0, K * K, BLOCK):
            keys = start + tl.arange(0, BLOCK)
            bias_tile = load_bias(bias, head, queries, keys, K, HAS_BIAS)
            key_cells, key_inside = token_cells(keys, y, x, height, width, K)
            key = load_tokens(source + C, padding + C, key_cells, key_inside, 3 * C, D, BLOCK_D)
            value = load_tokens(source + 2 * C, padding + 2 * C, key_cells, key_inside, 3 * C, D, BLOCK_D)
            weights, from_value = attention_weights(query, key, value, gradient, bias_tile, highest, shrink, scale)
            from_scores = weights * (from_value - row_delta[:, None])
            grad_query += tl.dot(from_scores.to(key.dtype), key, input_precision="ieee")
        store_tokens(grad_qkv + corner * (3 * C) + head * D, grad_query * scale, cells, inside, 3 * C, D, BLOCK_D)


@jit(do_not_specialize=SIZES)
def key_value_kernel(
    grad_out, qkv, padding, bias, softmax, delta, grad_qkv, grad_padding,
    height, width, rows, cols, top, left, num_windows, scale,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Gradients of keys, values and padded tokens; program axes: head and key block, slot."""
    head = tl.program_id(0) % HEADS
    block = tl.program_id(0) // HEADS
    blocks = tl.num_programs(0) // HEADS
    C: tl.constexpr = HEADS * D
    keys = block * BLOCK + tl.arange(0, BLOCK)
    padding += head * D
    key_sum = tl.zeros((BLOCK_D,), tl.float32)
    value_sum = tl.zeros((BLOCK_D,), tl.float32)
    for window in range(tl.program_id(1), num_windows, tl.num_programs(1)):
        corner, y, x = window_corner(window, height, width, rows, cols, top, left, K)
        key_cells, key_inside = token_cells(keys, y, x, height, width, K)
        source = qkv + corner * (3 * C) + head * D
        key = load_tokens(source + C, padding + C, key_cells, key_inside, 3 * C, D, BLOCK_D)
        value = load_tokens(source + 2 * C, padding + 2 * C, key_cells, key_inside, 3 * C, D, BLOCK_D)
        row = (tl.cast(window, tl.int64) * HEADS + head) * (K * K)
        grad_key = tl.zeros((BLOCK, BLOCK_D), tl.float32)
        grad_value = tl.zeros((BLOCK, BLOCK_D), tl.float32)
        for start in range(0, K * K, BLOCK):
            queries = start + tl.arange(0, BLOCK)
            bias_tile = load_bias(bias, head, queries, keys, K, HAS_BIAS)
            cells, inside = token_cells(queries, y, x, height, width, K)
            query = load_tokens(source, padding, cells, inside, 3 * C, D, BLOCK_D)
            gradient = load_gradient(grad_out + corner * C + head * D, cells, inside, C, D, BLOCK_D)
            highest, shrink = load_softmax(softmax, row, queries, K)
            row_delta = tl.load(delta + row + queries, mask=queries < K * K, other=0.0)
            weights, from_value = attention_weights(query, key, value, gradient, bias_tile, highest, shrink, scale)
            from_scores = (weights * (from_value - row_delta[:, None])).to(query.dtype)
            grad_value += tl.dot(tl.trans(weights.to(gradient.dtype)), gradient, input_precision="ieee")
            grad_key += tl.dot(tl.trans(from_scores), query, input_precision="ieee")
        grad_key *= scale
        target = grad_qkv + corner * (3 * C) + head * D
        store_tokens(target + C, grad_key, key_cells, key_inside, 3 * C, D, BLOCK_D)
        store_tokens(target + 2 * C, grad_value, key_cells, key_inside, 3 * C, D, BLOCK_D)
        key_sum += sum_padding(grad_key, keys, key_inside, K)
        value_sum += sum_padding(grad_value, keys, key_inside, K)
    partial = tl.cast(tl.program_id(1), tl.int64) * blocks + block
    store_padding(grad_padding + partial * (2 * C) + head * D, key_sum, value_sum, C, D, BLOCK_D)


@jit(do_not_specialize=SIZES)
def bias_kernel(
    grad_out, qkv, padding, bias, softmax, delta, grad_bias,
    height, width, rows, cols, top, left, num_windows, scale,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradient of the bias; program axes: head and pair of query and key block, slot."""
    head = tl.program_id(0) % HEADS
    pair = tl.program_id(0) // HEADS
    C: tl.constexpr = HEADS * D
    queries = pair // BLOCKS * BLOCK + tl.arange(0, BLOCK)
    keys = pair % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    padding += head * D
    bias_tile = load_bias(bias, head, queries, keys, K, True)
    bias_sum = tl.zeros((BLOCK, BLOCK), tl.float32)
    for window in range(tl.program_id(1), num_windows, tl.num_programs(1)):
        corner, y, x = window_corner(window, height, width, rows, cols, top, left, K)
        cells, inside = token_cells(queries, y, x, height, width, K)
        key_cells, key_inside = token_cells(keys, y, x, height, width, K)
        source = qkv + corner * (3 * C) + head * D
        query = load_tokens(source, padding, cells, inside, 3 * C, D, BLOCK_D)
        key = load_tokens(source + C, padding + C, key_cells, key_inside, 3 * C, D, BLOCK_D)
        value = load_tokens(source + 2 * C, padding + 2 * C, key_cells, key_inside, 3 * C, D, BLOCK_D)
        gradient = load_gradient(grad_out + corner * C + head * D, cells, inside, C, D, BLOCK_D)
        row = (tl.cast(window, tl.int64) * HEADS + head) * (K * K)
        highest, shrink = load_softmax(softmax, row, queries, K)
        row_delta = tl.load(delta + row + queries, mask=queries < K * K, other=0.0)
        weights, from_value = attention_weights(query, key, value, gradient, bias_tile, highest, shrink, scale)
        bias_sum += weights * (from_value - row_delta[:, None])
    slot = tl.cast(tl.program_id(1), tl.int64)
    store_bias(grad_bias + slot * (HEADS * K * K * K * K), head, queries, keys, bias_sum, K)


def attention_backward(
    grad_out: Tensor, qkv: Tensor, padding: Tensor, bias: Tensor | None, out: Tensor, softmax: Tensor,
    window: int, num_heads: int, bias_grad: bool, *, slots: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Launch the backward kernels; arguments as for and from ``attention_forward``, all contiguous.

    Args:
        grad_out: (B, H, W, C), gradient of the attended map, in the dtype of ``qkv``.
        bias_grad: whether the gradient of ``bias`` is wanted.
        slots: programs that share the windows of one head and block; None fills the GPU.

    Returns:
        Gradients: of ``qkv`` in its dtype; of keys and values of padded tokens, (2, C) float32, whose queries are
        never seen; of ``bias``, (h, N, N) float32, or None where it is not wanted.
    """
    grid = WindowGrid(qkv, window, num_heads)
    grad_qkv = torch.empty_like(qkv)
    room = partial(torch.empty, dtype=torch.float32, device=qkv.device)
    bias_size = (num_heads, grid.num_tokens, grid.num_tokens)
    if grid.num_windows == 0:
        return grad_qkv, room(2, grid.channels).zero_(), room(bias_size).zero_() if bias_grad else None
    inputs = (grad_out, qkv, padding, bias)
    sizes = (*grid.sizes, grid.head_dim**-0.5)
    programs = num_heads * grid.num_blocks
    block_slots = slots or grid.slots(qkv.device, programs)
    grad_padding = room(block_slots * grid.num_blocks, 2, grid.channels)
    has_bias, grad_bias = bias is not None, None
    with device_of(qkv):
        if grid.num_blocks == 1:
            grad_bias = room(block_slots, *bias_size) if bias_grad else None
            single_block_kernel[(programs, block_slots)](
                *inputs, softmax, grad_qkv, grad_padding, grad_bias, *sizes,
                HAS_BIAS=has_bias, BIAS_GRAD=bias_grad, **grid.constants,
            )  # fmt: skip
        else:
            delta = room(grid.num_windows, num_heads, grid.num_tokens)
            query_kernel[(programs, block_slots)](
                *inputs, out, softmax, delta, grad_qkv, *sizes, HAS_BIAS=has_bias, **grid.constants
            )
            key_value_kernel[(programs, block_slots)](
                *inputs, softmax, delta, grad_qkv, grad_padding, *sizes, HAS_BIAS=has_bias, **grid.constants
            )
            if bias_grad:
                pairs = programs * grid.num_blocks
                pair_slots = slots or grid.slots(qkv.device, pairs)
                grad_bias = room(pair_slots, *bias_size)
                bias_kernel[(pairs, pair_slots)](
                    *inputs, softmax, delta, grad_bias, *sizes, BLOCKS=grid.num_blocks, **grid.constants
                )
    return grad_qkv, grad_padding.sum(0), None if grad_bias is None else grad_bias.sum(0)
