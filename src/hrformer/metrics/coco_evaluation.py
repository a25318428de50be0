"""COCO's evaluation of people: the ten figures, who found whom, and intervals of the figures.

The figures come from faster-coco-eval, as do the similarities. It does not tell who was matched in which picture at
which threshold, which tables per joint and resampling need: the rules of pycocotools are repeated here for that.

K joints, D results and P labelled people, I pictures, C categories, T = 10 OKS thresholds.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrformer.metrics.counts import percentile_interval

FIGURES = ("AP", "AP50", "AP75", "AP-M", "AP-L", "AR", "AR50", "AR75", "AR-M", "AR-L")
"""COCO's ten figures, in its order."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_PEOPLE = 20
"""Results per picture and category that COCO evaluates, the best scored ones."""

FOUND_SIMILARITY = 0.5
"""A joint of at least this similarity counts as found in the table per joint."""

Rows = Sequence[Mapping[str, Any]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PeopleEvaluation:
    """Figures and matches, results in COCO's order: by falling score, then by picture.

    Attributes:
        results: COCO's result list that was evaluated.
        figures: ``FIGURES`` in 0..1; -1, as COCO prints it, where no person of that size is labelled.
        image: (D,) place of each evaluated result's picture among the rising ids.
        category: (D,) place of its category.
        hit: (T, D) the result found a person that counts.
        ignored: (T, D) it found a crowd or a person without labelled joints, so counts neither way.
        people: (C, I) people that count.
        pairs: (M, 2) place in the result list and in the annotation list, of the hits at the lowest threshold.
    """

    results: Rows
    figures: dict[str, float]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    people: NDArray[np.int64]
    pairs: NDArray[np.int64]

    def weighted(self, weights: ArrayLike) -> dict[str, float]:
        """AP, AP50, AP75, AR, AR50 and AR75 over people of all sizes; NaN where no person counts.

        ``weights`` (I,) say how often each picture counts.
        """
        drawn = np.asarray(weights)
        curves = [curve for c in range(len(self.people)) if (curve := self._curves(c, drawn)) is not None]
        if not curves:
            return dict.fromkeys(("AP", "AP50", "AP75", "AR", "AR50", "AR75"), float("nan"))
        figures = {}
        # Precision (C, T, 101) and recall (C, T).
        for name, values in (("AP", np.stack([c[0] for c in curves])), ("AR", np.stack([c[1] for c in curves]))):
            figures[name] = float(values.mean())
            figures[f"{name}50"], figures[f"{name}75"] = float(values[:, 0].mean()), float(values[:, 5].mean())
        return figures

    def _curves(
        self, category: int, drawn: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Precision (T, 101) at ``RECALLS`` and final recall (T,), or None where no person counts."""
        people = int(drawn @ self.people[category])
        if people == 0:
            return None
        own = self.category == category
        weight = drawn[self.image[own]]
        hit, ignored = self.hit[:, own], self.ignored[:, own]
        right = np.cumsum(weight * hit, axis=1).astype(np.float64)
        wrong = np.cumsum(weight * ~(hit | ignored), axis=1)
        precision, recall = np.zeros((len(THRESHOLDS), len(RECALLS))), np.zeros(len(THRESHOLDS))
        if right.shape[1] == 0:
            return precision, recall
        exact = right / (right + wrong + np.spacing(1))
        falling = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
        for t, reached in enumerate(right / people):
            places = np.searchsorted(reached, RECALLS, side="left")
            inside = places < len(reached)
            precision[t, inside] = falling[t, places[inside]]
            recall[t] = reached[-1]
        return precision, recall

    def intervals(self, samples: int, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Intervals of the figures over people of all sizes, if the set had been drawn again from its own pictures.

        Empty for fewer than two pictures, or where nobody counts.

        Args:
            samples: how often to draw as many pictures, with replacement; what one picture holds stays together.
            seed: one seed gives one interval.
        """
        count = self.people.shape[1]
        if count < 2 or not self.people.any():
            return {}
        rng = np.random.default_rng(seed)
        drawn = [self.weighted(np.bincount(rng.integers(0, count, count), minlength=count)) for _ in range(samples)]
        return {key: percentile_interval([figures[key] for figures in drawn]) for key in FIGURES if key in drawn[0]}


def evaluate_people(annotations: Mapping[str, Rows], results: Rows, sigmas: Sequence[float]) -> PeopleEvaluation:
    """Figures, and who found whom among people of all sizes; at most 20 results per picture count.

    Args:
        annotations: "images", "categories" and "annotations" in COCO's form, complete; annotations are numbered from
            1, since COCO's tools take the number 0 for "no match".
        results: "image_id", "category_id", "keypoints" (3 K numbers) and "score" of each person, in any order; among
            equal scores of one picture the first is better. Where a result has a "bbox", COCO takes its area for
            AP-M and AP-L, else that of the box around all joints.
        sigmas: K, as in ``Skeleton.sigmas``.

    Raises:
        ImportError: faster-coco-eval is not installed.
    """
    # The evaluator counts in 64 bits; places of rising ids keep the order that it takes pictures in.
    images = {number: place for place, number in enumerate(sorted(row["id"] for row in annotations["images"]), 1)}
    kinds = {number: place for place, number in enumerate(sorted(row["id"] for row in annotations["categories"]), 1)}
    labels, found = (
        [{**row, "image_id": images[row["image_id"]], "category_id": kinds[row["category_id"]]} for row in rows]
        for rows in (annotations["annotations"], results)
    )
    names = [{**row, "id": kinds[row["id"]]} for row in annotations["categories"]]
    figures, similarities = _run_evaluator(labels, found, names, len(images), sigmas)
    crowd = np.array([bool(person["iscrowd"]) for person in labels], dtype=bool)
    ignored = crowd | np.array([person["num_keypoints"] == 0 for person in labels], dtype=bool)
    people = np.zeros((len(kinds), len(images)), dtype=np.int64)
    places: list[int] = []
    tables, pairs = [np.zeros((len(THRESHOLDS), 0), np.int64)], []
    persons_of, results_of = _by_group(labels), _by_group(found)
    for category, image in sorted(persons_of.keys() | results_of.keys()):
        persons = np.array(persons_of[category, image], dtype=np.int64)
        own = results_of[category, image]
        best = np.argsort([-found[d]["score"] for d in own], kind="stable")[:MAX_PEOPLE]
        dets = [own[d] for d in best]
        people[category - 1, image - 1] = (~ignored[persons]).sum()
        chosen = np.full((len(THRESHOLDS), len(dets)), -1)
        if len(persons) and dets:
            chosen = _match(np.asarray(similarities[image, category]), ignored[persons], crowd[persons])
        places += dets
        # 1 a hit, 2 ignored, 0 a false alarm; the last entry stands for "nobody" (-1).
        tables.append(np.append(1 + ignored[persons], 0)[chosen])
        pairs += [(d, persons[p]) for d, p in zip(dets, chosen[0], strict=True) if p >= 0 and not ignored[persons[p]]]
    order = np.argsort([-found[d]["score"] for d in places], kind="stable")
    outcome = np.concatenate(tables, axis=1)[:, order]
    return PeopleEvaluation(
        results=results,
        figures=figures,
        image=np.array([found[d]["image_id"] - 1 for d in places], dtype=np.int64)[order],
        category=np.array([found[d]["category_id"] - 1 for d in places], dtype=np.int64)[order],
        hit=outcome == 1,
        ignored=outcome == 2,
        people=people,
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )


def _run_evaluator(
    labels: list[dict[str, Any]],
    found: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    num_images: int,
    sigmas: Sequence[float],
) -> tuple[dict[str, float], Mapping[tuple[int, int], Any]]:
    """The ten figures, and the similarity (D, P) of results and people by (picture, category), best scored first."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError("COCO's figures need faster-coco-eval: pip install 'hrformer[train]'") from error
    if not labels:
        return dict.fromkeys(FIGURES, -1.0), {}
    people = []
    for number, result in enumerate(found, start=1):
        box = result.get("bbox", ())
        box = box if len(box) else _box_around(np.asarray(result["keypoints"], dtype=np.float64))
        people.append({**result, "id": number, "bbox": box, "area": box[2] * box[3]})
    shared = {"images": [{"id": place} for place in range(1, num_images + 1)], "categories": categories}
    # The evaluator writes into annotations, hence copies.
    truth, answers = {**shared, "annotations": [dict(row) for row in labels]}, {**shared, "annotations": people}
    evaluation = COCOeval_faster(
        COCO(truth), COCO(answers), "keypoints", print_function=_log.debug, kpt_oks_sigmas=list(sigmas)
    )
    evaluation.run()
    return dict(zip(FIGURES, map(float, evaluation.all_stats), strict=True)), evaluation.ious


def _box_around(keypoints: NDArray[np.float64]) -> list[float]:
    """(x, y, width, height) of 3 K numbers (x, y, score), all joints counted as COCO's tools do."""
    corner = keypoints.reshape(-1, 3)[:, :2].min(axis=0)
    size = keypoints.reshape(-1, 3)[:, :2].max(axis=0) - corner
    return [*corner.tolist(), *size.tolist()]


def _by_group(rows: Rows) -> defaultdict[tuple[int, int], list[int]]:
    """Places in the list by (category id, image id)."""
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


def joint_table(
    labels: Rows, results: Rows, pairs: NDArray[np.int64], sigmas: Sequence[float], names: Sequence[str]
) -> list[dict[str, Any]]:
    """How well each joint was found, over all labelled joints of people that count.

    People are paired with results at OKS 0.5; the joints of people whom no result found count as not found.

    Args:
        labels: COCO's annotations.
        results: COCO's result list.
        pairs: of :class:`PeopleEvaluation`.
        sigmas: K, as in ``Skeleton.sigmas``.
        names: K joint names.

    Returns:
        For each joint its "name"; "labelled", how many there are; "found", the share with a similarity
        ``exp(-d^2 / (2 (2 sigma)^2 area))`` of at least 0.5; "similarity", the mean of it, 0 where nobody was
        found; "distance", the mean d of the people found, as a share of the square root of their area. None
        where nothing is labelled or found.
    """

    def joints(rows: Rows) -> NDArray[np.float64]:
        return np.array([row["keypoints"] for row in rows], dtype=np.float64).reshape(-1, len(sigmas), 3)

    counting = [person for person in labels if not person["iscrowd"] and person["num_keypoints"]]
    total = (joints(counting)[..., 2] > 0).sum(axis=0)
    paired = [labels[p] for p in pairs[:, 1]]
    truth, points = joints(paired), joints([results[d] for d in pairs[:, 0]])
    area = np.array([person["area"] for person in paired], dtype=np.float64)[:, None] + np.spacing(1)
    squared = ((points[..., :2] - truth[..., :2]) ** 2).sum(axis=2)
    similarity = np.exp(-squared / (2 * (2 * np.asarray(sigmas)) ** 2 * area))
    shown, distance = truth[..., 2] > 0, np.sqrt(squared / area)
    table = []
    for j, name in enumerate(names):
        row: dict[str, Any] = {"name": name, "labelled": int(total[j]), "found": None, "similarity": None}
        if total[j]:
            row["found"] = float((similarity[shown[:, j], j] >= FOUND_SIMILARITY).sum() / total[j])
            row["similarity"] = float(similarity[shown[:, j], j].sum() / total[j])
        row["distance"] = float(distance[shown[:, j], j].mean()) if shown[:, j].any() else None
        table.append(row)
    return table
