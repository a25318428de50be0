"""Taking back an update that an error broke off, so that a checkpoint can be written as if it had not begun."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hrformer.train.control import LossWindow


class Undo:
    """Context of an update. Where an error ends it before the weights change, batch norms and losses are put back.

    Args:
        model: its buffers change in every forward pass.
        optimizer: of torch; its steps are what cannot be taken back.
        window: of the losses.

    Attributes:
        possible: False once an error came while the weights were changing, which are then neither old nor new.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, window: LossWindow) -> None:
        self.possible = True
        self._buffers = list(model.buffers())
        self._kept = [buffer.detach().clone() for buffer in self._buffers]
        self._window, self._stepping = window, False
        optimizer.register_step_pre_hook(self._begin_step)

    def _begin_step(self, *_: Any) -> None:
        self._stepping = True

    def __enter__(self) -> Undo:
        _copy(self._kept, self._buffers)
        self._window.mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._stepping:
            self.possible = False
        elif error is not None:
            _copy(self._buffers, self._kept)
            self._window.back_to_mark()
        self._stepping = False


@torch.no_grad()
def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    if to:
        # One call instead of hundreds.
        torch._foreach_copy_(to, source)
