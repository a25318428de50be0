"""What can end a run before its time: a signal, a loss that is no number, or an error within an update."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number; the message names update, rate and the last good checkpoint."""


class ValidationStopped(Exception):
    """A signal ended a validation before its last batch; no score came of it."""


class StopSignals:
    """Whether SIGTERM or Ctrl-C asked a run to stop; see :func:`stop_signals`."""

    requested = ""

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Let SIGTERM and the first Ctrl-C only set ``requested``; a second Ctrl-C interrupts at once."""
    stop, before = StopSignals(), dict[int, Any]()
    # Only the main thread may set handlers; elsewhere a run simply cannot be stopped this way.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop._note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LossWindow:
    """Sums of the losses since the last line of the log, kept on the device so that nothing waits for it.

    Args:
        device: of the losses.
        sums: of an interrupted run, as :meth:`sums` returned them.
    """

    def __init__(self, device: torch.device, sums: Mapping[str, float] | None = None) -> None:
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._sums = {name: self._tensor(value) for name, value in (sums or {}).items()}
        self._first_bad = self._tensor(math.inf)

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self._dtype, device=self._device)

    def add(self, losses: Mapping[str, Tensor], share: float, update: int) -> None:
        """Count the named losses of a part of an update, which has this share of its samples."""
        for name, value in losses.items():
            wide = value.detach().to(self._dtype) * share
            self._sums[name] = self._sums[name] + wide if name in self._sums else wide
        self._sums["count"] = self._sums.get("count", self._tensor(0)) + share
        fine = torch.isfinite(losses["loss"].detach())
        self._first_bad = torch.where(fine, self._first_bad, self._first_bad.clamp(max=update))

    def mark(self) -> Callable[[], None]:
        """A function that forgets what is counted from now on."""
        sums, first_bad = self._sums.copy(), self._first_bad

        def back() -> None:
            self._sums, self._first_bad = sums, first_bad

        return back

    def first_bad(self) -> int | None:
        """The first update with a loss that is no number; waits for the device."""
        value = self._first_bad.item()
        return None if math.isinf(value) else int(value)

    def sums(self) -> dict[str, float]:
        """Sums by name, and "count" of the updates; waits for the device."""
        return {name: value.item() for name, value in self._sums.items()}

    def reset(self) -> None:
        """Start the next line."""
        self._sums = {}


def mean_of(sums: Mapping[str, float]) -> dict[str, float]:
    """Means of a window's losses."""
    count = sums.get("count", 0.0)
    return {name: value / count for name, value in sums.items() if name != "count"} if count else {}


class Buffers:
    """A copy of a model's buffers, which every forward pass in training changes."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._kept = [buffer.detach().clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Copy them anew."""
        self._copy(self._kept, self._buffers)

    def put_back(self) -> None:
        """Make them what they were."""
        self._copy(self._buffers, self._kept)

    @torch.no_grad()
    def _copy(self, to: list[Tensor], source: list[Tensor]) -> None:
        if to:
            # One call instead of hundreds.
            torch._foreach_copy_(to, source)


class Undo:
    """Takes back an update that an error ends before the weights change, so that a checkpoint can still be written.

    Attributes:
        possible: False once an error came while the weights were changing, which are then neither old nor new.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, window: LossWindow) -> None:
        self.possible = True
        self._buffers, self._window, self._stepping = Buffers(model), window, False
        optimizer.register_step_pre_hook(self._begin_step)

    def _begin_step(self, *_: Any) -> None:
        self._stepping = True

    @contextmanager
    def one_update(self) -> Iterator[None]:
        """Context of an update."""
        self._buffers.keep()
        forget = self._window.mark()
        try:
            yield
        except BaseException:
            if self._stepping:
                self.possible = False
            else:
                self._buffers.put_back()
                forget()
            raise
        finally:
            self._stepping = False
