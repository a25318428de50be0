"""Pictures and person boxes to keypoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from hrformer.geometry.skeletons import of_people
from hrformer.models.model import ModelInfo
from hrformer.predict.base import PredictOptions, Predictor
from hrformer.predict.boxes import (
    WHOLE,
    Detections,
    DetectionTable,
    Detector,
    PersonBoxes,
    found_boxes,
    given_boxes,
    pair_with_images,
)
from hrformer.predict.detectors import MASKS, detector_for
from hrformer.predict.results import Keypoints
from hrformer.predict.video import (
    EVERY,
    Follower,
    FramePeople,
    VideoFrame,
    VideoSource,
    joints_live,
    joints_of,
    opened,
)
from hrformer.video.boxes import BoxLinks
from hrformer.video.reading import Frame
from hrformer.video.tracking import TrackOptions

Suppression: TypeAlias = Literal["auto", "hard", "soft", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseOptions(PredictOptions):
    """The COCO test protocol of HRNet, HRFormer and mmpose."""

    flip: bool = True
    # with ``flip``, move the mirrored maps one cell to the right before averaging, unless the weights' configuration
    # says otherwise (UDP)
    shift: bool = True
    joint_threshold: float = 0.2  # joints must score above it to count in the person's score
    box_threshold: float = 0.0  # detections scored below it are not looked at
    # which of several similar people to keep: "hard" keeps the best, "soft" damps the others and keeps 20, "off" keeps
    # all. "auto" is hard for detections and off for boxes given by the caller. Joints that the weights do not name all
    # count as ``DEFAULT_SIGMA``
    nms: Suppression = "auto"
    nms_threshold: float = 0.9  # people with a higher object keypoint similarity count as one
    # crop on the device by ``grid_sample`` rather than by OpenCV. With OpenCV 5, 0.02 % of the values differ, by one
    # grey level; OpenCV 4 rounds positions to 1/32 pixel and differs by up to 6 levels
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
class People:
    """The people of one picture on their way through the network; N rows each."""

    image: LoadedImage
    found: PersonBoxes
    centers: NDArray[np.float32]
    sizes: NDArray[np.float32]


class PosePredictor(Predictor[Keypoints, PoseOptions]):
    """Finds the joints of people. Arguments as for ``Predictor``."""

    task = "pose"

    @staticmethod
    def default_options(info: ModelInfo) -> PoseOptions:
        """The same for all weights."""
        return PoseOptions()

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
        """Predict people of all pictures in shared batches.

        Args:
            images: see ``load_images``.
            boxes: (N, 4) as (x, y, width, height) in picture pixels; for several pictures one such array each, None
                for the whole picture. Used as they are: clip labelled boxes by ``geometry.boxes`` if wanted.
            box_scores: (N,), or one such array per picture; 1 where left out.
            detections: file in COCO's results format, its records, or a ``DetectionTable``; pictures are matched by
                file name or COCO image number, and those it does not mention have no people.
            detector: callable from a picture to boxes and scores, or a name: "segmentation" for the people in the
                masks of the bundled segmentation model, "picture" for one person who fills the picture, or a detector
                of torchvision. None, where no boxes are given either, is "segmentation" for the joints of people and
                "picture" for those of animals and things.
            **options: fields of ``PoseOptions``.

        Raises:
            ValueError: more than one source of boxes, boxes that do not fit, or an option that is unknown, out of
                range, or needs a skeleton that the weights do not name.
        """
        opts = self.merged_options(options)
        if sum(given is not None for given in (boxes, detections, detector)) > 1:
            raise ValueError("give only one of boxes, detections and detector")
        if is_single(images):
            boxes, box_scores = ([value] if value is not None else None for value in (boxes, box_scores))
        if box_scores is not None and boxes is None:
            raise ValueError("box_scores need boxes")
        pictures, least = load_images(images), opts.box_threshold
        if detections is not None:
            table = DetectionTable.of(detections)
            found: Iterable[tuple[LoadedImage, PersonBoxes]] = (
                (image, table.find(image.path, least)) for image in pictures
            )
        elif boxes is not None or (finder := self._finder(detector)) is None:
            found = pair_with_images(pictures, boxes, box_scores)
        else:
            found = ((image, found_boxes(finder(image.pixels), least)) for image in pictures)
        yield from self._results((self.prepare(pair, opts) for pair in found), opts)

    def video(
        self,
        source: VideoSource,
        *,
        detector: Detector | str | None = None,
        detections: Detections | None = None,
        every: int = EVERY,
        smooth: bool = False,
        tracking: TrackOptions | None = None,
        **options: Any,
    ) -> Iterator[VideoFrame[Keypoints]]:
        """People of a video, frame by frame, with the same number in ``tracks`` for the same person.

        Args:
            source: a video file, or the number of a camera, which ends when it is closed.
            detector: as for ``stream``.
            detections: as for ``stream``, with the frame's number from 0 as ``image_id``; then ``every`` is 1.
            every: the detector looks at every so many frames, and at the last. Of files, boxes in between lie on
                straight lines; of cameras they follow the joints, so that no frame waits for the next.
            smooth: let joints go through the One-Euro filter.
            tracking: when tracks start and end.
            **options: fields of ``PoseOptions``; people found twice are left out unless ``nms`` says otherwise.

        Raises:
            VideoError, FileNotFoundError, ImportError, ValueError: as of ``Predictor.video`` and ``stream``.
        """
        finder, every, links, options = self.frame_finder(detector, detections, every, options)
        skeleton = self.info.skeleton
        follower = Follower(skeleton.sigmas if skeleton else None, self.info.num_classes, tracking, smooth)
        with opened(source) as video:
            if video.live:
                found = joints_live(
                    lambda picture, **more: self(picture, **(more | options)), video.frames(), finder, every
                )
            else:
                found = joints_of(self.stream, FramePeople(video.frames(), finder, every, links), **options)
            yield from (follower.frame(frame, result) for frame, result in found)

    def frame_finder(
        self, detector: Detector | str | None, detections: Detections | None, every: int, options: dict[str, Any]
    ) -> tuple[Callable[[Frame], PersonBoxes], int, BoxLinks, dict[str, Any]]:
        """What finds the people of a frame, how often it is to be asked, links for its boxes, and options for them.

        Whom a detector misses keeps a box for a while; boxes that were handed over are taken as they are.
        """
        if detector is not None and detections is not None:
            raise ValueError("give only one of detections and detector")
        options = {"nms": "hard"} | {name: value for name, value in options.items() if (name, value) != ("nms", "auto")}
        least = self.merged_options(options).box_threshold
        if detections is not None:
            table = DetectionTable.of(detections)
            return lambda frame: table.find(str(frame.number), least), 1, BoxLinks(patience=0.0), options
        finder = self._finder(detector)
        if finder is None:
            whole = lambda frame: given_boxes(None, None, LoadedImage(pixels=frame.pixels))  # noqa: E731
            return whole, 1, BoxLinks(patience=0.0), options
        return lambda frame: found_boxes(finder(frame.pixels), least), every, BoxLinks(), options

    def merged_options(self, given: dict[str, Any]) -> PoseOptions:
        merged = super().merged_options(given)
        if self.info.skeleton is None and merged.flip:
            raise ValueError(
                f"these weights do not name their {self.info.num_classes} keypoints, so left and right are unknown: "
                "pass flip=False, or load them with a skeleton"
            )
        return merged

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Of the skeleton; numbers where the weights name none."""
        skeleton = self.info.skeleton
        return skeleton.keypoints if skeleton else tuple(str(i) for i in range(self.info.num_classes))

    @property
    def default_detector(self) -> str:
        """What finds those whose joints are wanted where nothing is given: see ``stream``."""
        return MASKS if of_people(self.info.skeleton) else WHOLE

    @cached_property
    def _detectors(self) -> dict[str, Detector]:
        return {}

    def _finder(self, detector: Detector | str | None) -> Detector | None:
        """The detector to ask, the same object at every call; None for the whole picture."""
        name = self.default_detector if detector is None else detector
        if not isinstance(name, str):
            if not callable(name):
                raise ValueError(f"detector must be a name, or a callable from a picture to boxes and scores: {name!r}")
            return name
        if name == WHOLE:
            return None
        if name not in self._detectors:
            self._detectors[name] = detector_for(name, device=self.device)
        return self._detectors[name]

    def prepare(self, image: Any, options: PoseOptions) -> tuple[People, Sequence[Tensor]]:
        image, found = image
        spec, udp, pixels = self.info.input_spec, self.info.decoder == "udp", self._pixels(image)
        if options.fast_crop:
            crops, centers, sizes = crop_people_on_device(pixels, found.boxes, spec, self.device, udp=udp)
        else:
            arrays, centers, sizes = crop_people(pixels, found.boxes, spec, udp=udp)
            crops = torch.from_numpy(arrays)
        return People(image=image, found=found, centers=centers, sizes=sizes), list(crops)

    @torch.inference_mode()
    def heatmaps(self, crops: Tensor, *, flip: bool = True, shift: bool = True) -> Tensor:
        """(B, H, W, 3) uint8 RGB of people cut out at input size -> (B, K, h, w) float32 heatmaps on the device.

        ``flip`` averages with the mirror image's, ``shift`` is that of ``PoseOptions``.
        """
        x = self._network_input(crops)
        plain = self._output(x)
        if not flip:
            return plain
        assert self.info.skeleton is not None
        mirrored, pairs = self._output(x.flip(-1)), self.info.skeleton.flip_pairs
        return merge_flipped(plain, mirrored, pairs, shift and self.info.shift_heatmap)

    def run(self, crops: Tensor, options: PoseOptions) -> Sequence[_Answer]:
        maps = self.heatmaps(crops, flip=options.flip, shift=options.shift)
        codec = self.info.codec((int(maps.shape[2]), int(maps.shape[3])))
        cells, scores = codec.decode(maps)
        return [(row, codec.steps) for row in torch.cat([cells, scores[..., None]], dim=2).cpu().numpy()]

    def finish(self, people: People, answers: Sequence[_Answer], options: PoseOptions) -> Keypoints:
        keypoints = np.empty((len(answers), self.info.num_classes, 3), dtype=np.float32)
        if answers:
            rows, grid = np.stack([row for row, _ in answers]), answers[0][1]
            keypoints[..., :2] = cells_to_image(rows[..., :2], people.centers, people.sizes, grid)
            keypoints[..., 2] = rows[..., 2]
        return self._keypoints(people, keypoints, options)

    def _keypoints(self, people: People, keypoints: NDArray[np.float32], options: PoseOptions) -> Keypoints:
        """The result of one picture whose people have these joints (N, K, 3), in pixels of the picture."""
        info, found = self.info, people.found
        scores = np.asarray(rescore(found.scores, keypoints[..., 2], options.joint_threshold), dtype=np.float64)
        kept = self._kept(keypoints, scores, people, options)
        return Keypoints(
            image=people.image.pixels,
            path=people.image.path,
            keypoints=keypoints[kept],
            scores=scores[kept],
            boxes=found.boxes[kept].astype(np.float64),
            box_scores=found.scores[kept].astype(np.float64),
            names=self.joint_names,
            skeleton=info.skeleton,
        )

    def _kept(
        self, keypoints: NDArray[np.float32], scores: NDArray[np.float64], people: People, options: PoseOptions
    ) -> NDArray[np.intp]:
        """Rows that survive suppression, in the order kept; all of them where there is none."""
        skeleton = self.info.skeleton
        sigmas = skeleton.sigmas if skeleton else (DEFAULT_SIGMA,) * self.info.num_classes
        if options.nms == "off" or (options.nms == "auto" and not people.found.compete):
            return np.arange(len(scores))
        areas, soft = people.sizes.prod(axis=1), options.nms == "soft"
        return oks_nms(keypoints, scores, areas, sigmas, threshold=options.nms_threshold, soft=soft)
