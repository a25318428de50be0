"""Training losses as pure functions: network outputs and targets in, a scalar out.

B pictures, C classes, K joints, H and W rows and columns. Everything is computed in float32 at least, also
inside autocast. A NaN in the outputs stays a NaN in the loss, so that a loop can stop on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255  # label of pixels that count nowhere
AUXILIARY_WEIGHT = 0.4  # share of the auxiliary loss in the published segmentation runs


@dataclass(frozen=True, kw_only=True, slots=True)
class HardPixels:
    """Which pixels online hard example mining (OHEM) trains on."""

    threshold: float = 0.9  # pixels whose true class has a lower probability are hard
    min_kept: int = 100_000  # where fewer pixels are hard, the threshold rises to the probability of this rank

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold}")
        if self.min_kept < 0:
            raise ValueError(f"min_kept must not be negative, got {self.min_kept}")


def heatmap_mse(predicted: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Pose loss: per joint the mean over batch and pixels of ``(w p - w t)^2``, averaged over the joints.

    No factor 0.5 (HRNet's own code has one); joints of weight 0 stay in the denominator. Targets are those of
    ``HeatmapCodec.encode``; heatmaps (B, K, h, w), weights (B, K).
    """
    if predicted.shape != targets.shape or predicted.shape[:2] != weights.shape or predicted.ndim != 4:
        raise ValueError(
            "heatmaps, targets and weights must be (B, K, h, w), (B, K, h, w) and (B, K), got "
            f"{tuple(predicted.shape)}, {tuple(targets.shape)} and {tuple(weights.shape)}"
        )
    difference = (_full(predicted) - targets) * weights[:, :, None, None]
    return difference.square().mean()


def classification_cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Mean over pictures of the cross-entropy of logits (B, C) with labels or with soft targets.

    With class weights w (C,) a picture's loss is ``-sum_c w_c t_c log p_c``, t its smoothed or mixed target. The mean
    divides by the number of pictures, not by their weights, so that parts of a batch add up to the whole.

    Args:
        targets: (B,) integer labels, or (B, C) probabilities as mixup and cutmix make them.
        label_smoothing: share of each target spread evenly over all classes, also over soft ones; leave it
            at 0 where the mixup has smoothed already.
    """
    hard = targets.ndim == 1 and not targets.is_floating_point()
    if logits.ndim != 2 or targets.shape != (logits.shape[:1] if hard else logits.shape):
        raise ValueError(
            f"logits must be (B, C) with integer labels (B,) or probabilities (B, C), got {tuple(logits.shape)} "
            f"with {tuple(targets.shape)} {targets.dtype}"
        )
    if class_weights is not None:
        # With labels torch would divide by the sum of the weights; with soft targets it divides by B.
        soft = F.one_hot(targets.long(), logits.shape[1]).to(class_weights.dtype) if hard else targets
        return F.cross_entropy(_full(logits), soft, class_weights, label_smoothing=label_smoothing)
    return F.cross_entropy(_full(logits), targets.long() if hard else targets, label_smoothing=label_smoothing)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0, *, hard: bool = False) -> Tensor:
    """What a student's logits (B, C) lack of its teacher's (B, C), as a mean over the pictures.

    Soft: ``T^2 KL(teacher / T, student / T)`` of the probabilities (Hinton et al., 2015). Hard: cross-entropy with the
    teacher's first class (DeiT, Touvron et al., ICML 2021, section 4). The teacher gets no gradient.
    """
    if logits.ndim != 2 or logits.shape != teacher.shape:
        raise ValueError(f"student and teacher must both be (B, C), got {tuple(logits.shape)}, {tuple(teacher.shape)}")
    student, teacher = _full(logits), _full(teacher).detach()
    if hard:
        return F.cross_entropy(student, teacher.argmax(dim=1))
    wanted, own = (F.log_softmax(values / temperature, dim=1) for values in (teacher, student))
    return F.kl_div(own, wanted, reduction="batchmean", log_target=True) * temperature**2


def pixel_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy over the pixels that count, divided by the sum of their class weights (C,); 0 where none counts.

    Labels (B, H, W), integers in 0..C - 1 or ``IGNORE_INDEX``, are resized to the logits (B, C, h, w), nearest.
    """
    logits, labels = _full(logits), fit_labels(labels, logits)
    losses = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE_INDEX, reduction="none")
    counted = labels != IGNORE_INDEX
    if class_weights is None:
        return losses.sum() / counted.sum().clamp(min=1)
    total = class_weights[labels.where(counted, 0)].mul(counted).sum()
    return losses.sum() / total.where(total > 0, 1)


def ohem_cross_entropy(logits: Tensor, labels: Tensor, hard: HardPixels, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of the hard pixels of the batch, divided by their number (not by their class weights).

    A batch in parts, or shared by processes, picks within each of them, and other pixels than the whole batch would.

    The threshold is the larger of ``hard.threshold`` and the true-class probability at rank ``min_kept`` (from
    0, or the last) of the pixels that count; pixels strictly below it are kept. The first pixel of the batch
    always counts, where it is ignored with class 0 and loss 0, as in openseg.pytorch and HRFormer. The kept
    set may still be empty, with one pixel that is certain; the reference then returns NaN, this 0.

    Arguments are those of :func:`pixel_cross_entropy`; class weights scale the kept losses only. There must be a pixel.
    """
    logits, labels = _full(logits), fit_labels(labels, logits)
    if labels.numel() == 0:
        raise ValueError(f"there must be at least one pixel, got labels of shape {tuple(labels.shape)}")
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none").flatten()
    labels = labels.flatten()
    counted = labels != IGNORE_INDEX
    with torch.no_grad():
        probability = torch.exp(-losses)
        probability[0] = probability[0].where(counted[0], logits[0, :, 0, 0].softmax(0)[0])
        ranked = counted.clone()
        ranked[0] = True
        # Pixels that do not count go behind all others, hence no rank reaches them.
        ascending = probability.where(ranked, torch.inf).sort().values
        rank = (ranked.sum() - 1).clamp(max=hard.min_kept)
        kept = ranked & (probability < ascending[rank].clamp(min=hard.threshold))
    if class_weights is not None:
        losses = losses * class_weights[labels.where(counted, 0)]
    return (losses * kept).sum() / kept.sum().clamp(min=1)


def segmentation_losses(
    auxiliary: Tensor,
    main: Tensor,
    labels: Tensor,
    *,
    hard: HardPixels | None = None,
    class_weights: Tensor | None = None,
    auxiliary_weight: float = AUXILIARY_WEIGHT,
    shares: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Loss of a network with two outputs: main + ``auxiliary_weight`` x auxiliary.

    Args:
        auxiliary: (B, C, h, w) logits; always scored by :func:`pixel_cross_entropy`, as for the arguments not listed.
        main: (B, C, h', w') logits; scored by :func:`ohem_cross_entropy` where ``hard`` is given.
        hard: which pixels the main output is trained on; all if left out.
        shares: factors of "main" and "auxiliary" where this is a part of a batch, from :func:`part_shares`.

    Returns:
        Scalars "loss" (the sum to minimise), "main" and "auxiliary" (without its weight).
    """
    parts = {"auxiliary": pixel_cross_entropy(auxiliary, labels, class_weights)}
    if hard is None:
        parts["main"] = pixel_cross_entropy(main, labels, class_weights)
    else:
        parts["main"] = ohem_cross_entropy(main, labels, hard, class_weights)
    if shares is not None:
        parts = {name: value * shares[name] for name, value in parts.items()}
    return {"loss": parts["main"] + auxiliary_weight * parts["auxiliary"], **parts}


def pixel_total(labels: Tensor, logits: Tensor, class_weights: Tensor | None = None) -> float:
    """What :func:`pixel_cross_entropy` divides by: the pixels that count, or the sum of their class weights.

    ``labels`` (B, H, W) and ``class_weights`` (C,) lie best on the CPU, where nothing has to wait; ``logits``
    (B', C, h, w) are asked for their size only.
    """
    labels = _resized(labels, logits)
    counted = labels != IGNORE_INDEX
    if class_weights is None:
        return float(counted.sum())
    return float(class_weights.double()[labels[counted]].sum())


def part_shares(own: Sequence[Mapping[str, float]], whole: Mapping[str, float], parts: int) -> list[dict[str, float]]:
    """Factors that make means over parts of a batch, averaged over all parts, the mean over the batch.

    ``own`` holds for each part of this process what its losses divide by, by name; ``whole`` the sums over all
    ``parts`` of all processes. Parts with nothing to count get 0.
    """
    return [{name: value * parts / whole[name] if value else 0.0 for name, value in part.items()} for part in own]


def fit_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels (B, H, W) at the size of the logits (B, C, h, w), nearest neighbour, as int64; ValueError if unfit."""
    if logits.ndim != 4 or labels.ndim != 3 or len(labels) != len(logits) or labels.is_floating_point():
        raise ValueError(
            f"logits must be (B, C, h, w) and labels (B, H, W) integers, got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)} {labels.dtype}"
        )
    return _resized(labels, logits)


def _resized(labels: Tensor, logits: Tensor) -> Tensor:
    if labels.shape[1:] != logits.shape[2:]:
        labels = F.interpolate(labels[:, None].float(), logits.shape[2:], mode="nearest")[:, 0]
    return labels.long()


def _full(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
