"""What an exported graph computes: the steps of the predictors around a network, on tensors only.

Each module takes a picture as uint8 and returns the answer, and with it what went into the network and what came out,
by which an exported file is judged. B pictures or N people, H and W any picture size, C classes, K joints.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.data.preprocess import SAMPLES, centre_plan, normalise_planes
from hrformer.geometry.affine import finer_theta, sample_affine, upright_theta
from hrformer.geometry.boxes import BOX_PADDING, padded_sides
from hrformer.geometry.flips import merge_flipped
from hrformer.geometry.heatmaps import cells_in_picture
from hrformer.geometry.resampling import resample
from hrformer.geometry.tiles import ELONGATED, resize_cubic
from hrformer.models.model import VisionModel
from hrformer.predict.base import PredictOptions
from hrformer.predict.classify import ClassificationOptions
from hrformer.predict.exported import NETWORK_INPUT, NETWORK_OUTPUT
from hrformer.predict.pose import PoseOptions
from hrformer.predict.segment import SegmentationOptions

Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""The answer, the normalised network input, and the raw network output."""

LEAST, MOST = 17, 1 << 14
"""Sides of a network's input, in pixels, that a program of ``torch.export`` takes; other formats do not check."""

_AT_ONCE = 8
"""Classes whose logits are enlarged to the picture at once: 150 of a large photograph would take gigabytes."""


class Pipeline(nn.Module):
    """A network with what the predictor of its task does before and after it.

    Args:
        model: with a head, in evaluation mode.
        dtype: of the network's weights and arithmetic; everything around it stays float32.
    """

    inputs: tuple[str, ...] = ("images",)
    outputs: tuple[str, ...] = ()
    inner = (NETWORK_INPUT, NETWORK_OUTPUT)
    open_axes: tuple[tuple[int, ...], ...] = ((0, 1, 2),)

    def __init__(self, model: VisionModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model.to(dtype).eval()
        self.info = model.info
        self.dtype = dtype

    def run_network(self, x: Tensor, flip: bool) -> Tensor:
        """The network's raw output, float32; with ``flip`` for x and then for its mirror image, (2 B, ...)."""
        both = torch.cat([x, x.flip(-1)]) if flip else x
        return self.model(both.to(self.dtype)).float()

    def normalised(self, planes: Tensor) -> Tensor:
        """(B, 3 or 4, h, w), whole grey levels -> the network's input, float32."""
        return normalise_planes(planes, self.info.input_spec)


class ClassificationPipeline(Pipeline):
    """(B, H, W, 3) uint8 RGB -> probabilities (B, C) float32, by ``ClassificationPredictor``'s protocol."""

    outputs = ("probabilities",)

    def __init__(self, model: VisionModel, options: ClassificationOptions, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        self.flip = options.flip

    def forward(self, images: Tensor) -> Parts:
        spec, size = self.info.input_spec, (images.shape[1], images.shape[2])
        new_size, (top, left) = centre_plan(size, spec)
        planes = images.permute(0, 3, 1, 2).float()
        x = self.normalised(resample(planes, size, new_size, spec.interpolation, (top, left, *spec.size)))
        raw = self.run_network(x, self.flip)
        return self.decode(raw), x, raw

    def decode(self, raw: Tensor) -> Tensor:
        """Logits, with those of mirror images behind them, to probabilities (B, C)."""
        logits = raw
        if self.flip:
            plain, mirrored = halves(raw)
            logits = (plain + mirrored) / 2
        return (logits / self.info.temperature).softmax(dim=1)


class PosePipeline(Pipeline):
    """(H, W, 3) uint8 RGB and boxes (N, 4) float32 (x, y, width, height) -> keypoints (N, K, 3) float32.

    Keypoints are x, y in pixels of the picture and the joint's score, by ``PosePredictor``'s protocol without its
    suppression of people who were found twice.
    """

    inputs = ("image", "boxes")
    outputs = ("keypoints",)
    open_axes = ((0, 1), (0,))

    def __init__(self, model: VisionModel, options: PoseOptions, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        self.flip, self.shift = options.flip, options.shift and self.info.shift_heatmap

    def forward(self, image: Tensor, boxes: Tensor) -> Parts:
        centers, sizes = self.padded(boxes)
        x = self.normalised(self.crops(image, centers, sizes))
        raw = self.run_network(x, self.flip)
        return self.decode(raw, centers, sizes), x, raw

    def padded(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes -> middle (N, 2) and (width, height) (N, 2) of what is cut out; see ``geometry.boxes.box_to_crop``."""
        height, width = self.info.input_spec.size
        x, y, w, h = boxes.unbind(1)
        start, end = torch.stack([x, y], dim=1), torch.stack([x + w, y + h], dim=1)
        across, down = (end - start).unbind(1)
        sides = padded_sides(across, down, width / height, BOX_PADDING, torch.where)
        return (start + end) * 0.5, torch.stack(sides, dim=1)

    def crops(self, image: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
        """(N, 3, h, w) whole grey levels as float32; see ``data.preprocess.crop_people_on_device``."""
        spec = self.info.input_spec
        height, width = spec.size
        picture = (image.shape[1], image.shape[0])
        theta = upright_theta(centers, sizes, picture, (width, height), udp=self.info.decoder == "udp")
        planes = image.permute(2, 0, 1).float()
        if spec.interpolation != "antialiased":
            return (sample_affine(planes, theta, (width, height)) + 0.5).floor()
        fine = sample_affine(planes, finer_theta(theta, SAMPLES), (SAMPLES * width, SAMPLES * height))
        return F.avg_pool2d((fine + 0.5).floor(), SAMPLES).round()

    def merged(self, raw: Tensor) -> Tensor:
        """Heatmaps, with those of mirror images behind them, to one for each joint."""
        if not self.flip:
            return raw
        assert self.info.skeleton is not None
        return merge_flipped(*halves(raw), self.info.skeleton.flip_pairs, self.shift)

    def decode(self, raw: Tensor, centers: Tensor, sizes: Tensor) -> Tensor:
        """Heatmaps, with those of mirror images behind them, to keypoints in the picture."""
        maps = self.merged(raw)
        codec = self.info.codec((int(maps.shape[2]), int(maps.shape[3])))
        cells, scores = codec.decode(maps)
        steps = torch.tensor(codec.steps[::-1], dtype=cells.dtype)
        return torch.cat([cells_in_picture(cells, centers, sizes, steps), scores[..., None]], dim=2)


class SegmentationPipeline(Pipeline):
    """(B, H, W, 3) uint8 RGB -> masks (B, H, W) of class ids, uint8 with up to 256 classes, else int32.

    By ``SegmentationPredictor``'s protocol at one scale and without tiles.
    """

    outputs = ("masks",)

    def __init__(self, model: VisionModel, options: SegmentationOptions, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        self.flip, self.short_side, self.multiple = options.flip, options.short_side, options.pad_multiple

    def forward(self, images: Tensor) -> Parts:
        size = (images.shape[1], images.shape[2])
        resized = self.resized(images.permute(0, 3, 1, 2).float())
        height, width = resized.shape[2:]
        x = self.normalised(resized)
        if self.multiple > 1:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        raw = self.run_network(x, self.flip)
        return self.decode(raw, (height, width), size), x, raw

    def resized(self, planes: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, h, w) with its short side at ``short_side``, whole grey levels."""
        size = (planes.shape[2], planes.shape[3])
        if self.short_side is None:
            return of_any_size(planes)
        new_size = self.network_size(size)
        interpolation = self.info.input_spec.interpolation
        if interpolation == "antialiased":
            return resample(planes, size, new_size, interpolation)
        if interpolation == "nearest":
            return F.interpolate(planes, size=new_size, mode="nearest")
        out = F.interpolate(planes, size=new_size, mode=interpolation, align_corners=False)
        return (out + 0.5).floor().clamp(0, 255)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's input: ``short_side_size`` in whole numbers, capped for long pictures."""
        if self.short_side is None:
            return size
        short, long = torch.sym_min(*size), torch.sym_max(*size)
        target = torch.sym_min(self.short_side, torch.sym_max(short, self.short_side * ELONGATED * short // long))
        sides = []
        for side in size:
            twice = 2 * target * side + short
            tie = 1 - torch.sym_min(twice % (2 * short), 1)
            nearest = twice // (2 * short)
            sides.append(nearest - tie * (nearest % 2))
        return _unknown(sides[0]), _unknown(sides[1])

    def decode(self, raw: Tensor, size: tuple[int, int], picture: tuple[int, int]) -> Tensor:
        """Logits, with those of mirror images behind them, to the best class of every pixel of the picture."""
        logits = raw
        if self.flip:
            plain, mirrored = halves(raw)
            logits = plain + mirrored.flip(-1)
        logits = logits[:, :, : size[0], : size[1]]
        best: Tensor | None = None
        ids = torch.zeros(0)
        for start in range(0, logits.shape[1], _AT_ONCE):
            part = resize_cubic(logits[:, start : start + _AT_ONCE], picture)
            top, number = part.max(dim=1)
            number = (number + start).int()
            # The lowest class keeps a tie, as argmax has it.
            ids = number if best is None else torch.where(top > best, number, ids)
            best = top if best is None else torch.maximum(top, best)
        return ids.to(torch.uint8) if logits.shape[1] <= 256 else ids


def halves(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs for pictures, and those for their mirror images behind them; some runtimes do not know ``chunk``."""
    number = raw.shape[0] // 2
    return raw[:number], raw[number:]


def _unknown(side: Any) -> int:
    """The same length, which the exporter then knows as a number of its own.

    It would otherwise drag the formula of that length through every layer, and search for proofs for hours.
    """
    number: int = torch.scalar_tensor(side, dtype=torch.int64).item()  # type: ignore[assignment]
    torch._check(number >= LEAST)
    torch._check(number <= MOST)
    return number


def of_any_size(x: Tensor) -> Tensor:
    """(B, C, H, W) with lengths of :func:`_unknown`, so that no size of the example can become part of a graph."""
    return x.reshape(x.shape[0], x.shape[1], _unknown(x.shape[2]), _unknown(x.shape[3]))


class AnswerOnly(nn.Module):
    """A pipeline without the tensors that it is judged by, for ``torch.export``, whose programs answer with all."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.info, self.open_axes = pipeline.info, pipeline.open_axes

    def forward(self, *inputs: Tensor) -> Tensor:
        answer: Tensor = self.pipeline(*inputs)[0]
        return answer


class Network(nn.Module):
    """A bare network: normalised (B, C, H, W) float32 -> its raw output, or its maps by name where it has no head.

    H and W are open for segmentation and backbones, else those of the weights' input.
    """

    inputs = (NETWORK_INPUT,)
    inner: tuple[str, ...] = ()

    def __init__(self, model: VisionModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model.to(dtype).eval()
        self.info = model.info
        self.dtype = dtype
        any_size = self.info.task in (None, "segmentation")
        self.open_axes = ((0, 2, 3) if any_size else (0,),)
        self.outputs = (NETWORK_OUTPUT,) if self.info.task else tuple(one.name for one in model.feature_info)

    def forward(self, x: Tensor) -> Any:
        x = x.to(self.dtype)
        found = self.model(of_any_size(x) if len(self.open_axes[0]) > 1 else x)
        return found.float() if isinstance(found, Tensor) else {name: part.float() for name, part in found.items()}


_PIPELINES: dict[str, Any] = {
    "classification": ClassificationPipeline,
    "pose": PosePipeline,
    "segmentation": SegmentationPipeline,
}


def pipeline_for(model: VisionModel, options: PredictOptions, dtype: torch.dtype = torch.float32) -> Pipeline:
    """The pipeline for a model's task."""
    assert model.task is not None
    made: Pipeline = _PIPELINES[model.task](model, options, dtype)
    return made
