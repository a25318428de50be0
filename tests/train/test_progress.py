from __future__ import annotations

import math

import pytest

from hrformer.train import progress
from hrformer.train.progress import Speed, duration_text, label_of, number_text, score_text, share_text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def work(speed: Speed, clock: Clock, updates: int, seconds: float, samples: int = 10) -> None:
    for _ in range(updates):
        clock.now += seconds
        speed.tick(samples)


def test_rate_of_steady_work_is_exact_and_leaves_out_the_first_update(clock: Clock) -> None:
    speed = Speed(1000)
    work(speed, clock, 1, 60.0)
    assert math.isnan(speed.rate)
    assert math.isnan(speed.seconds_left)
    assert str(speed) == "– images/s, – left"
    work(speed, clock, 9, 0.5)
    assert speed.rate == pytest.approx(20)
    assert speed.window() == pytest.approx(20)
    assert speed.seconds_left == pytest.approx(900 / 20)
    assert str(speed) == "20.0 images/s, 0:00:45 left"


def test_work_beside_the_training_lengthens_the_estimate_but_not_the_rate(clock: Clock) -> None:
    speed = Speed(1000)
    work(speed, clock, 51, 0.5)
    clock.now += 25.0  # as long as the 50 updates took
    speed.skip()
    assert speed.rate == pytest.approx(20)
    assert speed.seconds_left == pytest.approx(2 * 490 / 20)


def test_rate_follows_a_change_within_minutes(clock: Clock) -> None:
    speed = Speed(10_000)
    work(speed, clock, 101, 1.0)
    work(speed, clock, 240, 0.5)
    assert speed.rate == pytest.approx(20, rel=0.02)
    assert 10 < speed.window() < 20
    assert math.isnan(speed.window())


def test_nothing_is_left_at_the_end(clock: Clock) -> None:
    speed = Speed(20)
    work(speed, clock, 4, 1.0)
    assert speed.seconds_left == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (label_of("pck@0.2"), "PCK@0.2"),
        (label_of("mean_iou"), "mean IoU"),
        (label_of("AP-M"), "AP-M"),
        (label_of("trained_parameters"), "trained parameters"),
        (number_text("lr", 0.00025), "2.5e-4"),
        (number_text("lr", 0.0), "0"),
        (number_text("loss", 0.123456), "0.1235"),
        (share_text(0.1234), "12.3 %"),
        (score_text("mean_iou", 0.1234), "mean IoU 12.3 %"),
        (share_text(-1.0), "not defined"),
        (share_text(math.nan), "not defined"),
        (duration_text(3723.4), "1:02:03"),
        (duration_text(math.nan), "–"),
    ],
)
def test_texts(text: str, expected: str) -> None:
    assert text == expected
