"""The learning-rate finder on a real run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrformer.train.config import ClassificationRun, OptimConfig
from hrformer.train.rate_finder import HIGHEST, LOWEST, RateSearch, draw_search, find_rate


def test_search_ends_where_the_loss_runs_away(classification_run: ClassificationRun) -> None:
    seen: list[tuple[int, int]] = []
    config = replace(classification_run, optim=OptimConfig(lr=1e-3, lr_batch=4))
    found = find_rate(config, updates=40, progress=lambda name, done, total: seen.append((done, total)))
    assert found is not None
    assert seen[0] == (1, 40)
    assert len(seen) == len(found.rates) == len(found.losses) == len(found.smoothed)
    assert found.rates[0] == LOWEST
    assert found.rates[-1] <= HIGHEST
    assert np.all(np.diff(np.log(found.rates)) > 0)
    assert found.steepest <= found.lowest
    assert found.chosen == 1e-3
    # The run's batch of 8 doubles a rate that is meant for 4.
    assert found.suggested == pytest.approx(found.lowest / 20, rel=0.4)
    # It learns nothing from the past: the same search gives the same losses.
    again = find_rate(config, updates=40)
    assert again is not None
    np.testing.assert_array_equal(again.losses, found.losses)


def test_suggestion_is_a_tenth_of_the_lowest(tmp_path: Path) -> None:
    rates = np.geomspace(1e-6, 1e-1, 30)
    losses = np.where(rates < 1e-4, 4.0, np.where(rates < 1e-2, 1.0, 40.0))
    search = RateSearch(rates=rates, losses=losses, smoothed=losses, lowest=2e-3, steepest=1e-4, batch=8, chosen=1e-3)
    assert search.suggested == pytest.approx(2e-4)
    pytest.importorskip("matplotlib", reason="needs matplotlib, from the extra 'train'")
    draw_search(search, tmp_path / "rate.png")
    assert Image.open(tmp_path / "rate.png").size[0] > 500


def test_a_loss_that_never_falls_gives_no_rate(
    classification_run: ClassificationRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrformer.train.rate_finder._smoothed", lambda losses: float(len(losses)))
    with pytest.raises(ValueError, match="fell at none of 11 rates"):
        find_rate(classification_run, updates=20)


def test_too_few_updates_are_refused(classification_run: ClassificationRun) -> None:
    with pytest.raises(ValueError, match="at least 20 updates, got 3"):
        find_rate(classification_run, updates=3)
