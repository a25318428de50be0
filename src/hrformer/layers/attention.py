"""Window self-attention with relative position bias (recipes of HRFormer, section 3.1 of the paper)."""

# No postponed annotations here: TorchScript reads the buffer's annotation as an object.
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import has_static_value

from hrformer.layers.unchanged import is_plain_linear, remembered
from hrformer.ops.attention import window_attention_core, window_attention_op
from hrformer.ops.windows import (
    attend_in_windows,
    crop_windows,
    gather_bias,
    pad_to_windows,
    relative_position_index,
    resize_bias_table,
)


def kernels_train(x: Tensor) -> bool:
    """Whether training on this tensor takes the operator that may run kernels; inference stays plain operations."""
    return isinstance(x, Tensor) and x.is_cuda  # torch.fx traces with stand-ins, which no condition may ask


def compiled_for_any_size(x: Tensor) -> bool:
    """Whether a graph is compiled in which height or width of this (B, H, W, C) map stays open.

    Splitting an open size into windows asks whether there is one window or more, and whether any cell is padded:
    the graph would then hold for the answers found, and every other size would compile again. The operator asks
    nothing. Exported graphs hold plain operations alone.
    """
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    return x.device.type in ("cpu", "cuda") and not (has_static_value(x.shape[1]) and has_static_value(x.shape[2]))


@remembered
class WindowAttention(nn.Module):
    """Multi-head self-attention in K x K windows of a channels-last map.

    Queries, keys and values come from one packed product, on the map padded with zeros as the paper does; both
    projections are called as modules, so that adapters, hooks and quantised layers take part. The bias table is a
    parameter whether or not it is used, since published pose weights hold one that their code never adds; unused, it
    needs no gradient, so data-parallel training needs no search for unused parameters.

    Args:
        channels: C.
        num_heads: divides C.
        window: K, in cells.
        position_bias: add the relative position bias to the scores.

    Raises:
        ValueError: ``num_heads`` does not divide ``channels`` or ``window`` is below 1.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, num_heads: int, window: int, position_bias: bool = True) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads must divide channels, got {num_heads} heads for {channels} channels")
        if window < 1:
            raise ValueError(f"window must be at least 1 cell, got {window}")
        self.num_heads = num_heads
        self.window = window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.set_position_bias(position_bias)

    def set_position_bias(self, enabled: bool) -> None:
        """Switch the bias on or off; the table stays, and needs a gradient only when on."""
        self.position_bias = enabled
        self.relative_position_bias_table.requires_grad_(enabled)

    def set_window(self, window: int) -> None:
        """Change the window and resize the table bilinearly, as the segmentation code does for K = 13 and 15."""
        if window == self.window:
            return
        table = self.relative_position_bias_table
        resized = resize_bias_table(table.detach(), window)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.relative_position_index = relative_position_index(window).to(table.device)
        self.window = window

    def gathered_bias(self) -> Tensor | None:
        """(h, N, N) added to the scores of a window's N tokens, or None where the bias is off."""
        bias: Tensor | None = None
        if self.position_bias:
            bias = gather_bias(self.relative_position_bias_table, self.relative_position_index, self.window)
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        bias = self.gathered_bias()
        if not torch.jit.is_scripting():
            if compiled_for_any_size(x):
                return self.proj(window_attention_op(*self._packed(x), bias, self.window, self.num_heads)[0])
            if self.training and kernels_train(x) and is_plain_linear(self.qkv):
                packed = self._packed(x)
                return self.proj(window_attention_core(*packed, bias, window=self.window, num_heads=self.num_heads))
        qkv = self.qkv(pad_to_windows(x, self.window))
        out = attend_in_windows(qkv, bias, window=self.window, num_heads=self.num_heads)
        return self.proj(crop_windows(out, x.shape[1], x.shape[2], self.window))

    @torch.jit.unused
    def _packed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, keys and values (B, H, W, 3C) of real tokens, and those (3C,) of a padded one, which is zero."""
        plain = is_plain_linear(self.qkv)
        pad_token = self.qkv.bias if plain else self.qkv(x.new_zeros(1, x.shape[-1]))[0]
        packed = self.qkv(x)
        return packed, pad_token.to(packed.dtype)

    def extra_repr(self) -> str:
        return f"window={self.window}, num_heads={self.num_heads}, position_bias={self.position_bias}"
