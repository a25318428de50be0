"""An update in parts, or of two processes, against the same update at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hrformer.losses import (
    HardPixels,
    heatmap_mse,
    part_shares,
    pixel_cross_entropy,
    pixel_total,
    segmentation_losses,
)
from hrformer.train.config import OptimConfig, SegmentationRun
from hrformer.train.loop import train
from training import longer

WEIGHTS = torch.tensor([0.5, 1.0, 3.0])
VOID = (0.0, 0.99, 0.3, 1.0)


def picture_and_labels(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Four pictures, of which the shares ``VOID`` are not labelled."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (4, 40, 40), generator=generator)
    drawn = torch.rand((4, 40, 40), generator=generator)
    labels[drawn < torch.tensor(VOID)[:, None, None]] = 255
    return torch.randn((4, 3, 40, 40), generator=generator, dtype=dtype), labels


class TwoOutputs(nn.Module):
    """Logits of two sizes, neither that of the labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 3, 3, stride=4, padding=1, dtype=torch.float64)
        self.second = nn.Conv2d(3, 3, 3, stride=2, padding=1, dtype=torch.float64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_gradients_of_parts_are_those_of_the_whole_batch(weights: Tensor | None, parts: int) -> None:
    x, labels = picture_and_labels()
    weights = None if weights is None else weights.double()
    model = TwoOutputs()
    whole = segmentation_losses(*model(x), labels, class_weights=weights)
    whole["loss"].backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    pieces = list(zip(x.chunk(parts), labels.chunk(parts), strict=True))
    outputs = [model(picture) for picture, _ in pieces]
    own = [
        {"auxiliary": pixel_total(mask, aux, weights), "main": pixel_total(mask, main, weights)}
        for (aux, main), (_, mask) in zip(outputs, pieces, strict=True)
    ]
    total = {name: sum(part[name] for part in own) for name in own[0]}
    shares = part_shares(own, total, parts)
    losses = [
        segmentation_losses(*output, mask, class_weights=weights, shares=share)
        for output, (_, mask), share in zip(outputs, pieces, shares, strict=True)
    ]
    sum(part["loss"] / parts for part in losses).backward()
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in losses) / parts, value, rtol=1e-12, atol=0)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)


def test_the_mean_of_the_parts_means_is_another_loss() -> None:
    x, labels = picture_and_labels()
    whole = pixel_cross_entropy(x, labels)
    means = [pixel_cross_entropy(a, b) for a, b in zip(x.chunk(4), labels.chunk(4), strict=True)]
    assert float(sum(means) / 4) < 0.85 * float(whole)


def test_parts_of_hard_pixels_weigh_what_they_choose_from() -> None:
    x, labels = picture_and_labels()
    # The first pixel is ranked even where it is void, see `ohem_cross_entropy`.
    labels[:3, 0, 0] = 0
    # Every pixel is hard enough, so the choice is the same in parts.
    hard = HardPixels(threshold=1.0, min_kept=0)
    whole = segmentation_losses(x, x, labels, hard=hard)
    own = [
        dict.fromkeys(("main", "auxiliary"), pixel_total(b, a))
        for a, b in zip(x.split(1), labels.split(1), strict=True)
    ]
    total = {name: sum(part[name] for part in own) for name in own[0]}
    parts = [
        segmentation_losses(a, a, b, hard=hard, shares=share)["main"]
        for a, b, share in zip(x.split(1), labels.split(1), part_shares(own, total, 4), strict=True)
    ]
    torch.testing.assert_close(sum(parts) / 4, whole["main"])


def test_heatmaps_of_parts_are_equal_already() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, targets = torch.rand((2, 4, 5, 8, 6), generator=generator, dtype=torch.float64)
    # One person with no joint at all, one with all of them.
    weights = torch.tensor([[1.0] * 5, [0.0] * 5, [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.float64)
    parts = [heatmap_mse(*part) for part in zip(predicted.split(1), targets.split(1), weights.split(1), strict=True)]
    torch.testing.assert_close(sum(parts) / 4, heatmap_mse(predicted, targets, weights))


def test_parts_without_any_pixel_count_nothing() -> None:
    assert part_shares([{"main": 0.0}, {"main": 0.0}], {"main": 0.0}, 2) == [{"main": 0.0}, {"main": 0.0}]


@pytest.fixture
def void_run(segmentation_run: SegmentationRun, tmp_path: Path) -> SegmentationRun:
    """Three updates on pictures of which one half of the masks is nearly void."""
    root = tmp_path / "void"
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for number in range(count):
            mask = np.repeat(np.arange(4, dtype=np.uint8) % 3, 16)[:, None].repeat(64, 1)
            mask[generator.random(mask.shape) < (0.97 if number % 2 else 0.0)] = 255
            for folder, pixels in (("images", generator.integers(0, 255, (64, 64, 3))), ("labels", mask)):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / folder / split / f"{number}.png"), pixels.astype(np.uint8))
    (root / "classes.txt").write_text("a\nb\nc\n")
    return longer(
        replace(
            segmentation_run,
            data=replace(segmentation_run.data, root=root),
            optim=OptimConfig(name="sgd", lr=0.1, weight_decay=0.0, clip_norm=0.0),
            validate_updates=3,
        ),
        3,
    )


def _losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "train"]


def test_a_run_in_parts_is_the_run_at_once(
    void_run: SegmentationRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_evaluation(model: nn.Module, _: object) -> None:
        # Batch norms would see the parts, and drop path draws other numbers for each.
        model.eval()

    monkeypatch.setattr("hrformer.train.loop.set_training", in_evaluation)
    train(void_run, tmp_path / "whole")
    train(replace(void_run, batch=replace(void_run.batch, per_device=1)), tmp_path / "parts")
    assert _losses(tmp_path / "parts") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-4)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5)
