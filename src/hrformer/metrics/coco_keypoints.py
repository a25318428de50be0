"""COCO's keypoint evaluation for any skeleton: the ten figures, a table per joint, results for a test server.

K joints. Annotations and results have COCO's JSON form; see https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.oks import MASK_SHARE, oks_nms
from hrformer.metrics.coco_matching import Matches, joint_table, match_people
from hrformer.metrics.metric import State, names_for

FIGURES = ("AP", "AP50", "AP75", "AP-M", "AP-L", "AR", "AR50", "AR75", "AR-M", "AR-L")
"""COCO's ten figures, in its order."""

Result = Mapping[str, Any]
_log = logging.getLogger(__name__)


def read_annotations(
    source: str | Path | Mapping[str, Any], num_keypoints: int, image_ids: Collection[int] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Check keypoint annotations and keep what the evaluation needs, in new dictionaries.

    Joints are counted by their flags, whatever ``num_keypoints`` says, and ``MASK_SHARE`` of the box stands in for an
    area that is missing or not above 0.

    Args:
        source: file, or its content; that of ``PoseSet.truth`` holds the people that training sees.
        num_keypoints: K of the skeleton.
        image_ids: pictures to keep; all if left out.

    Returns:
        "images", "categories" and "annotations"; these are numbered anew from 1, since COCO's tools take the
        number 0 for "no match".

    Raises:
        ValueError: a field that the evaluation needs is missing or has the wrong size.
    """
    data = source if isinstance(source, Mapping) else json.loads(Path(source).read_text(encoding="utf-8-sig"))
    if missing := [key for key in ("images", "annotations", "categories") if key not in data]:
        raise ValueError(f"keypoint annotations need the lists images, annotations, categories; missing: {missing}")
    known = {image["id"] for image in data["images"]}
    if not all(isinstance(number, int) for number in known):
        raise ValueError("image ids must be integers, as in COCO")
    wanted = known if image_ids is None else set(image_ids)
    if unknown := sorted(wanted - known):
        raise ValueError(f"{len(unknown)} image ids are not in the annotations, such as {unknown[0]}")
    people = [person for person in data["annotations"] if person["image_id"] in wanted]
    return {
        "images": [{"id": number} for number in sorted(wanted)],
        "categories": [{"id": category["id"], "name": category.get("name", "")} for category in data["categories"]],
        "annotations": [_person(person, i, num_keypoints) for i, person in enumerate(people, start=1)],
    }


def _person(annotation: Mapping[str, Any], number: int, num_keypoints: int) -> dict[str, Any]:
    joints = annotation.get("keypoints", ())
    joints = joints if len(joints) else [0] * (3 * num_keypoints)
    label = annotation.get("id", number)
    if len(joints) != 3 * num_keypoints:
        raise ValueError(f"annotation {label} has {len(joints)} keypoint numbers, not 3 x {num_keypoints}")
    if missing := [key for key in ("category_id", "bbox") if key not in annotation]:
        raise ValueError(f"annotation {label} lacks {', '.join(missing)}")
    area, box = annotation.get("area"), annotation["bbox"]
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "keypoints": joints,
        "num_keypoints": sum(flag > 0 for flag in joints[2::3]),
        "area": area if area is not None and area > 0 else MASK_SHARE * box[2] * box[3],
        "bbox": box,
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def coco_figures(
    annotations: Mapping[str, list[dict[str, Any]]], results: Sequence[Result], sigmas: Sequence[float]
) -> dict[str, float]:
    """The ten figures by faster-coco-eval, at most 20 people per picture.

    Args:
        annotations: from :func:`read_annotations`.
        results: "image_id", "category_id", "keypoints" (3 K numbers) and "score" of each person, in any order;
            among equal scores of one picture the first is better. Where a result has a "bbox", COCO takes its
            area for AP-M and AP-L, else that of the box around all joints.
        sigmas: K, as in ``Skeleton.sigmas``.

    Returns:
        ``FIGURES`` in 0..1; -1, as COCO prints it, where no person of that size is labelled.

    Raises:
        ImportError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError("COCO's figures need faster-coco-eval: pip install 'hrformer[train]'") from error
    if not annotations["annotations"]:
        return dict.fromkeys(FIGURES, -1.0)
    # The evaluator counts in 64 bits; places of rising ids keep the order that it takes pictures in.
    images = {number: place for place, number in enumerate(sorted(row["id"] for row in annotations["images"]), 1)}
    kinds = {number: place for place, number in enumerate(sorted(row["id"] for row in annotations["categories"]), 1)}

    def placed(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "image_id": images[row["image_id"]], "category_id": kinds[row["category_id"]]}

    people = []
    for number, result in enumerate(results, start=1):
        box = result.get("bbox", ())
        box = box if len(box) else _box_around(np.asarray(result["keypoints"], dtype=np.float64))
        kept = {key: result[key] for key in ("image_id", "category_id", "keypoints", "score")}
        people.append(placed({**kept, "id": number, "bbox": box, "area": box[2] * box[3]}))
    # The evaluator writes into annotations, hence copies.
    labelled: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": place} for place in images.values()],
        "categories": [{**row, "id": kinds[row["id"]]} for row in annotations["categories"]],
        "annotations": [placed(row) for row in annotations["annotations"]],
    }
    found = {"images": labelled["images"], "categories": labelled["categories"], "annotations": people}
    evaluation = COCOeval_faster(
        COCO(labelled), COCO(found), "keypoints", print_function=_log.debug, kpt_oks_sigmas=list(sigmas)
    )
    evaluation.run()
    return dict(zip(FIGURES, map(float, evaluation.all_stats), strict=True))


def _box_around(keypoints: NDArray[np.float64]) -> list[float]:
    """(x, y, width, height) of 3 K numbers (x, y, score), all joints counted as COCO's tools do."""
    corner = keypoints.reshape(-1, 3)[:, :2].min(axis=0)
    size = keypoints.reshape(-1, 3)[:, :2].max(axis=0) - corner
    return [*corner.tolist(), *size.tolist()]


class CocoKeypoints:
    """Collects people and evaluates them at the end; keeps (3 K + 9) x 8 bytes of each, no dictionaries.

    Args:
        annotations: file with the labels, or its content.
        sigmas: K, as in ``Skeleton.sigmas``.
        joint_names: K names for the table, or none.
        image_ids: pictures to evaluate; all of the annotations if left out. Pictures without results count.
        nms_threshold: of two people in one picture with a higher OKS only the better scored one is kept (0.9 in
            the published figures). Left out, everybody is kept.

    Raises:
        ValueError: see :func:`read_annotations`.
    """

    def __init__(
        self,
        annotations: str | Path | Mapping[str, Any],
        sigmas: Sequence[float],
        *,
        joint_names: tuple[str, ...] = (),
        image_ids: Collection[int] | None = None,
        nms_threshold: float | None = None,
    ) -> None:
        self.annotations = read_annotations(annotations, len(sigmas), image_ids)
        self.sigmas = tuple(sigmas)
        self.joint_names = names_for(joint_names, len(sigmas), "joints")
        self.nms_threshold = nms_threshold
        self._images: list[int] = sorted(image["id"] for image in self.annotations["images"])
        self._categories: list[int] = sorted(category["id"] for category in self.annotations["categories"])
        self._image_places = {number: place for place, number in enumerate(self._images)}
        self._category_places = {number: place for place, number in enumerate(self._categories)}
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        self._numbers = array("q")  # places of image and category, order (-1 unknown) of each person
        self._values = array("d")  # score, area, box (4; NaN without one), joints (3 K) of each person

    def update(self, results: Iterable[Result], order: Iterable[int] | None = None) -> None:
        """Add people.

        Args:
            results: each a mapping with "image_id", "keypoints" (3 K numbers (x, y, score), in picture pixels, or
                (K, 3)) and "score"; "category_id" if there are several; "area" (padded box, square pixels) where
                people are to be suppressed; "bbox" as :func:`coco_figures` has it. Other keys are not used.
            order: place of each person in the set, the same number never for two people. Then neither the order
                of arrival nor a person that two processes saw changes a figure. Give it always or never.

        Raises:
            ValueError: a field is missing, of the wrong size or not finite, or the picture is not evaluated.
        """
        results = list(results)
        places = [-1] * len(results) if order is None else [int(place) for place in order]
        if len(places) != len(results):
            raise ValueError(f"there are {len(results)} results, but {len(places)} places of them")
        for result, place in zip(results, places, strict=True):
            numbers, values = self._record(result)
            self._numbers.extend([*numbers, place])
            self._values.frombytes(values.tobytes())

    def _record(self, result: Result) -> tuple[list[int], NDArray[np.float64]]:
        needed = ["image_id", "keypoints", "score"]
        needed += ["category_id"] if len(self._categories) != 1 else []
        needed += ["area"] if self.nms_threshold is not None else []
        if missing := [key for key in needed if key not in result]:
            raise ValueError(f"a result must have {', '.join(needed)}; missing: {', '.join(missing)}")
        image, joints = _id(result["image_id"]), np.asarray(result["keypoints"], dtype=np.float64).ravel()
        if image not in self._image_places:
            raise ValueError(f"a result is for image {result['image_id']}, which is not among those evaluated")
        if len(joints) != 3 * len(self.sigmas):
            raise ValueError(f"a result for image {image} has {len(joints)} numbers, not 3 x {len(self.sigmas)} joints")
        score, area = float(result["score"]), float(result.get("area", 0))
        if not (np.isfinite(joints).all() and np.isfinite([score, area]).all()):
            raise ValueError(f"a result for image {image} has a joint, score or area that is not finite")
        box = result.get("bbox", ())
        box = np.asarray(box if len(box) else [np.nan] * 4, dtype=np.float64)
        if box.shape != (4,):
            raise ValueError(f"the bbox of a result for image {image} must be (x, y, width, height), got {box}")
        category = _id(result["category_id"]) if "category_id" in result else self._categories[0]
        if category not in self._category_places:
            raise ValueError(
                f"a result for image {image} is of category {result['category_id']}, which is not among those "
                f"evaluated: {', '.join(map(str, self._categories))}"
            )
        return [self._image_places[image], self._category_places[category]], np.concatenate(
            [[score, area], box, joints]
        )

    def state(self) -> State:
        """Everybody seen, as arrays (N, 3), places of picture and category among the rising ids and in the set, and
        (N, 3 K + 6)."""
        values = np.array(self._values, dtype=np.float64).reshape(-1, 3 * len(self.sigmas) + 6)
        return {"numbers": np.array(self._numbers, dtype=np.int64).reshape(-1, 3), "values": values}

    def merge(self, state: State) -> None:
        """Add everybody that another metric has seen.

        Raises:
            ValueError: it has another number of joints.
        """
        numbers, values = np.asarray(state["numbers"], np.int64), np.asarray(state["values"], np.float64)
        width = 3 * len(self.sigmas) + 6
        if numbers.shape != (len(values), 3) or values.shape[1:] != (width,):
            raise ValueError(f"cannot merge people of {values.shape[1:]} numbers with people of {width}")
        self._numbers.frombytes(numbers.tobytes())
        self._values.frombytes(values.tobytes())

    def results(self) -> list[dict[str, Any]]:
        """COCO's result list of everybody kept, in JSON types, as a test server takes it.

        Raises:
            ValueError: some people were given with their order and some without.
        """
        state = self.state()
        numbers, values = state["numbers"], state["values"]
        known = numbers[:, 2] >= 0
        if known.any():
            if not known.all():
                raise ValueError("order was given for some people and not for others")
            places = np.unique(numbers[:, 2], return_index=True)[1]
            numbers, values = numbers[places], values[places]
        rows = range(len(numbers)) if self.nms_threshold is None else self._kept(numbers, values, self.nms_threshold)
        return [_result(self._images[numbers[row, 0]], self._categories[numbers[row, 1]], values[row]) for row in rows]

    def _kept(self, numbers: NDArray[np.int64], values: NDArray[np.float64], threshold: float) -> list[int]:
        """Rows that suppression leaves: by picture and category, best first."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (image, category) in enumerate(numbers[:, :2].tolist()):
            groups.setdefault((image, category), []).append(row)
        kept = []
        for key in sorted(groups):
            rows = np.array(groups[key])
            joints = values[rows, 6:].reshape(len(rows), -1, 3)
            left = oks_nms(joints, values[rows, 0], values[rows, 1], self.sigmas, threshold)
            kept += rows[left].tolist()
        return kept

    def compute(self) -> dict[str, Any]:
        """The ten figures and a table per joint.

        Returns:
            ``FIGURES`` (see :func:`coco_figures`), "people" (how many results were evaluated), "images", and
            "per_joint" from :func:`hrformer.metrics.coco_matching.joint_table`.

        Raises:
            ImportError: faster-coco-eval is not installed.
            ValueError: there is no picture to evaluate, or order was given for some people only.
        """
        if not self._images:
            raise ValueError("there is no picture to evaluate: the annotations have none")
        results = self.results()
        matches = match_people(self.annotations, results, self.sigmas)
        return {
            **coco_figures(self.annotations, results, self.sigmas),
            "people": len(results),
            "images": len(self._images),
            "per_joint": joint_table(self.annotations, results, matches, self.sigmas, self.joint_names),
        }

    def matches(self) -> Matches:
        """Who was found, per picture: what a bootstrap interval of the figures needs."""
        return match_people(self.annotations, self.results(), self.sigmas)


def _result(image: int, category: int, values: NDArray[np.float64]) -> dict[str, Any]:
    box = {} if np.isnan(values[2]) else {"bbox": values[2:6].tolist()}
    return {
        "image_id": image,
        "category_id": category,
        "keypoints": values[6:].tolist(),
        "score": float(values[0]),
        **box,
    }


def _id(value: Any) -> int | None:
    """A whole number, also written as 7.0 or "7"; None for whatever is none."""
    try:
        return int(value) if isinstance(value, str) or value == int(value) else None
    except (TypeError, ValueError, OverflowError):
        return None
