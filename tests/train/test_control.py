from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from hrformer.train.control import Buffers, LossWindow, mean_of

CPU = torch.device("cpu")


# Real signals go to a process of their own: one that came late would end the process that runs the tests.
SIGNALLED = """
import os, signal
from hrformer.train.control import stop_signals
before = signal.getsignal(signal.SIGINT)
with stop_signals() as stop:
    assert stop.requested == ""
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested == "SIGTERM"
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
assert signal.getsignal(signal.SIGINT) is before
"""


def test_first_signal_asks_second_interrupts() -> None:
    finished = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "interrupted\n"), finished.stderr


def test_window_means_parts_and_updates() -> None:
    window = LossWindow(CPU)
    for update, (first, second) in enumerate([(1.0, 3.0), (5.0, 7.0)]):
        window.add({"loss": torch.tensor(first)}, 0.5, update)
        window.add({"loss": torch.tensor(second)}, 0.5, update)
    assert mean_of(window.sums()) == {"loss": 4.0}
    window.reset()
    assert mean_of(window.sums()) == {}


def test_window_goes_on_where_it_was() -> None:
    losses = [torch.rand(()) for _ in range(6)]
    whole, first = LossWindow(CPU), LossWindow(CPU)
    for update, loss in enumerate(losses):
        whole.add({"loss": loss}, 1.0, update)
    for update, loss in enumerate(losses[:4]):
        first.add({"loss": loss}, 1.0, update)
    second = LossWindow(CPU, first.sums())
    for update, loss in enumerate(losses[4:]):
        second.add({"loss": loss}, 1.0, update)
    assert second.sums() == whole.sums()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_window_remembers_the_first_bad_update(bad: float) -> None:
    window = LossWindow(CPU)
    for update, value in enumerate([1.0, bad, 2.0, bad]):
        window.add({"loss": torch.tensor(value)}, 1.0, 10 + update)
    assert window.first_bad() == 11
    assert LossWindow(CPU).first_bad() is None


def test_trial_leaves_no_trace_in_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = Buffers(model)
    model(torch.randn(2, 3, 4, 4))
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    buffers.put_back()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
