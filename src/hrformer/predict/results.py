"""Typed results: what each task answers for one picture, and how it is written: whole files only, never half of one."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.draw import draw_classification, draw_keypoints, draw_segmentation
from hrformer.files import write_file
from hrformer.geometry.skeletons import Skeleton

JPEG_QUALITY = 92
JPEG_SIDE = 65500  # Longest side in pixels that libjpeg writes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Result(ABC):
    image: NDArray[np.uint8] = field(repr=False)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def draw(self) -> NDArray[np.uint8]: ...

    def _header(self) -> dict[str, Any]:
        one: Any = self  # whose path is the last field
        return {"file_name": one.path, "width": self.image.shape[1], "height": self.image.shape[0]}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_dict()`` to a .json file, or ``draw()`` to a picture file; ValueError for another suffix."""
        if Path(path).suffix.lower() == ".json":
            write_json(path, self.to_dict())
        else:
            write_picture(path, self.draw())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classification(_Result):
    """The most probable classes of one picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole picture.
        labels: best class names first; a class without a name is called by its number.
        probabilities: softmax, same order, in [0, 1].
        class_ids: same order.
        path: file or URL; None for pictures handed over in memory.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    class_ids: tuple[int, ...]
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: file, size, and a list of class_id, label, probability."""
        rows = zip(self.class_ids, self.labels, self.probabilities, strict=True)
        return self._header() | {
            "predictions": [{"class_id": int(i), "label": label, "probability": float(p)} for i, label, p in rows]
        }

    def draw(self) -> NDArray[np.uint8]:
        """(H', W', 3) uint8 RGB with labels and probabilities; pictures under 480 pixels come enlarged."""
        return draw_classification(self.image, self.labels, self.probabilities)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Keypoints(_Result):
    """People found in one picture, best first where several boxes competed, else in the order of the boxes.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole picture.
        keypoints: (N, K, 3) float32: x, y in picture pixels (integers are pixel centres), and the joint's score,
            which is the heatmap's maximum: near 1 when sure, not a probability, and it can be negative.
        scores: (N,) float64, COCO-style: box score x mean of the joint scores above 0.2.
        boxes: (N, 4) float64 (x, y, width, height) in picture pixels, as given or detected, without padding.
        box_scores: (N,) float64; 1 for boxes given without scores.
        names: K keypoint names.
        skeleton: limbs and mirror pairs; None where the weights do not say.
        path: file or URL; None for pictures handed over in memory.
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    box_scores: NDArray[np.float64]
    names: tuple[str, ...] = field(repr=False)
    skeleton: Skeleton | None = field(default=None, repr=False)
    path: str | None = None

    def __len__(self) -> int:
        return len(self.keypoints)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: file, size, names, and per person keypoints [x, y, score] by joint, score, bbox, box_score."""
        people = [
            {"keypoints": joints.tolist(), "score": float(score), "bbox": box.tolist(), "box_score": float(box_score)}
            for joints, score, box, box_score in zip(
                self._rounded(), self.scores, self.boxes, self.box_scores, strict=True
            )
        ]
        edges = [list(edge) for edge in self.skeleton.edges] if self.skeleton else []
        return self._header() | {"names": list(self.names), "edges": edges, "people": people}

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """Records of the COCO results format: image_id, category_id, keypoints flat (3 K numbers), score."""
        ids = {"image_id": int(image_id), "category_id": int(category_id)}
        people = zip(self._rounded(), self.scores, strict=True)
        return [ids | {"keypoints": joints.ravel().tolist(), "score": float(score)} for joints, score in people]

    def to_supervision(self) -> Any:
        """``supervision.KeyPoints``, from 0.29 on: joints and people with their scores; ImportError without it."""
        return _supervision().KeyPoints(
            xy=self.keypoints[..., :2],
            keypoint_confidence=self.keypoints[..., 2],
            detection_confidence=self.scores.astype(np.float32),
            class_id=np.zeros(len(self), dtype=int),
            data={"class_name": np.full(len(self), "person")},
        )

    def draw(self, *, joint_threshold: float = 0.2, min_score: float = 0.1) -> NDArray[np.uint8]:
        """(H', W', 3) uint8 RGB with skeletons and scores; pictures under 480 pixels come enlarged.

        Args:
            joint_threshold: joints scored at or below this are left out.
            min_score: people scored below this are left out.
        """
        limits: dict[str, Any] = {"joint_threshold": joint_threshold, "min_score": min_score}
        people = (self.image, self.keypoints, self.scores, self.boxes)
        return draw_keypoints(*people, names=self.names, skeleton=self.skeleton, **limits)

    def _rounded(self) -> NDArray[np.float64]:
        """(N, K, 3) without the digits that mean nothing: thousandths of a pixel, millionths of a score."""
        values = self.keypoints.astype(np.float64)
        return np.concatenate([np.round(values[..., :2], 3), np.round(values[..., 2:], 6)], axis=-1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segmentation(_Result):
    """A class for every pixel of one picture; there is no void, each pixel gets one of the model's classes.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole picture.
        mask: (H, W) class ids; uint8 with up to 256 classes, else uint16.
        class_names: by class id; empty where the weights do not say.
        palette: RGB by class id; empty where the weights do not say.
        path: file or URL; None for pictures handed over in memory.
    """

    mask: NDArray[np.unsignedinteger]
    class_names: tuple[str, ...] = field(default=(), repr=False)
    palette: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    path: str | None = None

    def name_of(self, class_id: int) -> str:
        """Name of a class, or its number where it has none."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)

    def shares(self) -> Mapping[int, float]:
        """Share of the picture's pixels by class id, largest first; classes that do not occur are left out."""
        counts = np.bincount(self.mask.ravel())
        order = np.argsort(-counts, kind="stable")
        return {int(k): float(counts[k] / self.mask.size) for k in order if counts[k]}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: file, size, and the classes that occur with their share; the mask itself is for ``save``."""
        return self._header() | {
            "classes": [{"class_id": i, "label": self.name_of(i), "share": s} for i, s in self.shares().items()]
        }

    def to_supervision(self) -> Any:
        """``supervision.Detections``: mask, box and name of each class, largest first; ImportError without it."""
        sv, ids = _supervision(), [*self.shares()]
        masks = np.stack([self.mask == class_id for class_id in ids])
        names = {"class_name": np.array([self.name_of(class_id) for class_id in ids])}
        return sv.Detections(xyxy=sv.mask_to_xyxy(masks), mask=masks, class_id=np.array(ids), data=names)

    def draw(self) -> NDArray[np.uint8]:
        """(H', W', 3) uint8 RGB under the classes' colours and names; pictures under 480 pixels come enlarged."""
        return draw_segmentation(self.image, self.mask, class_names=self.class_names, palette=self.palette)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_dict()`` to .json, the class ids to .png, or ``draw()`` to other pictures; else ValueError."""
        if Path(path).suffix.lower() == ".png":
            write_picture(path, self.mask)
        else:
            _Result.save(self, path)


Result: TypeAlias = "Classification | Keypoints | Segmentation"


def check_finite(result: Result) -> None:
    """ValueError if the numbers that the network gave are not all finite."""
    names = {Keypoints: ("keypoints", "scores"), Classification: ("probabilities",)}.get(type(result), ())
    if not all(np.isfinite(getattr(result, name)).all() for name in names):
        raise ValueError("the network answered NaN or infinity")


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision() needs the package supervision: pip install supervision") from error
    return supervision


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write through a temporary file in the same folder, made if absent, and move it into place."""
    write_file(Path(path), lambda part: part.write_bytes(data))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON with a final newline; bytes of file names that are not UTF-8 become escapes that JSON reads back."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace"))


def write_picture(path: str | os.PathLike[str], pixels: NDArray[np.unsignedinteger]) -> None:
    """Write a picture in the format its suffix names; see ``encode_picture``, which raises ``ValueError``."""
    try:
        data = encode_picture(pixels, Path(path).suffix)
    except ValueError as error:
        raise ValueError(f"cannot write {os.fspath(path)}: {error}") from error
    write_bytes(path, data)


def encode_picture(pixels: NDArray[np.unsignedinteger], suffix: str) -> bytes:
    """A picture file in memory.

    Args:
        pixels: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16 (PNG and TIFF only).
        suffix: .png, .jpg, .webp, .bmp or another suffix OpenCV writes.

    Raises:
        ValueError: the suffix is not one of a picture format, or the format has no place for so many pixels.
    """
    kind = suffix.lower()
    if not kind or not cv2.haveImageWriter(f"x{kind}"):
        raise ValueError("use a suffix such as .png or .jpg")
    stored = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    flags = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(kind, stored, flags)
    if not done:
        raise ValueError(f"OpenCV could not encode {pixels.shape[1]} x {pixels.shape[0]} pixels as {kind}")
    return data.tobytes()
