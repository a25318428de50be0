"""The coat of convolutional parts: batch norms, additions, ReLU and the sums of fusion units train on compiled kernels.

As in ``hrformer.fast.coat`` every subclass has the state dict and the parts of the plain class, and runs the plain
modules where no kernel applies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.fast.compiled import upsample_sooner
from hrformer.fast.eligibility import is_unchanged, plain_kind, runs_as_written
from hrformer.fast.trainable import in_float32, is_batch_norm, running_statistics, trains_on_cpu
from hrformer.fast.x86.structures import tensors_refusal
from hrformer.fast.x86.training import half_kernels, training_refusal
from hrformer.fast.x86.training_maps import MAX_TERMS, batch_norm_training, fusion_training
from hrformer.models.blocks import BasicBlock, Bottleneck
from hrformer.models.fusion import FusionUnit
from hrformer.models.trunk import HighResolutionTrunk

FEW_CELLS = 4096
"""Cells of a map up to which a 1x1 convolution is made as a product: of 28 x 28 cells in four pictures it takes 0.5 to
0.95 of a convolution's time, of 56 x 56 as long or longer."""


class FastSequence(nn.Sequential):
    """``nn.Sequential`` that holds batch norms: each is one kernel together with the ReLU behind it."""

    coat_of = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """As the plain one's."""
        if not takes_kernels(self, x):
            return cast(Tensor, super().forward(x))
        layers = list(self)
        i = 0
        while i < len(layers):
            layer, behind = layers[i], layers[i + 1] if i + 1 < len(layers) else None
            if type(layer) is nn.BatchNorm2d:
                relu = behind if type(behind) is nn.ReLU else None
                x = normalised(x, layer, relu)
                i += 1 if relu is None else 2
            else:
                x = convolved(x, layer)
                i += 1
        return x

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the plain part with the same parts."""
        return plain_copy(self)


class FastBottleneck(Bottleneck):
    """``Bottleneck`` whose batch norms, addition and ReLU are one kernel each."""

    coat_of = Bottleneck

    def forward(self, x: Tensor) -> Tensor:
        """As the plain one's."""
        if not takes_kernels(self, x):
            return super().forward(x)
        out = normalised(convolved(x, self.conv1), self.bn1, self.relu)
        out = normalised(self.conv2(out), self.bn2, self.relu)
        return normalised(convolved(out, self.conv3), self.bn3, self.relu, lambda: self.downsample(x))

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the plain part with the same parts."""
        return plain_copy(self)


class FastBasicBlock(BasicBlock):
    """The same of ``BasicBlock``."""

    coat_of = BasicBlock

    def forward(self, x: Tensor) -> Tensor:
        """As the plain one's."""
        if not takes_kernels(self, x):
            return super().forward(x)
        out = normalised(self.conv1(x), self.bn1, self.relu)
        return normalised(self.conv2(out), self.bn2, self.relu, lambda: x)

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the plain part with the same parts."""
        return plain_copy(self)


class FastFusionUnit(FusionUnit):
    """``FusionUnit`` that sums, resizes and rectifies in one kernel; a resizing to the same size is left out."""

    coat_of = FusionUnit

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """As the plain one's."""
        if self.upsample != "nearest" or not takes_kernels(self, *xs):
            return super().forward(xs)
        outputs = []
        for i, row in enumerate(self.paths):
            terms = [in_float32(path(xs[j])) for j, path in enumerate(row.children())]
            outputs.append(self._summed(terms, i, xs[i]) if terms else xs[i])
        return outputs

    def _summed(self, terms: Sequence[Tensor], i: int, x: Tensor) -> Tensor:
        """Output ``i``, of the size of ``x``."""
        factors = [1 << max(j - i, 0) for j in range(len(terms))]
        if len(terms) <= MAX_TERMS and trains_on_cpu(self, x) and _are_summed(terms, factors, x):
            return fusion_training(terms, factors)
        size = (x.shape[-2], x.shape[-1])
        total = terms[0]
        for j, term in enumerate(terms):
            resized = self.upsampled(term, factors[j], size) if j > i else term
            total = resized if j == 0 else total + resized
        return F.relu(total)

    def upsampled(self, x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
        """As the plain unit's."""
        return upsample_sooner(x, factor, size, self.upsample)

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the plain part with the same parts."""
        return plain_copy(self)


class FastTrunk(HighResolutionTrunk):
    """``HighResolutionTrunk`` whose stem has one kernel for each batch norm with its ReLU."""

    coat_of = HighResolutionTrunk

    def forward_half(self, x: Tensor) -> Tensor:
        """As the plain one's."""
        if not takes_kernels(self, x):
            return super().forward_half(x)
        return normalised(self.conv1(x.contiguous(memory_format=torch.channels_last)), self.bn1, self.relu)

    def forward_stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As the plain one's."""
        if not takes_kernels(self, x):
            return super().forward_stem(x)
        half = self.forward_half(x)
        return half, normalised(self.conv2(half), self.bn2, self.relu)

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: the plain part with the same parts."""
        return plain_copy(self)


def takes_kernels(part: nn.Module, *xs: Any) -> bool:
    """Whether a coat may look at maps: not while a graph is made of them, nor at stand-ins for tensors, nor where
    methods were replaced."""
    return all(type(x) is Tensor for x in xs) and not torch.compiler.is_compiling() and runs_as_written(part)


def plain_copy(part: nn.Module) -> nn.Module:
    """A plain module with the very parts, parameters and settings of ``part``."""
    plain = copy.copy(part)
    plain.__class__ = plain_kind(type(part))
    return plain


MAP_COAT: dict[type[nn.Module], type[nn.Module]] = {
    kind.coat_of: kind for kind in (FastBottleneck, FastBasicBlock, FastFusionUnit, FastTrunk)
}
"""Plain class -> its faster subclass."""


def is_sequence(part: nn.Module) -> bool:
    """Whether it is a plain Sequential with a batch norm in it."""
    return type(part) is nn.Sequential and any(type(layer) is nn.BatchNorm2d for layer in part)


def convolved(x: Tensor, layer: nn.Module) -> Tensor:
    """What a layer makes of a map: a 1x1 convolution of few cells is a product, whose weights nobody has to reorder.

    A depthwise one stays in float32: its gradient takes torch six times as long in bfloat16.
    """
    if not _is_product(x, layer):
        if half_kernels() is None or getattr(layer, "groups", 1) == 1:
            return cast(Tensor, layer(x))
        x = in_float32(x)
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, layer(x))
    assert isinstance(layer, nn.Conv2d)
    return F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2)


def _is_product(x: Tensor, layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding == (0, 0)
        and layer.groups == 1
        and x.ndim == 4
        and x.shape[1] == layer.in_channels
        and x.numel() <= FEW_CELLS * x.shape[1]
        and trains_on_cpu(layer, x)
        and x.is_contiguous(memory_format=torch.channels_last)
        and is_unchanged(layer, nn.Conv2d)
    )


def normalised(
    x: Tensor, norm: nn.Module, relu: nn.Module | None = None, make_added: Callable[[], Tensor] | None = None
) -> Tensor:
    """A map after a batch norm, plus another map, rectified: by one kernel where it applies.

    Args:
        x: (B, C, H, W).
        norm: the batch norm, or what took its place.
        relu: the ReLU behind it, or None.
        make_added: gives the other map, after the norm has run where that runs by itself; the order that the plain
            modules have.
    """
    if _is_normalised(x, norm) and (relu is None or is_unchanged(relu, nn.ReLU)):
        added = None if make_added is None else make_added()
        if added is not None and added.dtype is not x.dtype:  # as autocast adds them
            x, added = in_float32(x), in_float32(added)
        assert isinstance(norm, nn.BatchNorm2d)
        if added is None or (added.shape == x.shape and not tensors_refusal(added, dtype=x.dtype)):
            return batch_norm_training(
                x, norm.weight, norm.bias, running_statistics(norm), added=added, relu=relu is not None
            )
        y = norm(x) + added
    else:
        y = norm(x)
        y = y if make_added is None else y + make_added()
    return y if relu is None else cast(Tensor, relu(y))


def _is_normalised(x: Tensor, norm: nn.Module) -> bool:
    if type(norm) is not nn.BatchNorm2d or not trains_on_cpu(norm, x) or x.numel() <= x.shape[1]:
        return False
    return (
        x.is_contiguous(memory_format=torch.channels_last)
        and (x.dtype is torch.float32 or (x.dtype is torch.bfloat16 and half_kernels() is not None))
        and is_batch_norm(norm, x, torch.float32, x.shape[1])
        and cast(Tensor, norm.running_mean).is_contiguous()
        and cast(Tensor, norm.running_var).is_contiguous()
        and not tensors_refusal(x, dtype=x.dtype)
        and not training_refusal(norm.weight, (norm.bias, norm.running_mean, norm.running_var))
    )


def _are_summed(terms: Sequence[Tensor], factors: Sequence[int], x: Tensor) -> bool:
    """Whether the terms have the sizes that their factors say, exactly."""
    batch, channels, height, width = x.shape
    return not training_refusal(terms[0], terms[1:]) and all(
        term.shape == (batch, channels, height // factor, width // factor) and not (height % factor or width % factor)
        for term, factor in zip(terms, factors, strict=True)
    )
