"""Top-k accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hrformer.metrics.counts import Accuracy


def test_agrees_with_topk() -> None:
    logits, labels = torch.randn(200, 12), torch.randint(0, 12, (200,))
    metric = Accuracy(("class",) * 12, ks=(1, 3))
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        metric.update(logits[part], labels[part])
    scores = metric.compute()
    for k in (1, 3):
        right = (logits.topk(k).indices == labels[:, None]).any(1)
        assert scores[f"top{k}"] == right.sum().item() / 200
        for c, row in enumerate(scores["per_class"]):
            assert row[f"top{k}"] == right[labels == c].sum().item() / row["images"]
    assert scores["images"] == 200
    assert 0 < scores["top1"] < scores["top3"] < 1


def test_merging_equals_one_process_and_uneven_batches_do_not_matter() -> None:
    logits, labels = torch.randn(50, 6), torch.randint(0, 6, (50,))
    whole, first, second = Accuracy(("class",) * 6), Accuracy(("class",) * 6), Accuracy(("class",) * 6)
    whole.update(logits, labels)
    first.update(logits[:7], labels[:7])
    second.update(logits[7:], labels[7:])
    first.merge(second.state())
    assert first.compute() == whole.compute()
    first.reset()
    with pytest.raises(ValueError, match="no picture"):
        first.compute()


def test_broken_models_score_nothing() -> None:
    metric = Accuracy(("class",) * 4, ks=(1,))
    metric.update(torch.zeros(8, 4), torch.tensor([0, 1, 2, 3] * 2))  # ties: the first class wins
    assert metric.compute()["top1"] == 0.25
    metric.reset()
    metric.update(torch.full((4, 4), torch.nan), torch.arange(4))
    assert metric.compute()["top1"] == 0


def test_a_class_that_never_occurs_has_no_score() -> None:
    metric = Accuracy(("cat", "dog"))
    metric.update(torch.eye(2), torch.tensor([0, 0]))
    assert metric.compute()["per_class"] == [
        {"name": "cat", "images": 2, "top1": 0.5, "top5": 1.0},
        {"name": "dog", "images": 0, "top1": None, "top5": None},
    ]


def test_mistakes_are_named() -> None:
    metric = Accuracy(("class",) * 3)
    with pytest.raises(ValueError, match=r"0\.\.2, got 1\.\.3"):
        metric.update(torch.zeros(2, 3), torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        metric.update(torch.zeros(2, 4), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="cannot merge"):
        metric.merge(Accuracy(("class",) * 4).state())
    with pytest.raises(ValueError, match="cannot merge"):
        metric.merge({"right": np.zeros((2, 3))})
