"""Pictures and person boxes to keypoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrformer.data.images import LoadedImage, Pictures, is_single, load_images
from hrformer.data.preprocess import crop_people, crop_people_on_device
from hrformer.geometry.flips import merge_flipped
from hrformer.geometry.heatmaps import cells_to_image
from hrformer.geometry.oks import oks_nms, rescore
from hrformer.geometry.skeleton_inference import DEFAULT_SIGMA
from hrformer.models.model import VisionModel
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.batching import run_in_batches
from hrformer.predict.boxes import DetectionTable, Detector, PersonBoxes, found_boxes, pair_with_images
from hrformer.predict.detector import PersonDetector
from hrformer.predict.results import Keypoints

Suppression: TypeAlias = Literal["auto", "hard", "soft", "off"]
Detections: TypeAlias = "str | os.PathLike[str] | Iterable[Mapping[str, Any]] | DetectionTable"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseOptions(PredictOptions):
    """The COCO test protocol of HRNet, HRFormer and mmpose.

    Attributes:
        shift: with ``flip``, move the mirrored maps one cell to the right before averaging, unless the weights'
            configuration says otherwise (UDP).
        joint_threshold: joints must score above it to count in the person's score.
        box_threshold: detections scored below it are not looked at.
        nms: which of several similar people to keep: "hard" keeps the best, "soft" damps the others and keeps 20,
            "off" keeps all. "auto" is hard for detections and off for boxes given by the caller. Joints that the
            weights do not name all count as ``DEFAULT_SIGMA``.
        nms_threshold: people with a higher object keypoint similarity count as one.
        fast_crop: crop on the device by ``grid_sample`` rather than by OpenCV. With OpenCV 5, 0.02 % of the values
            differ, by one grey level; OpenCV 4 rounds positions to 1/32 pixel and differs by up to 6 levels.
    """

    flip: bool = True
    shift: bool = True
    joint_threshold: float = 0.2
    box_threshold: float = 0.0
    nms: Suppression = "auto"
    nms_threshold: float = 0.9
    fast_crop: bool = False

    def __post_init__(self) -> None:
        PredictOptions.__post_init__(self)
        if self.nms not in ("auto", "hard", "soft", "off"):
            raise ValueError(f"nms must be 'auto', 'hard', 'soft' or 'off', got {self.nms!r}")
        if not 0 < self.nms_threshold <= 1:
            raise ValueError(f"nms_threshold must lie in (0, 1], got {self.nms_threshold}")


_Answer: TypeAlias = tuple[NDArray[np.float32], tuple[int, int]]
"""One person's (K, 3) x, y in cells and score, and the maps' ``HeatmapCodec.steps``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _People:
    """The people of one picture on their way through the network; N rows each."""

    image: LoadedImage
    found: PersonBoxes
    centers: NDArray[np.float32]
    sizes: NDArray[np.float32]


class PosePredictor(Predictor[Keypoints, PoseOptions]):
    """Finds the joints of people. Arguments as for ``Predictor``."""

    task = "pose"

    def __init__(self, model: VisionModel, options: PoseOptions = PoseOptions(), **placement: Any) -> None:
        super().__init__(model, options, **placement)

    def stream(
        self,
        images: Pictures,
        *,
        boxes: Any = None,
        box_scores: Any = None,
        detections: Detections | None = None,
        detector: Detector | str | None = None,
        **options: Any,
    ) -> Iterator[Keypoints]:
        """Predict people of all pictures in shared batches. Without boxes of any kind the whole picture is one person.

        Args:
            images: see ``load_images``.
            boxes: (N, 4) as (x, y, width, height) in picture pixels; for several pictures one such array each, None
                for the whole picture. Used as they are: clip labelled boxes by ``geometry.boxes`` if wanted.
            box_scores: (N,), or one such array per picture; 1 where left out.
            detections: file in COCO's results format, its records, or a ``DetectionTable``; pictures are matched by
                file name or COCO image number, and those it does not mention have no people.
            detector: callable from a picture to boxes and scores, or the name of a torchvision detector.
            **options: fields of ``PoseOptions``.

        Raises:
            ValueError: more than one source of boxes, boxes that do not fit, or an option that is unknown, out of
                range, or needs a skeleton that the weights do not name.
        """
        opts = self._merged(options)
        self._check(opts, [boxes is not None, detections is not None, detector is not None])
        if is_single(images):
            boxes, box_scores = ([value] if value is not None else None for value in (boxes, box_scores))
        if box_scores is not None and boxes is None:
            raise ValueError("box_scores need boxes")
        found = self._find(load_images(images), boxes, box_scores, detections, detector, opts)
        jobs = (self._crop(image, people, opts) for image, people in found)
        for people, answers in run_in_batches(jobs, lambda x: self._run(x, opts), opts.batch_size):
            yield self._result(people, answers, opts)

    def _check(self, options: PoseOptions, sources: Sequence[bool]) -> None:
        if sum(sources) > 1:
            raise ValueError("give only one of boxes, detections and detector")
        if self.info.skeleton is None and options.flip:
            raise ValueError(
                f"these weights do not name their {self.info.num_classes} keypoints, so left and right are unknown: "
                "pass flip=False, or load them with a skeleton"
            )

    def _find(
        self,
        images: Iterable[LoadedImage],
        boxes: Any,
        box_scores: Any,
        detections: Detections | None,
        detector: Detector | str | None,
        options: PoseOptions,
    ) -> Iterator[tuple[LoadedImage, PersonBoxes]]:
        if detections is not None:
            table = _table(detections)
            yield from ((image, table.find(_name_of(image), options.box_threshold)) for image in images)
        elif detector is not None:
            finder = PersonDetector(detector, device=self.device) if isinstance(detector, str) else detector
            for image in images:
                yield image, found_boxes(finder(image.pixels), options.box_threshold)
        else:
            yield from pair_with_images(images, boxes, box_scores)

    def _crop(self, image: LoadedImage, found: PersonBoxes, options: PoseOptions) -> tuple[_People, Sequence[Tensor]]:
        spec, udp, pixels = self.info.input_spec, self.info.decoder == "udp", self._pixels(image)
        if options.fast_crop:
            crops, centers, sizes = crop_people_on_device(pixels, found.boxes, spec, self.device, udp=udp)
        else:
            arrays, centers, sizes = crop_people(pixels, found.boxes, spec, udp=udp)
            crops = torch.from_numpy(arrays)
        return _People(image=image, found=found, centers=centers, sizes=sizes), list(crops)

    @torch.inference_mode()
    def heatmaps(self, crops: Tensor, *, flip: bool = True, shift: bool = True) -> Tensor:
        """Heatmaps of people already cut out.

        Args:
            crops: (B, H, W, 3) uint8 RGB of the input size.
            flip: average with the mirror image's.
            shift: as in ``PoseOptions``.

        Returns:
            (B, K, h, w) float32 on the model's device.
        """
        x = self._network_input(crops)
        plain: Tensor = self.model(x).float()
        if not flip:
            return plain
        assert self.info.skeleton is not None
        return merge_flipped(
            plain, self.model(x.flip(-1)).float(), self.info.skeleton.flip_pairs, shift and self.info.shift_heatmap
        )

    def _run(self, crops: Tensor, options: PoseOptions) -> Sequence[_Answer]:
        maps = self.heatmaps(crops, flip=options.flip, shift=options.shift)
        codec = self.info.codec((int(maps.shape[2]), int(maps.shape[3])))
        cells, scores = codec.decode(maps)
        return [(row, codec.steps) for row in torch.cat([cells, scores[..., None]], dim=2).cpu().numpy()]

    def _result(self, people: _People, answers: Sequence[_Answer], options: PoseOptions) -> Keypoints:
        info, found = self.info, people.found
        keypoints = np.empty((len(answers), info.num_classes, 3), dtype=np.float32)
        if answers:
            rows, grid = np.stack([row for row, _ in answers]), answers[0][1]
            keypoints[..., :2] = cells_to_image(rows[..., :2], people.centers, people.sizes, grid)
            keypoints[..., 2] = rows[..., 2]
        scores = np.asarray(rescore(found.scores, keypoints[..., 2], options.joint_threshold), dtype=np.float64)
        kept = self._kept(keypoints, scores, people, options)
        return Keypoints(
            image=people.image.pixels,
            path=people.image.path,
            keypoints=keypoints[kept],
            scores=scores[kept],
            boxes=found.boxes[kept].astype(np.float64),
            box_scores=found.scores[kept].astype(np.float64),
            names=info.skeleton.keypoints if info.skeleton else tuple(str(i) for i in range(info.num_classes)),
            skeleton=info.skeleton,
        )

    def _kept(
        self, keypoints: NDArray[np.float32], scores: NDArray[np.float64], people: _People, options: PoseOptions
    ) -> NDArray[np.intp]:
        """Rows that survive suppression, in the order kept; all of them where there is none."""
        skeleton = self.info.skeleton
        sigmas = skeleton.sigmas if skeleton else (DEFAULT_SIGMA,) * self.info.num_classes
        off = options.nms == "off" or (options.nms == "auto" and not people.found.compete)
        if off:
            return np.arange(len(scores))
        areas = people.sizes.prod(axis=1)
        soft = options.nms == "soft"
        return oks_nms(keypoints, scores, areas, sigmas, threshold=options.nms_threshold, soft=soft)


def _table(detections: Detections) -> DetectionTable:
    if isinstance(detections, DetectionTable):
        return detections
    if isinstance(detections, str | os.PathLike):
        return DetectionTable.read(detections)
    return DetectionTable(detections)


def _name_of(image: LoadedImage) -> str:
    if image.path is None:
        raise ValueError("detections are matched by file name: give pictures as paths or URLs, or use boxes")
    return image.path
