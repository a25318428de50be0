"""What can end a run before its time: a signal, or a loss that is no number."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number; the message names update, rate and the last good checkpoint."""


class ValidationStopped(Exception):
    """A signal ended a validation before its last batch; no score came of it."""


class StopSignals:
    """While active, SIGTERM and the first Ctrl-C only set ``requested``; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.requested = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may set handlers; elsewhere a run simply cannot be stopped this way.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


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
        self.mark()

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self._dtype, device=self._device)

    def add(self, losses: Mapping[str, Tensor], share: float, update: int) -> None:
        """Count a part of an update.

        Args:
            losses: named scalars.
            share: of the update's samples in this part.
            update: its number.
        """
        for name, value in losses.items():
            wide = value.detach().to(self._dtype) * share
            self._sums[name] = self._sums[name] + wide if name in self._sums else wide
        self._sums["count"] = self._sums.get("count", self._tensor(0)) + share
        fine = torch.isfinite(losses["loss"].detach())
        self._first_bad = torch.where(fine, self._first_bad, self._first_bad.clamp(max=update))

    def mark(self) -> None:
        """Remember where the sums stand."""
        self._marked = self._sums.copy(), self._first_bad

    def back_to_mark(self) -> None:
        """Forget what was counted since :meth:`mark`."""
        self._sums, self._first_bad = self._marked

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


def average(windows: list[dict[str, float]]) -> dict[str, float]:
    """One window in place of those of several processes, with the same mean."""
    return {name: sum(window[name] for window in windows) / len(windows) for name in windows[0]}
