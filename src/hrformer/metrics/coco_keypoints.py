"""COCO's keypoint scores of any skeleton: the ten figures, who found whom, a table per joint, and intervals.

Labels and results have COCO's JSON form; see https://cocodataset.org/#format-data. The figures come from
faster-coco-eval, as do the similarities. It does not tell who was matched in which picture at which threshold, which
tables per joint and resampling need: the rules of pycocotools are repeated here for that.

K joints, D results and P labelled people, I pictures, C categories, T = 10 OKS thresholds.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrformer.geometry.oks import oks_nms
from hrformer.metrics.counts import State, percentile_interval
from hrformer.wording import listed

FIGURES = ("AP", "AP50", "AP75", "AP-M", "AP-L", "AR", "AR50", "AR75", "AR-M", "AR-L")
"""COCO's ten figures, in its order."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_PEOPLE = 20  # results per picture and category that COCO evaluates, the best scored ones
FOUND_SIMILARITY = 0.5  # a joint of at least this similarity counts as found in the table per joint
Rows = Sequence[Mapping[str, Any]]
_log = logging.getLogger(__name__)


class CocoKeypoints:
    """Collects people and evaluates them at the end; keeps (3 K + 8) x 8 bytes of each, no dictionaries.

    Args:
        labels: "images", "categories" and "annotations" in COCO's form, complete: every annotation has its ids,
            "keypoints" (3 K numbers), "num_keypoints", "area", "bbox" and "iscrowd".
        sigmas: K, as in ``Skeleton.sigmas``.
        joint_names: K names for the table; empty for no table.
        image_ids: pictures to evaluate; all of the labels if left out. Pictures without results count.
        nms_threshold: of two people in one picture with a higher OKS only the better scored one is kept, if set.
    """

    def __init__(
        self,
        labels: Mapping[str, Rows],
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
            "categories": sorted(
                ({"id": one["id"], "name": one.get("name", "")} for one in labels["categories"]),
                key=lambda one: one["id"],
            ),
            # COCO's tools take the number 0 for "no match".
            "annotations": [{**person, "id": number} for number, person in enumerate(people, start=1)],
        }
        self.sigmas = tuple(sigmas)
        self.joint_names, self.nms_threshold = joint_names, nms_threshold
        self._images, self._categories = (
            {row["id"]: place for place, row in enumerate(self.annotations[kind])} for kind in ("images", "categories")
        )
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        # By order: places of image and category, score, area, box (4; NaN without one), joints (3 K).
        self._people: dict[int, NDArray[np.float64]] = {}
        self._evaluation: PeopleEvaluation | None = None

    def update(self, results: Iterable[Mapping[str, Any]], order: Iterable[int]) -> None:
        """Add people.

        Args:
            results: each a mapping with "image_id", "category_id", "keypoints" (3 K numbers (x, y, score), in picture
                pixels, or (K, 3)) and "score"; "area" (padded box, square pixels) where people are to be suppressed;
                where there is a "bbox", COCO takes its area for AP-M and AP-L, else that of the box around all joints.
            order: number of each person in the set. Neither the order of arrival nor a person that two processes saw
                changes a figure; among equal scores of one picture the lower number is better.
        """
        for result, number in zip(results, order, strict=True):
            self._people[int(number)] = self._record(result)
        self._evaluation = None

    def _record(self, result: Mapping[str, Any]) -> NDArray[np.float64]:
        places = []
        for kind, known in (("image", self._images), ("category", self._categories)):
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
        people = np.array(list(self._people.values()), dtype=np.float64).reshape(-1, 3 * len(self.sigmas) + 8)
        return {"order": np.array(list(self._people), dtype=np.int64), "people": people}

    def merge(self, state: State) -> None:
        """Add everybody that another metric of the same labels has seen; ValueError if its joints are others."""
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
        images, categories = list(self._images), list(self._categories)
        return [
            {
                "image_id": images[int(person[0])],
                "category_id": categories[int(person[1])],
                "keypoints": person[8:].tolist(),
                "score": float(person[2]),
                **({} if np.isnan(person[4]) else {"bbox": person[4:8].tolist()}),
            }
            for person in people
        ]

    def _suppressed(self, people: list[NDArray[np.float64]], threshold: float) -> list[NDArray[np.float64]]:
        """Who is left, by picture and category, best first."""
        groups = defaultdict(list)
        for person in people:
            groups[tuple(person[:2])].append(person)
        kept = []
        for key in sorted(groups):
            rows = np.stack(groups[key])
            joints = rows[:, 8:].reshape(len(rows), -1, 3)
            kept += list(rows[oks_nms(joints, rows[:, 2], rows[:, 3], self.sigmas, threshold)])
        return kept

    def evaluate(self) -> PeopleEvaluation:
        """Figures, matches and intervals of everybody seen so far; ImportError if faster-coco-eval is missing."""
        if self._evaluation is None:
            results = self.results()
            # The evaluator counts in 64 bits; places of rising ids keep the order that it takes pictures in.
            labels, found = map(self._by_places, (self.annotations["annotations"], results))
            self._evaluation = _evaluate_people(labels, found, len(self._images), len(self._categories), self.sigmas)
        return self._evaluation

    def _by_places(self, rows: Rows) -> list[dict[str, Any]]:
        images, categories = self._images, self._categories
        places = ((images[row["image_id"]], categories[row["category_id"]]) for row in rows)
        return [{**row, "image_id": i, "category_id": c} for row, (i, c) in zip(rows, places, strict=True)]

    def compute(self) -> dict[str, Any]:
        """``FIGURES``, "people" (how many results were evaluated), "images", and "per_joint", over all labelled joints.

        People are paired with results at OKS 0.5; the joints of people whom no result found count as not found. For
        each joint there are its "name"; "labelled", how many there are; "found", the share with a similarity
        ``exp(-d^2 / (2 (2 sigma)^2 area))`` of at least 0.5; "similarity", the mean of it, 0 where nobody was found;
        "distance", the mean d of the people found, as a share of the square root of their area. None where nothing is
        labelled or found. ValueError if there is no picture to evaluate, ImportError without faster-coco-eval.
        """
        if not self._images:
            raise ValueError("there is no picture to evaluate: the annotations have none")
        evaluation = self.evaluate()
        counts = {"people": len(evaluation.results), "images": len(self._images)}
        return {**evaluation.figures, **counts, "per_joint": self._joint_table(evaluation)}

    def _joint_table(self, evaluation: PeopleEvaluation) -> list[dict[str, Any]]:
        def joints(rows: Rows) -> NDArray[np.float64]:
            return np.array([row["keypoints"] for row in rows], dtype=np.float64).reshape(-1, len(self.sigmas), 3)

        labels = self.annotations["annotations"]
        counting = [person for person in labels if not person["iscrowd"] and person["num_keypoints"]]
        total = (joints(counting)[..., 2] > 0).sum(axis=0)
        paired = [labels[p] for _, p in evaluation.pairs]
        truth, points = joints(paired), joints([evaluation.results[d] for d, _ in evaluation.pairs])
        area = np.array([person["area"] for person in paired], dtype=np.float64)[:, None] + np.spacing(1)
        squared = ((points[..., :2] - truth[..., :2]) ** 2).sum(axis=2)
        similarity = np.exp(-squared / (2 * (2 * np.asarray(self.sigmas)) ** 2 * area))
        shown, distance = truth[..., 2] > 0, np.sqrt(squared / area)
        table = []
        for j, name in enumerate(self.joint_names):
            row: dict[str, Any] = {"name": name, "labelled": int(total[j]), "found": None, "similarity": None}
            if total[j]:
                row["found"] = float((similarity[shown[:, j], j] >= FOUND_SIMILARITY).sum() / total[j])
                row["similarity"] = float(similarity[shown[:, j], j].sum() / total[j])
            row["distance"] = float(distance[shown[:, j], j].mean()) if shown[:, j].any() else None
            table.append(row)
        return table


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PeopleEvaluation:
    """Figures and matches, results in COCO's order: by falling score, then by picture."""

    results: Rows  # everybody evaluated, as in COCO's result list
    figures: dict[str, float]  # ``FIGURES`` in 0..1; -1, as COCO prints it, where no person of that size is labelled
    image: NDArray[np.int64]  # (D,) place of each evaluated result's picture among the rising ids
    category: NDArray[np.int64]  # (D,) place of its category
    hit: NDArray[np.bool_]  # (T, D) the result found a person that counts
    ignored: NDArray[np.bool_]  # (T, D) it found a crowd or a person without labelled joints: counts neither way
    people: NDArray[np.int64]  # (C, I) people that count
    pairs: NDArray[np.int64]  # (M, 2) place in the list of results and of annotations: hits at the lowest threshold

    def weighted(self, weights: ArrayLike) -> dict[str, float]:
        """AP, AP50, AP75, AR, AR50, AR75 over people of all sizes where each picture counts ``weights`` (I,) times.

        NaN where no person counts.
        """
        drawn = np.asarray(weights)
        curves = [self._curves(c, drawn) for c, people in enumerate(self.people) if drawn @ people]
        if not curves:
            return dict.fromkeys(("AP", "AP50", "AP75", "AR", "AR50", "AR75"), float("nan"))
        figures = {}
        # Precision (C, T, 101) and recall (C, T).
        for name, values in zip(("AP", "AR"), map(np.stack, zip(*curves, strict=True)), strict=True):
            figures[name] = float(values.mean())
            figures[f"{name}50"], figures[f"{name}75"] = float(values[:, 0].mean()), float(values[:, 5].mean())
        return figures

    def _curves(self, category: int, drawn: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Precision (T, 101) at ``RECALLS`` and final recall (T,)."""
        own = self.category == category
        weight, hit, ignored = drawn[self.image[own]], self.hit[:, own], self.ignored[:, own]
        right = np.cumsum(weight * hit, axis=1).astype(np.float64)
        wrong = np.cumsum(weight * ~(hit | ignored), axis=1)
        precision, recall = np.zeros((len(THRESHOLDS), len(RECALLS))), np.zeros(len(THRESHOLDS))
        if right.shape[1] == 0:
            return precision, recall
        exact = right / (right + wrong + np.spacing(1))
        falling = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
        for t, reached in enumerate(right / int(drawn @ self.people[category])):
            places = np.searchsorted(reached, RECALLS, side="left")
            inside = places < len(reached)
            precision[t, inside] = falling[t, places[inside]]
            recall[t] = reached[-1]
        return precision, recall

    def intervals(self, samples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Intervals of the figures over people of all sizes, if the set had been drawn again from its own pictures.

        Empty for fewer than two pictures, or where nobody counts. What one picture holds is drawn together.
        """
        count = self.people.shape[1]
        if count < 2 or not self.people.any():
            return {}
        rng = np.random.default_rng(seed)
        drawn = [self.weighted(np.bincount(rng.integers(0, count, count), minlength=count)) for _ in range(samples)]
        return {key: percentile_interval([figures[key] for figures in drawn]) for key in FIGURES if key in drawn[0]}


def _evaluate_people(
    labels: Rows, results: Rows, num_images: int, num_categories: int, sigmas: Sequence[float]
) -> PeopleEvaluation:
    """Figures, and who found whom among people of all sizes; ids of pictures and categories are their places."""
    figures, similarities = _run_evaluator(labels, results, num_images, num_categories, sigmas)
    crowd = np.array([bool(person["iscrowd"]) for person in labels], dtype=bool)
    ignored = crowd | np.array([person["num_keypoints"] == 0 for person in labels], dtype=bool)
    people = np.zeros((num_categories, num_images), dtype=np.int64)
    places: list[int] = []
    tables, pairs = [np.zeros((len(THRESHOLDS), 0), np.int64)], []
    persons_of, results_of = _by_group(labels), _by_group(results)
    for category, image in sorted(persons_of.keys() | results_of.keys()):
        persons = np.array(persons_of[category, image], dtype=np.int64)
        dets = sorted(results_of[category, image], key=lambda d: -results[d]["score"])[:MAX_PEOPLE]
        people[category, image] = (~ignored[persons]).sum()
        chosen = np.full((len(THRESHOLDS), len(dets)), -1)
        if len(persons) and dets:
            chosen = _match(np.asarray(similarities[image, category]), ignored[persons], crowd[persons])
        places += dets
        # 1 a hit, 2 ignored, 0 a false alarm; the last entry stands for "nobody" (-1).
        tables.append(np.append(1 + ignored[persons], 0)[chosen])
        pairs += [(d, persons[p]) for d, p in zip(dets, chosen[0], strict=True) if p >= 0 and not ignored[persons[p]]]
    order = np.argsort([-results[d]["score"] for d in places], kind="stable")
    outcome = np.concatenate(tables, axis=1)[:, order]
    return PeopleEvaluation(
        results=results,
        figures=figures,
        image=np.array([results[d]["image_id"] for d in places], dtype=np.int64)[order],
        category=np.array([results[d]["category_id"] for d in places], dtype=np.int64)[order],
        hit=outcome == 1,
        ignored=outcome == 2,
        people=people,
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )


def _run_evaluator(
    labels: Rows, results: Rows, num_images: int, num_categories: int, sigmas: Sequence[float]
) -> tuple[dict[str, float], Mapping[tuple[int, int], Any]]:
    """The ten figures, and the similarity (D, P) of results and people by (picture, category), best scored first."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError("COCO's figures need faster-coco-eval: pip install 'hrformer[train]'") from error
    if not labels:
        return dict.fromkeys(FIGURES, -1.0), {}
    people = []
    for number, result in enumerate(results, start=1):
        box = result.get("bbox", ())
        if not len(box):
            joints = np.reshape(result["keypoints"], (-1, 3))[:, :2]
            box = [*joints.min(axis=0).tolist(), *np.ptp(joints, axis=0).tolist()]
        people.append({**result, "id": number, "bbox": box, "area": box[2] * box[3]})
    shared = {
        "images": [{"id": place} for place in range(num_images)],
        "categories": [{"id": place, "name": str(place)} for place in range(num_categories)],
    }
    # The evaluator writes into annotations, hence copies.
    truth, answers = {**shared, "annotations": [dict(row) for row in labels]}, {**shared, "annotations": people}
    evaluation = COCOeval_faster(
        COCO(truth), COCO(answers), "keypoints", print_function=_log.debug, kpt_oks_sigmas=list(sigmas)
    )
    evaluation.run()
    return dict(zip(FIGURES, map(float, evaluation.all_stats), strict=True)), evaluation.ious


def _by_group(rows: Rows) -> defaultdict[tuple[int, int], list[int]]:
    """Places in the list by (category, image)."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row["category_id"], row["image_id"]].append(place)
    return groups


def _match(similarity: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Place of the person whom each result takes, (T, D), -1 for nobody.

    Results choose by falling score: the most similar person above the threshold who counts, else one who is ignored;
    only a crowd may be taken twice.
    """
    reach = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    taken = np.zeros((len(THRESHOLDS), len(ignored)), dtype=bool)
    chosen = np.full((len(THRESHOLDS), len(similarity)), -1)
    for d, row in enumerate(similarity):
        fits = (row >= reach) & (crowd | ~taken)
        counted = fits & ~ignored
        fits = np.where(counted.any(axis=1, keepdims=True), counted, fits)
        # Among equally similar people the last one, as pycocotools has it.
        best = len(row) - 1 - np.where(fits, row, -1)[:, ::-1].argmax(axis=1)
        found = np.flatnonzero(fits.any(axis=1))
        taken[found, best[found]] = True
        chosen[found, d] = best[found]
    return chosen
