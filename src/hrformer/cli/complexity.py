"""Parameters and multiply-adds of models, by one stated definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hrformer.models.attention import WindowAttention, window_padding
from hrformer.models.model import Task
from hrformer.zoo import INPUT_SPECS, create_model

DEFINITION = (
    "one multiply-add each in convolutions, linear layers and the two products of every attention, for one picture; "
    "the padding of windows counts, norms and resizing do not"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Complexity:
    """Size of one model.

    Attributes:
        parameters: number of them.
        macs: multiply-adds, see ``DEFINITION``.
        size: (height, width) of the input they are counted at, pixels.
    """

    parameters: int
    macs: int
    size: tuple[int, int]


def measure(name: str, task: Task, size: tuple[int, int] | None = None) -> Complexity:
    """Build a model without memory for its weights and count.

    Args:
        name: as for ``create_model``.
        task: with the default number of classes or keypoints.
        size: (height, width) of the input; None takes the task's usual one.

    Raises:
        ValueError: the name is unknown, or the model does not take this size.
    """
    height, width = size or INPUT_SPECS[task].size
    with torch.device("meta"):
        model = create_model(name, task).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters=parameters, macs=count_macs(model, (height, width)), size=(height, width))


@torch.no_grad()
def count_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one forward pass for one picture.

    PyTorch's counter sees every product but those of our window attention, which are left out of it and counted by
    formula: the code skips output projections of padded tokens that the published implementations compute.

    Args:
        model: takes (1, 3, H, W) on the device of its parameters; nothing is computed on the meta device.
        size: (height, width), pixels.
    """
    formula = 0

    def count_attention(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal formula
        assert isinstance(module, WindowAttention)
        _, height, width, channels = args[0].shape
        left, right, top, bottom = window_padding(height, width, module.window)
        tokens = (height + top + bottom) * (width + left + right)
        formula += 4 * tokens * channels**2 + 2 * tokens * module.window**2 * channels

    attentions = {n: m for n, m in model.named_modules() if isinstance(m, WindowAttention)}
    hooks = [module.register_forward_hook(count_attention) for module in attentions.values()]
    device = next(model.parameters()).device
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            model(torch.empty((1, 3, *size), device=device))
    finally:
        for hook in hooks:
            hook.remove()
    by_module = counter.get_flop_counts()
    root = type(model).__name__
    seen = sum(sum(by_module.get(f"{root}.{name}", {}).values()) for name in attentions)
    # The counter counts a multiply-add as two operations.
    return (counter.get_total_flops() - seen) // 2 + formula
