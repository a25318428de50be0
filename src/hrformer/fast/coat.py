"""The coat: blocks that train on kernels and networks that compile once for all sizes, put on plain ones from outside.

``put_on`` changes the class of plain modules to a subclass of the same function, the same state dict and the same
parts; ``take_off`` changes it back. Every subclass falls back to the plain ``forward`` where its kernels do not apply:
gradients are the same to rounding. ``HRFORMER_FAST=0`` in the environment leaves networks plain as they are built.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hrformer.fast.coat_maps import MAP_COAT, FastSequence, is_sequence, plain_copy, takes_kernels
from hrformer.fast.compiled import compiled_for_any_size, convolutions_for_any_size
from hrformer.fast.eligibility import is_plain_linear, is_unchanged, plain_kind
from hrformer.fast.trainable import NUMBER, in_float32, is_batch_norm, is_layer, is_ordinary, running_statistics, trains
from hrformer.fast.trainable import trains_on_cpu as _trains_on_cpu
from hrformer.fast.triton.attention_op import window_attention_core, window_attention_op
from hrformer.fast.triton.feed_forward_op import BatchNormState, conv_ffn_training
from hrformer.fast.x86.training import (
    AttentionWeights,
    FeedForwardWeights,
    feed_forward_training,
    training_refusal,
    window_attention_training,
)
from hrformer.models.attention import WindowAttention
from hrformer.models.blocks import ConvFFN, TransformerBlock
from hrformer.models.model import VisionModel
from hrformer.models.trunk import HighResolutionTrunk

SWITCH = "HRFORMER_FAST"
"""Environment variable: "0" builds plain networks."""

Model = TypeVar("Model", bound=nn.Module)


class FastTransformerBlock(TransformerBlock):
    """``TransformerBlock`` that trains on kernels: compiled ones on x86 processors, Triton's on GPUs."""

    coat_of = TransformerBlock

    def forward(self, x: Tensor) -> Tensor:
        """As the plain block's."""
        if not takes_kernels(self, x) or not x.is_cpu or not is_unchanged(self.drop_path, nn.Identity):
            return super().forward(x)
        tokens = x.permute(0, 2, 3, 1)
        attended = self._attention_on_cpu(tokens, residual=True)
        tokens = tokens + self.attend(tokens) if attended is None else attended
        y = self._feed_forward_on_cpu(tokens, residual=True)
        return (tokens + self.feed_forward(tokens) if y is None else y).permute(0, 3, 1, 2)

    def attend(self, tokens: Tensor) -> Tensor:
        """As the plain block's: (B, H, W, C) -> (B, H, W, C)."""
        if not isinstance(tokens, Tensor):  # a stand-in of torch.fx, which no condition may ask
            return super().attend(tokens)
        attn = self.attn
        any_size = compiled_for_any_size(tokens)
        if any_size or (self.training and on_gpu(tokens) and is_plain_linear(attn.qkv)):
            packed, pad_token = _packed(attn, self.norm1(tokens))
            bias, sizes = attn.gathered_bias(), {"window": attn.window, "num_heads": attn.num_heads}
            if any_size:
                return attn.proj(window_attention_op(packed, pad_token, bias, **sizes)[0])
            return attn.proj(window_attention_core(packed, pad_token, bias, **sizes))
        y = self._attention_on_cpu(tokens, residual=False)
        return super().attend(tokens) if y is None else y

    def _attention_on_cpu(self, tokens: Tensor, *, residual: bool) -> Tensor | None:
        """By a compiled kernel, or None where none applies; with the tokens added where asked for."""
        norm, attn, tokens = self.norm1, self.attn, in_float32(tokens)
        if not _trains_on_cpu(attn, tokens) or not _is_attention(tokens, norm, attn):
            return None
        qkv, proj = attn.qkv, attn.proj
        weights = AttentionWeights(
            norm.weight, norm.bias, qkv.weight, qkv.bias, proj.weight, proj.bias, attn.gathered_bias()
        )
        if training_refusal(tokens, weights):
            return None
        sizes = {"window": attn.window, "num_heads": attn.num_heads}
        return window_attention_training(tokens, weights, **sizes, layer_eps=norm.eps, residual=residual)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """As the plain block's: (B, H, W, C) -> (B, H, W, C)."""
        if not isinstance(tokens, Tensor):
            return super().feed_forward(tokens)
        y = self._feed_forward_on_cpu(tokens, residual=False)
        if y is not None:
            return y
        ffn = self.ffn
        if on_gpu(tokens) and trains(ffn, tokens) and type(ffn.fc1) is nn.Conv2d:
            normed = self.norm2(tokens)
            if _is_feed_forward(normed, ffn, ffn.fc1.weight.dtype):
                first, middle, second = (
                    BatchNormState(norm.weight, norm.bias, *running_statistics(norm))  # after counting the batch
                    for norm in (ffn.norm1, ffn.norm2, ffn.norm3)
                )
                fc1 = (ffn.fc1.weight.flatten(1), cast(Tensor, ffn.fc1.bias))
                depthwise = (ffn.dw3x3.weight, cast(Tensor, ffn.dw3x3.bias))
                fc2 = (ffn.fc2.weight.flatten(1), cast(Tensor, ffn.fc2.bias))
                return conv_ffn_training(normed.contiguous(), fc1, first, depthwise, middle, fc2, second)
            return ffn(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().feed_forward(tokens)

    def _feed_forward_on_cpu(self, tokens: Tensor, *, residual: bool) -> Tensor | None:
        """As ``_attention_on_cpu``."""
        ffn, tokens = self.ffn, in_float32(tokens)
        if not (_trains_on_cpu(ffn, tokens) and _is_layer_norm(self.norm2, tokens) and _is_feed_forward(tokens, ffn)):
            return None
        parts: tuple[Any, ...] = (self.norm2, ffn.fc1, ffn.norm1, ffn.dw3x3, ffn.norm2, ffn.fc2, ffn.norm3)
        weights = FeedForwardWeights(*(tensor for part in parts for tensor in (part.weight, part.bias)))
        norms = (ffn.norm1, ffn.norm2, ffn.norm3)
        statistics = [cast(Tensor, tensor) for norm in norms for tensor in (norm.running_mean, norm.running_var)]
        whole = all(tensor.is_contiguous() for tensor in statistics)
        if not whole or training_refusal(tokens, (*weights, *statistics)):
            return None
        running = (running_statistics(ffn.norm1), running_statistics(ffn.norm2), running_statistics(ffn.norm3))
        return feed_forward_training(tokens, weights, running, self.norm2.eps, residual=residual)

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the plain block with the same parts."""
        return plain_copy(self)


class AnySizeModel(VisionModel):
    """``VisionModel`` whose compiled graph for open sizes holds for all of them, see ``hrformer.fast.compiled``."""

    coat_of = VisionModel

    def forward(self, x: Tensor) -> Any:
        """As the plain model's."""
        with convolutions_for_any_size(x):
            return super().forward(x)


class RecomputedBranch(nn.Sequential):
    """A branch whose inner activations are computed again in the backward pass instead of being stored."""

    coat_of = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return cast(Tensor, super().forward(x))
        run = super().forward
        if torch.compiler.is_compiling():  # the compiler updates batch norms' statistics once by itself
            return cast(Tensor, checkpoint(run, x, use_reentrant=False))
        return cast(
            Tensor, checkpoint(run, x, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(self)))
        )

    def __prepare_scriptable__(self) -> nn.Module:
        """As above."""
        return plain_copy(self)


COAT: dict[type[nn.Module], type[nn.Module]] = {
    **{kind.coat_of: kind for kind in (FastTransformerBlock, AnySizeModel)},
    **MAP_COAT,
}
"""Plain class -> its faster subclass."""


def put_on(model: Model) -> Model:
    """Let the plain blocks, trunks, fusion units and models in ``model`` run faster, in place; returns it."""
    if os.environ.get(SWITCH) != "0":
        for part in model.modules():
            if type(part) in COAT:
                part.__class__ = COAT[type(part)]
            elif is_sequence(part):
                part.__class__ = FastSequence
    return model


def take_off(model: Model) -> Model:
    """Make every part of ``model`` plain again, in place; returns it."""
    for part in model.modules():
        part.__class__ = plain_kind(type(part))
    return model


def set_grad_checkpointing(trunk: HighResolutionTrunk, enable: bool = True) -> None:
    """Recompute every branch in the backward pass instead of storing its activations, or do not."""
    for module in trunk.high_resolution_modules():
        for branch in module.branches:
            branch.__class__ = RecomputedBranch if enable else nn.Sequential


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch norm from adding the same batch to its running statistics a second time."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def on_gpu(x: Tensor) -> bool:
    """Whether training on this tensor takes the operators that may run Triton's kernels."""
    return x.is_cuda


def _packed(attn: WindowAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, keys and values (B, H, W, 3C) of real tokens, and those (3C,) of a padded one, which is zero."""
    pad_token = attn.qkv.bias if is_plain_linear(attn.qkv) else attn.qkv(x.new_zeros(1, x.shape[-1]))[0]
    packed = attn.qkv(x)
    return packed, pad_token.to(packed.dtype)


def _is_attention(x: Tensor, norm: nn.LayerNorm, attn: WindowAttention) -> bool:
    """Whether layer norm and attention are what they were made as, for tokens of C channels."""
    channels, heads, window = x.shape[-1], attn.num_heads, attn.window
    if type(heads) is not int or type(window) is not int or heads < 1 or channels % heads:
        return False
    index = attn._buffers.get("relative_position_index")
    table = attn._parameters.get("relative_position_bias_table")
    return (
        _is_layer_norm(norm, x)
        and is_unchanged(attn, WindowAttention)
        and is_layer(attn.qkv, nn.Linear, x, weight=(3 * channels, channels), bias=(3 * channels,))
        and is_layer(attn.proj, nn.Linear, x, weight=(channels, channels), bias=(channels,))
        and (
            not attn.position_bias
            or (
                is_ordinary(table, ((2 * window - 1) ** 2, heads), x.dtype, x.device)
                and is_ordinary(index, (window**4,), torch.int64, x.device)
            )
        )
    )


def _is_layer_norm(norm: nn.LayerNorm, x: Tensor) -> bool:
    shape = (x.shape[-1],)
    return (
        is_layer(norm, nn.LayerNorm, x, weight=shape, bias=shape)
        and norm.normalized_shape == shape
        and isinstance(norm.eps, NUMBER)
    )


def _is_feed_forward(x: Tensor, ffn: ConvFFN, dtype: torch.dtype | None = None) -> bool:
    """Whether the network is what it was made as, for tokens of C channels; its weights of ``dtype``, else of x's."""
    if not is_unchanged(ffn, ConvFFN) or type(ffn.fc1) is not nn.Conv2d:
        return False
    channels, hidden = x.shape[-1], ffn.fc1.out_channels
    convolutions = (
        (ffn.fc1, (hidden, channels, 1, 1), 1),
        (ffn.dw3x3, (hidden, 1, 3, 3), hidden),
        (ffn.fc2, (channels, hidden, 1, 1), 1),
    )
    return (
        is_unchanged(ffn.act, nn.GELU)
        and ffn.act.approximate == "none"
        and all(
            is_layer(conv, nn.Conv2d, x, dtype, weight=shape, bias=shape[:1])
            and (conv.groups, conv.stride, conv.dilation, conv.padding_mode) == (groups, (1, 1), (1, 1), "zeros")
            and conv.padding == (shape[-2] // 2, shape[-1] // 2)
            for conv, shape, groups in convolutions
        )
        and all(
            is_batch_norm(norm, x, dtype, count)
            for norm, count in ((ffn.norm1, hidden), (ffn.norm2, hidden), (ffn.norm3, channels))
        )
    )
