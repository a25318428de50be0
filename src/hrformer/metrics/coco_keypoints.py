"""COCO's keypoint scores of any skeleton, collected batch by batch; K joints.

Labels and results have COCO's JSON form; see https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.geometry.oks import oks_nms
from hrformer.metrics.coco_evaluation import FIGURES, PeopleEvaluation, evaluate_people, joint_table
from hrformer.metrics.counts import State, names_for
from hrformer.wording import listed

Result = Mapping[str, Any]


class CocoKeypoints:
    """Collects people and evaluates them at the end; keeps (3 K + 8) x 8 bytes of each, no dictionaries.

    Args:
        labels: "images", "categories" and "annotations" in COCO's form, complete: every annotation has its ids,
            "keypoints" (3 K numbers), "num_keypoints", "area", "bbox" and "iscrowd".
        sigmas: K, as in ``Skeleton.sigmas``.
        joint_names: K names for the table, or none.
        image_ids: pictures to evaluate; all of the labels if left out. Pictures without results count.
        nms_threshold: of two people in one picture with a higher OKS only the better scored one is kept (0.9 in
            the published figures). Left out, everybody is kept.

    Raises:
        ValueError: an annotation has another number of joints, or a picture is not among the labels'.
    """

    def __init__(
        self,
        labels: Mapping[str, Sequence[Mapping[str, Any]]],
        sigmas: Sequence[float],
        *,
        joint_names: tuple[str, ...] = (),
        image_ids: Collection[int] | None = None,
        nms_threshold: float | None = None,
    ) -> None:
        known = {image["id"] for image in labels["images"]}
        wanted = known if image_ids is None else set(image_ids)
        if unknown := sorted(wanted - known):
            raise ValueError(f"{len(unknown)} image ids are not in the annotations, such as {unknown[0]}")
        people = [person for person in labels["annotations"] if person["image_id"] in wanted]
        if wrong := next((person for person in people if len(person["keypoints"]) != 3 * len(sigmas)), None):
            count = len(wrong["keypoints"])
            raise ValueError(f"annotation {wrong['id']} has {count} keypoint numbers, not 3 x {len(sigmas)}")
        self.annotations: dict[str, list[dict[str, Any]]] = {
            "images": [{"id": number} for number in sorted(wanted)],
            "categories": [{"id": one["id"], "name": one.get("name", "")} for one in labels["categories"]],
            # COCO's tools take the number 0 for "no match".
            "annotations": [{**person, "id": number} for number, person in enumerate(people, start=1)],
        }
        self.sigmas = tuple(sigmas)
        self.joint_names = names_for(joint_names, len(sigmas), "joints")
        self.nms_threshold = nms_threshold
        self._images: list[int] = sorted(wanted)
        self._categories: list[int] = sorted(category["id"] for category in self.annotations["categories"])
        self._places = [{number: i for i, number in enumerate(ids)} for ids in (self._images, self._categories)]
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        # By order: places of image and category, score, area, box (4; NaN without one), joints (3 K).
        self._people: dict[int, NDArray[np.float64]] = {}
        self._evaluation: PeopleEvaluation | None = None

    def update(self, results: Iterable[Result], order: Iterable[int]) -> None:
        """Add people.

        Args:
            results: each a mapping with "image_id", "category_id", "keypoints" (3 K numbers (x, y, score), in picture
                pixels, or (K, 3)) and "score"; "area" (padded box, square pixels) where people are to be suppressed;
                "bbox" as :func:`hrformer.metrics.coco_evaluation.evaluate_people` has it. Other keys are not used.
            order: number of each person in the set, the same number never for two people. Then neither the order
                of arrival nor a person that two processes saw changes a figure.

        Raises:
            ValueError: joints are of another number or not finite, or the picture or category is not evaluated.
        """
        for result, number in zip(results, order, strict=True):
            self._people[int(number)] = self._record(result)
        self._evaluation = None

    def _record(self, result: Result) -> NDArray[np.float64]:
        places = []
        for kind, known in zip(("image", "category"), self._places, strict=True):
            if (number := result.get(f"{kind}_id")) not in known:
                raise ValueError(
                    f"a result is for {kind} {number}, which is not among those evaluated: {listed(known)}"
                )
            places.append(known[number])
        image, joints = result["image_id"], np.asarray(result["keypoints"], dtype=np.float64).ravel()
        if len(joints) != 3 * len(self.sigmas):
            raise ValueError(f"a result for image {image} has {len(joints)} numbers, not 3 x {len(self.sigmas)} joints")
        score, area = result["score"], result.get("area", 0 if self.nms_threshold is None else np.nan)
        if not (np.isfinite(joints).all() and np.isfinite([score, area]).all()):
            raise ValueError(f"a result for image {image} has a joint, score or area that is not finite")
        box = result.get("bbox", ())
        return np.array([*places, score, area, *(box if len(box) else [np.nan] * 4), *joints], dtype=np.float64)

    def state(self) -> State:
        """Everybody seen, as arrays: numbers (N,), and (N, 3 K + 8) as they are kept."""
        width = 3 * len(self.sigmas) + 8
        people = np.array(list(self._people.values()), dtype=np.float64).reshape(-1, width)
        return {"order": np.array(list(self._people), dtype=np.int64), "people": people}

    def merge(self, state: State) -> None:
        """Add everybody that another metric of the same labels has seen.

        Raises:
            ValueError: it has another number of joints.
        """
        people, width = state["people"], 3 * len(self.sigmas) + 8
        if people.shape != (len(state["order"]), width):
            raise ValueError(f"cannot merge people of {people.shape[1:]} numbers with people of {width}")
        self._people.update(zip(state["order"].tolist(), people, strict=True))
        self._evaluation = None

    def results(self) -> list[dict[str, Any]]:
        """COCO's result list of everybody kept, in JSON types, as a test server takes it."""
        people = [self._people[number] for number in sorted(self._people)]
        if self.nms_threshold is not None:
            people = self._suppressed(people, self.nms_threshold)
        return [
            {
                "image_id": self._images[int(person[0])],
                "category_id": self._categories[int(person[1])],
                "keypoints": person[8:].tolist(),
                "score": float(person[2]),
                **({} if np.isnan(person[4]) else {"bbox": person[4:8].tolist()}),
            }
            for person in people
        ]

    def _suppressed(self, people: list[NDArray[np.float64]], threshold: float) -> list[NDArray[np.float64]]:
        """Who is left, by picture and category, best first."""
        groups: dict[tuple[float, ...], list[NDArray[np.float64]]] = {}
        for person in people:
            groups.setdefault(tuple(person[:2].tolist()), []).append(person)
        kept = []
        for key in sorted(groups):
            rows = np.stack(groups[key])
            joints = rows[:, 8:].reshape(len(rows), -1, 3)
            kept += list(rows[oks_nms(joints, rows[:, 2], rows[:, 3], self.sigmas, threshold)])
        return kept

    def evaluate(self) -> PeopleEvaluation:
        """Figures, matches and intervals of everybody seen so far.

        Raises:
            ImportError: faster-coco-eval is not installed.
        """
        if self._evaluation is None:
            self._evaluation = evaluate_people(self.annotations, self.results(), self.sigmas)
        return self._evaluation

    def compute(self) -> dict[str, Any]:
        """The ten figures and a table per joint.

        Returns:
            ``FIGURES``, "people" (how many results were evaluated), "images", and "per_joint" from
            :func:`hrformer.metrics.coco_evaluation.joint_table`.

        Raises:
            ImportError: faster-coco-eval is not installed.
            ValueError: there is no picture to evaluate.
        """
        if not self._images:
            raise ValueError("there is no picture to evaluate: the annotations have none")
        evaluation, labels = self.evaluate(), self.annotations["annotations"]
        results = evaluation.results
        return {
            **{key: evaluation.figures[key] for key in FIGURES},
            "people": len(results),
            "images": len(self._images),
            "per_joint": joint_table(labels, results, evaluation.pairs, self.sigmas, self.joint_names),
        }
