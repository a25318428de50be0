"""Losses against the goldens and their edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hrformer.losses import (
    HardPixels,
    classification_cross_entropy,
    fit_labels,
    heatmap_mse,
    ohem_cross_entropy,
    pixel_cross_entropy,
    segmentation_losses,
)

CASES = ["usual", "rank_sets_threshold", "class_weights", "first_pixel_ignored", "minkept_beyond_pixels"]


@pytest.fixture(scope="module")
def segmentation(parity_dir: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(parity_dir / "protocol" / "segmentation.npz") as arrays:
        return json.loads((parity_dir / "protocol" / "segmentation.json").read_text()), dict(arrays)


def ignored_as_255(labels: np.ndarray) -> torch.Tensor:
    """The goldens write -1 for pixels that do not count."""
    return torch.from_numpy(np.where(labels == -1, 255, labels))


@pytest.mark.parametrize("size", ["64x48", "96x72"])
def test_pose_loss_matches_the_references(parity_dir: Path, size: str) -> None:
    golden = json.loads((parity_dir / "protocol" / "targets.json").read_text())[size]["loss"]
    with np.load(parity_dir / "protocol" / "targets.npz") as arrays:
        predicted, target, weight = (
            torch.from_numpy(arrays[f"{name}_{size}"]) for name in ("pred", "target", "weight")
        )
    loss = heatmap_mse(predicted[None], target[:1], weight[:1])  # float16 in, float32 out
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(golden["official"], rel=1e-6, abs=1e-6)
    assert loss.item() == pytest.approx(golden["mmpose"], rel=1e-6, abs=1e-6)


def test_pose_loss_rejects_shapes_that_would_broadcast() -> None:
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        heatmap_mse(maps, maps, torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 1\)"):
        heatmap_mse(maps, maps[..., :1], torch.ones(2, 3))


@pytest.mark.parametrize("case", CASES)
def test_segmentation_losses_match_the_reference(segmentation, case: str) -> None:
    meta, arrays = segmentation[0]["ohem"][case], segmentation[1]
    main = torch.from_numpy(arrays[f"ohem_{case}_logits"]).float().requires_grad_()
    aux = torch.from_numpy(arrays[f"ohem_{case}_aux"])
    labels = ignored_as_255(arrays[f"ohem_{case}_label"])
    weights = None if meta["class_weights"] is None else torch.tensor(meta["class_weights"])
    hard = HardPixels(threshold=meta["threshold"], min_kept=meta["min_kept"])
    parts = segmentation_losses(aux, main, labels, hard=hard, class_weights=weights)
    plain = segmentation_losses(aux, main, labels, class_weights=weights)
    assert parts["main"].item() == pytest.approx(meta["ohem_loss"], rel=1e-5)
    assert parts["auxiliary"].item() == pytest.approx(meta["aux_ce"], rel=1e-5)
    assert parts["loss"].item() == pytest.approx(meta["total_ohem"], rel=1e-5)
    assert plain["loss"].item() == pytest.approx(meta["total_plain_ce"], rel=1e-5)
    double = ohem_cross_entropy(main.double(), labels, hard, None if weights is None else weights.double())
    assert double.item() == pytest.approx(meta["ohem_loss_f64"], rel=1e-6)
    (gradient,) = torch.autograd.grad(parts["main"], main)
    assert gradient.abs().sum().item() == pytest.approx(meta["grad_abs_sum"], rel=1e-5)
    assert int((gradient.abs().sum(1) > 0).sum()) == meta["pixels_with_gradient"]


def test_labels_are_resized_to_smaller_logits(segmentation) -> None:
    meta, arrays = segmentation
    logits, labels = torch.from_numpy(arrays["small_aux_logits"]), ignored_as_255(arrays["ohem_usual_label"])
    want = meta["ohem"]["ce_on_half_size_logits_with_labels_of_usual"]
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(want, rel=1e-5)
    assert torch.equal(fit_labels(labels, logits), labels[:, ::2, ::2].long())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_ignored_pixels_change_nothing(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 6, 7)).to(dtype)
    labels[:, 3:] = 255
    weights = torch.rand(5) + 0.5
    for function in (
        lambda x: pixel_cross_entropy(x, labels, weights),
        lambda x: ohem_cross_entropy(x, labels, HardPixels(min_kept=4), weights),
    ):
        changed = logits.clone()
        changed[:, :, 3:] += 7 * torch.randn(2, 5, 3, 7)
        assert function(logits) == function(changed)
    want = F.cross_entropy(logits, labels.long(), weights, ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, weights), want)


@pytest.mark.parametrize("hard", [None, HardPixels()])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.0, 1.0, 2.0])])
def test_a_batch_without_any_label_costs_nothing(hard: HardPixels | None, weights: torch.Tensor | None) -> None:
    logits, labels = torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 4, 4), 255)
    loss = segmentation_losses(logits, logits, labels, hard=hard, class_weights=weights)["loss"]
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_one_certain_pixel_leaves_an_empty_set_and_no_nan() -> None:
    labels = torch.full((1, 2, 2), 255)
    labels[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 1] = 20.0
    assert ohem_cross_entropy(logits, labels, HardPixels(threshold=0.9, min_kept=10)).item() == 0
    labels[0, 0, 0] = 0  # the same pixel, now wrong: it must count
    assert ohem_cross_entropy(logits, labels, HardPixels(threshold=0.9, min_kept=10)).item() == pytest.approx(20)


def test_a_nan_is_not_hidden() -> None:
    logits, labels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    logits[0, 1, 2, 2] = torch.nan
    assert segmentation_losses(logits, logits, labels, hard=HardPixels())["main"].isnan()
    assert pixel_cross_entropy(logits, labels).isnan()
    assert heatmap_mse(logits, logits, torch.ones(1, 3)).isnan()


def test_half_precision_outputs_are_scored_in_single() -> None:
    logits = torch.randn(2, 4, 8, 8)
    labels = torch.randint(0, 4, (2, 8, 8))
    half = logits.bfloat16()
    assert ohem_cross_entropy(half, labels, HardPixels()) == ohem_cross_entropy(half.float(), labels, HardPixels())
    assert classification_cross_entropy(half[:, :, 0, 0], labels[:, 0, 0]).dtype == torch.float32


def test_classification_with_labels_smoothed_and_soft_targets() -> None:
    logits, labels = torch.randn(6, 5), torch.randint(0, 5, (6,))
    smooth = F.one_hot(labels, 5) * 0.9 + 0.1 / 5
    by_hand = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classification_cross_entropy(logits, labels, 0.1), by_hand)
    torch.testing.assert_close(classification_cross_entropy(logits, smooth), by_hand)
    torch.testing.assert_close(classification_cross_entropy(logits, labels.int()), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("targets", [torch.zeros(5, dtype=torch.int64), torch.zeros(6), torch.zeros(6, 4)])
def test_classification_rejects_targets_that_do_not_fit(targets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="logits must be"):
        classification_cross_entropy(torch.randn(6, 5), targets)


def test_segmentation_rejects_targets_that_do_not_fit() -> None:
    logits = torch.randn(2, 3, 4, 4)
    for labels in (torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(2, 4, 4), torch.zeros(4, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match="logits must be"):
            pixel_cross_entropy(logits, labels)
    with pytest.raises(ValueError, match="at least one pixel"):
        ohem_cross_entropy(logits[:, :, :0], torch.zeros(2, 0, 4, dtype=torch.int64), HardPixels())


@pytest.mark.parametrize("values", [{"threshold": 0.0}, {"threshold": 1.5}, {"min_kept": -1}])
def test_hard_pixels_are_checked(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        HardPixels(**values)
