"""Multi-scale, windows and odd sizes; the official code's logits and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrformer.data.set_types import SegmentationSet
from hrformer.evaluate.evaluate import evaluate
from hrformer.evaluate.inference import Segmenter
from hrformer.evaluate.protocols import SegmentationProtocol
from hrformer.models.model import VisionModel
from hrformer.predict.segment import SegmentationPredictor
from parity import Golden


class Cut(SegmentationSet):
    """Pictures of a set, the odd ones cut smaller."""

    def __init__(self, source: SegmentationSet, count: int, labelled: bool = True) -> None:
        self.name, self.classes, self.labelled = source.name, source.classes, labelled
        self._source, self._count = source, count

    def __len__(self) -> int:
        return self._count

    def file(self, index: int) -> str:
        return self._source.file(index)

    def _window(self, index: int) -> tuple[slice, slice]:
        return (slice(0, 333), slice(30, 431)) if index % 2 else (slice(None), slice(None))

    def pixels(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._source.pixels(index)[self._window(index)])

    def mask(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(self._source.mask(index)[self._window(index)])


@pytest.mark.parametrize("case", ["ss", "ms3", "ms7"])
def test_matches_the_official_code(case: str, parity_dir: Path, segmenter: VisionModel) -> None:
    golden = Golden.read(parity_dir / "protocol", "segmentation")
    meta = golden.meta["fusion"]
    weight, bias, x = (torch.from_numpy(golden.arrays[f"fusion_{name}"]) for name in ("weight", "bias", "input"))
    width, height = meta["setup"]["border_wh"]

    class StandIn(Segmenter):
        def network_input(self, images: Tensor) -> Tensor:
            return x[:, :, : images.shape[2], : images.shape[3]]

        def run(self, x: Tensor) -> Tensor:
            return F.conv2d(x, weight, bias, 4, 1)

    scales = {"ss": (1.0,), "ms3": (0.75, 1.0, 1.25), "ms7": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)}[case]
    network = StandIn(segmenter, SegmentationProtocol(scales=scales, flip=case != "ss", pad=4))
    size = torch.tensor([meta["setup"]["original_wh"][::-1]])
    # The golden's input is padded already, to a multiple of 4, and with zeros.
    assert not x[:, :, height:].any()
    assert not x[:, :, :, width:].any()
    (labels,) = network.predict({"image": torch.zeros(1, 3, height, width, dtype=torch.uint8), "original": size})
    clear = golden.arrays[f"fusion_{case}_label_margin"] > 1e-5 * meta[case]["logits_absmax"]
    assert clear.mean() > 0.99
    assert np.array_equal(labels.numpy()[clear], golden.arrays[f"fusion_{case}_label"][clear])


@pytest.mark.parametrize(
    "options",
    [
        {"short_side": 90},
        {"short_side": 90, "scales": (0.75, 1.0), "flip": True},
        {"short_side": 91, "pad": 8},
        {"short_side": 120, "pad": 32, "flip": True},
        {"short_side": None},
    ],
)
def test_equals_the_predictor(options: dict[str, Any], segmenter: VisionModel, streets: SegmentationSet) -> None:
    source = Cut(streets, 2)
    predictor = SegmentationPredictor(segmenter, device="cpu")
    result = evaluate(segmenter, source, SegmentationProtocol(batch_size=2, **options), worst=2)
    for example in result.worst:
        mask = predictor(source.pixels(example.index), **options).mask
        assert np.array_equal(example.prediction, mask)


def test_pictures_of_several_sizes(segmenter: VisionModel, streets: SegmentationSet) -> None:
    source = Cut(streets, 3)
    one_by_one = evaluate(segmenter, source, SegmentationProtocol(short_side=90))
    together = evaluate(segmenter, source, SegmentationProtocol(short_side=90, batch_size=3))
    assert together.scores == one_by_one.scores
    stretched = evaluate(segmenter, source, SegmentationProtocol(size=(90, 120), batch_size=3))
    assert stretched.value == pytest.approx(one_by_one.value, abs=0.1)


def test_window(segmenter: VisionModel, streets: SegmentationSet) -> None:
    whole = evaluate(segmenter, streets, SegmentationProtocol(short_side=180), limit=2)
    same = evaluate(segmenter, streets, SegmentationProtocol(short_side=180, window=(400, 400)), limit=2)
    assert same.scores == whole.scores
    protocol = SegmentationProtocol(short_side=180, window=(120, 160), stride=(60, 80), flip=True, batch_size=2)
    windows = evaluate(segmenter, streets, protocol, limit=2)
    assert windows.scores != whole.scores
    assert windows.value == pytest.approx(whole.value, abs=0.1)


def test_one_confusion_matrix_over_the_set(segmenter: VisionModel, streets: SegmentationSet) -> None:
    result = evaluate(segmenter, streets, SegmentationProtocol(short_side=90), limit=3, worst=3)
    matrix = np.zeros((11, 11), np.int64)
    for example in result.worst:
        label = streets.mask(example.index)
        known = label != 255
        np.add.at(matrix, (label[known], example.prediction[known]), 1)
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert result.scores["mean_iou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert result.scores["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-12)
    assert [row["iou"] for row in result.scores["per_class"]] == pytest.approx(iou.tolist(), abs=1e-12)


def test_set_without_labels(segmenter: VisionModel, streets: SegmentationSet) -> None:
    with pytest.raises(ValueError, match="has no labels to compare with"):
        evaluate(segmenter, Cut(streets, 2, labelled=False), SegmentationProtocol())
