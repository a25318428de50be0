"""Typed results: what each task answers for one picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.draw import draw_classification, draw_keypoints, draw_segmentation
from hrformer.geometry.skeletons import Skeleton
from hrformer.predict.files import write_json, write_picture


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classification:
    """The most probable classes of one picture.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole picture.
        labels: best class names first; a class without a name is called by its number.
        probabilities: softmax, same order, in [0, 1].
        class_ids: same order.
        path: file or URL; None for pictures handed over in memory.
    """

    image: NDArray[np.uint8] = field(repr=False)
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    class_ids: tuple[int, ...]
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: file, size, and a list of class_id, label, probability."""
        rows = zip(self.class_ids, self.labels, self.probabilities, strict=True)
        return _header(self.path, self.image) | {
            "predictions": [{"class_id": int(i), "label": label, "probability": float(p)} for i, label, p in rows]
        }

    def draw(self) -> NDArray[np.uint8]:
        """(H', W', 3) uint8 RGB with labels and probabilities; pictures under 480 pixels come enlarged."""
        return draw_classification(self.image, self.labels, self.probabilities)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_dict()`` to a .json file, or ``draw()`` to a picture file.

        Raises:
            ValueError: the suffix is neither .json nor that of a picture format.
        """
        _save(path, self.to_dict, self.draw)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Keypoints:
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

    image: NDArray[np.uint8] = field(repr=False)
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
            {
                "keypoints": _rounded(self.keypoints[i]).tolist(),
                "score": float(self.scores[i]),
                "bbox": self.boxes[i].tolist(),
                "box_score": float(self.box_scores[i]),
            }
            for i in range(len(self))
        ]
        edges = [list(edge) for edge in self.skeleton.edges] if self.skeleton else []
        return _header(self.path, self.image) | {"names": list(self.names), "edges": edges, "people": people}

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """Records of the COCO results format: image_id, category_id, keypoints flat (3 K numbers), score."""
        return [
            {
                "image_id": int(image_id),
                "category_id": int(category_id),
                "keypoints": _rounded(self.keypoints[i]).ravel().tolist(),
                "score": float(self.scores[i]),
            }
            for i in range(len(self))
        ]

    def draw(self, *, joint_threshold: float = 0.2, min_score: float = 0.1) -> NDArray[np.uint8]:
        """(H', W', 3) uint8 RGB with skeletons and scores; pictures under 480 pixels come enlarged.

        Args:
            joint_threshold: joints scored at or below this are left out.
            min_score: people scored below this are left out.
        """
        return draw_keypoints(
            self.image,
            self.keypoints,
            self.scores,
            self.boxes,
            names=self.names,
            skeleton=self.skeleton,
            joint_threshold=joint_threshold,
            min_score=min_score,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_dict()`` to a .json file, or ``draw()`` to a picture file.

        Raises:
            ValueError: the suffix is neither .json nor that of a picture format.
        """
        _save(path, self.to_dict, self.draw)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segmentation:
    """A class for every pixel of one picture; there is no void, each pixel gets one of the model's classes.

    Attributes:
        image: (H, W, 3) uint8 RGB, the whole picture.
        mask: (H, W) class ids; uint8 with up to 256 classes, else uint16.
        class_names: by class id; empty where the weights do not say.
        palette: RGB by class id; empty where the weights do not say.
        path: file or URL; None for pictures handed over in memory.
    """

    image: NDArray[np.uint8] = field(repr=False)
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
        return _header(self.path, self.image) | {
            "classes": [{"class_id": i, "label": self.name_of(i), "share": s} for i, s in self.shares().items()]
        }

    def draw(self) -> NDArray[np.uint8]:
        """(H', W', 3) uint8 RGB under the classes' colours and names; pictures under 480 pixels come enlarged."""
        return draw_segmentation(self.image, self.mask, class_names=self.class_names, palette=self.palette)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_dict()`` to a .json file, the class ids to a .png file, or ``draw()`` to any other picture file.

        Raises:
            ValueError: the suffix is neither .json nor that of a picture format.
        """
        if Path(path).suffix.lower() == ".png":
            write_picture(path, self.mask)
        else:
            _save(path, self.to_dict, self.draw)


Result: TypeAlias = "Classification | Keypoints | Segmentation"


def _header(path: str | None, image: NDArray[np.uint8]) -> dict[str, Any]:
    return {"file_name": path, "width": image.shape[1], "height": image.shape[0]}


def _rounded(keypoints: NDArray[np.floating]) -> NDArray[np.float64]:
    """(K, 3) without the digits that mean nothing: thousandths of a pixel, millionths of a score."""
    values = keypoints.astype(np.float64)
    return np.concatenate([np.round(values[:, :2], 3), np.round(values[:, 2:], 6)], axis=1)


def _save(path: str | os.PathLike[str], to_dict: Any, draw: Any) -> None:
    if Path(path).suffix.lower() == ".json":
        write_json(path, to_dict())
    else:
        write_picture(path, draw())
