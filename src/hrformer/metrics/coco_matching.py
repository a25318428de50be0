"""Which labelled person each result found, by COCO's rules: for tables per joint and for resampling.

The figures of :mod:`hrformer.metrics.coco_keypoints` come from faster-coco-eval, which does not tell who was matched
in which picture at which threshold; the rules of pycocotools are repeated here for that. Over all pictures
:meth:`Matches.figures` gives the same numbers.

K joints, D results and P labelled people, T = 10 OKS thresholds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_PEOPLE = 20
"""Results per picture and category that COCO evaluates, the best scored ones."""

FOUND_SIMILARITY = 0.5
"""A joint of at least this similarity counts as found in the table per joint."""

Annotations = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Outcome of the matching, results in COCO's order: by falling score, then by picture.

    Attributes:
        image_ids: (I,) the evaluated pictures, rising; of type object where 64 bits do not hold them.
        image: (D,) place of each evaluated result's picture in ``image_ids``.
        category: (D,) category id of each result.
        hit: (T, D) the result found a person that counts.
        ignored: (T, D) it found a crowd or a person without labelled joints, so counts neither way.
        people: by category id, (I,) people that count in each picture.
        pairs: (M, 2) place in the result list and in the annotation list, of the hits at the lowest threshold.
    """

    image_ids: NDArray[Any]
    image: NDArray[np.int64]
    category: NDArray[Any]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    people: dict[int, NDArray[np.int64]]
    pairs: NDArray[np.int64]

    def figures(self, weights: ArrayLike | None = None) -> dict[str, float]:
        """AP, AP50, AP75, AR, AR50 and AR75 over people of all sizes.

        Args:
            weights: (I,) how often each picture counts, integers; once if left out.

        Returns:
            Values in 0..1; NaN where no person counts.
        """
        drawn = np.ones(len(self.image_ids), np.int64) if weights is None else np.asarray(weights)
        curves = [curve for category in self.people if (curve := self._curves(category, drawn)) is not None]
        if not curves:
            return dict.fromkeys(("AP", "AP50", "AP75", "AR", "AR50", "AR75"), float("nan"))
        precision = np.stack([curve[0] for curve in curves])  # (categories, T, 101)
        recall = np.stack([curve[1] for curve in curves])  # (categories, T)
        return {
            "AP": float(precision.mean()),
            "AP50": float(precision[:, 0].mean()),
            "AP75": float(precision[:, 5].mean()),
            "AR": float(recall.mean()),
            "AR50": float(recall[:, 0].mean()),
            "AR75": float(recall[:, 5].mean()),
        }

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


def match_people(annotations: Annotations, results: Sequence[Mapping[str, Any]], sigmas: Sequence[float]) -> Matches:
    """Assign results to labelled people as pycocotools does, for people of all sizes.

    Args:
        annotations: from :func:`hrformer.metrics.coco_keypoints.read_annotations`.
        results: COCO's result list.
        sigmas: K, as in ``Skeleton.sigmas``.
    """
    image_ids = integers([image["id"] for image in annotations["images"]])
    labelled, found = _by_group(annotations["annotations"]), _by_group(results)
    categories = sorted({category for category, _ in labelled})
    people = {category: np.zeros(len(image_ids), dtype=np.int64) for category in categories}
    places, owners, tables, pairs = [], [], [], []
    for category in categories:
        for i, image in enumerate(image_ids.tolist()):
            persons = _counted_first(labelled.get((category, image), []), annotations["annotations"])
            counts = [not _is_ignored(annotations["annotations"][p]) for p in persons]
            people[category][i] = sum(counts)
            scores = np.array([-results[d]["score"] for d in found.get((category, image), [])])
            best = np.argsort(scores, kind="stable")[:MAX_PEOPLE]
            dets = [found[category, image][d] for d in best]
            chosen = _match_image([results[d] for d in dets], [annotations["annotations"][p] for p in persons], sigmas)
            places += dets
            owners += [i] * len(dets)
            # 1 a hit, 2 ignored, 0 a false alarm; the last entry stands for "nobody" (-1).
            tables.append(np.array([1 if counted else 2 for counted in counts] + [0])[chosen])
            pairs += [(d, persons[p]) for d, p in zip(dets, chosen[0], strict=True) if p >= 0 and counts[p]]
    outcome = np.concatenate([np.zeros((len(THRESHOLDS), 0), np.int64), *tables], axis=1)
    order = np.argsort([-results[d]["score"] for d in places], kind="stable")
    return Matches(
        image_ids=image_ids,
        image=np.array(owners, dtype=np.int64)[order],
        category=integers([results[d]["category_id"] for d in places])[order],
        hit=outcome[:, order] == 1,
        ignored=outcome[:, order] == 2,
        people=people,
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )


def joint_table(
    annotations: Annotations,
    results: Sequence[Mapping[str, Any]],
    matches: Matches,
    sigmas: Sequence[float],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """How well each joint was found, over all labelled joints of people that count.

    People are paired with results at OKS 0.5; the joints of people whom no result found count as not found.

    Args:
        annotations: from :func:`hrformer.metrics.coco_keypoints.read_annotations`.
        results: COCO's result list.
        matches: of both.
        sigmas: K, as in ``Skeleton.sigmas``.
        names: K joint names.

    Returns:
        For each joint its "name"; "labelled", how many there are; "found", the share with a similarity
        ``exp(-d^2 / (2 (2 sigma)^2 area))`` of at least 0.5; "similarity", the mean of it, 0 where nobody was
        found; "distance", the mean d of the people found, as a share of the square root of their area. None
        where nothing is labelled or found.
    """
    people = annotations["annotations"]
    labels = np.array([p["keypoints"] for p in people if not _is_ignored(p)], np.float64).reshape(-1, len(sigmas), 3)
    total = (labels[..., 2] > 0).sum(axis=0)
    truth = _joints([people[p] for p in matches.pairs[:, 1]], len(sigmas))
    points = _joints([results[d] for d in matches.pairs[:, 0]], len(sigmas))
    area = np.array([people[p]["area"] for p in matches.pairs[:, 1]], dtype=np.float64)[:, None]
    squared = ((points[..., :2] - truth[..., :2]) ** 2).sum(axis=2)
    similarity = np.exp(-squared / (2 * (2 * np.asarray(sigmas)) ** 2 * (area + np.spacing(1))))
    shown = truth[..., 2] > 0
    distance = np.sqrt(squared / (area + np.spacing(1)))
    table = []
    for j, name in enumerate(names):
        row: dict[str, Any] = {"name": name, "labelled": int(total[j]), "found": None, "similarity": None}
        if total[j]:
            row["found"] = float((similarity[shown[:, j], j] >= FOUND_SIMILARITY).sum() / total[j])
            row["similarity"] = float(similarity[shown[:, j], j].sum() / total[j])
        row["distance"] = float(distance[shown[:, j], j].mean()) if shown[:, j].any() else None
        table.append(row)
    return table


def integers(values: Sequence[int]) -> NDArray[Any]:
    """(N,) int64, or Python's own integers where 64 bits do not hold them."""
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return np.array(values, dtype=object)


def _by_group(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[int]]:
    """Places in the list by (category id, image id)."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row["category_id"], row["image_id"]].append(place)
    return dict(groups)


def _is_ignored(person: Mapping[str, Any]) -> bool:
    return bool(person["iscrowd"]) or person["num_keypoints"] == 0


def _counted_first(places: list[int], people: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted(places, key=lambda place: _is_ignored(people[place]))


def _joints(rows: Sequence[Mapping[str, Any]], num_keypoints: int) -> NDArray[np.float64]:
    """(N, K, 3) from COCO's flat lists."""
    return np.array([row["keypoints"] for row in rows], dtype=np.float64).reshape(-1, num_keypoints, 3)


def _match_image(
    found: Sequence[Mapping[str, Any]], people: Sequence[Mapping[str, Any]], sigmas: Sequence[float]
) -> NDArray[np.int64]:
    """Place of the person whom each result takes, (T, D), -1 for nobody; results by falling score, ignored last."""
    chosen = np.full((len(THRESHOLDS), len(found)), -1, dtype=np.int64)
    if not found or not people:
        return chosen
    points = _joints(found, len(sigmas))
    similarity = np.stack([_coco_oks(points, person, sigmas) for person in people], axis=1).tolist()
    ignored, crowd = [_is_ignored(person) for person in people], [bool(person["iscrowd"]) for person in people]
    for t, threshold in enumerate(THRESHOLDS.tolist()):
        taken: set[int] = set()
        for d, row in enumerate(similarity):
            best, reach = -1, min(threshold, 1 - 1e-10)
            for p, value in enumerate(row):
                if value < reach or (p in taken and not crowd[p]):
                    continue
                if best >= 0 and ignored[p] and not ignored[best]:
                    break
                best, reach = p, value
            if best >= 0:
                taken.add(best)
                chosen[t, d] = best
    return chosen


def _coco_oks(points: NDArray[np.float64], person: Mapping[str, Any], sigmas: Sequence[float]) -> NDArray[np.float64]:
    """COCO's similarity of D results (D, K, 3) to one labelled person.

    Over the labelled joints; for a person without any, the distances to the person's box at three times its size.
    """
    truth = _joints([person], len(sigmas))[0]
    shown = truth[:, 2] > 0
    if shown.any():
        offset = points[..., :2] - truth[:, :2]
    else:
        corner, size = np.array(person["bbox"][:2], np.float64), np.array(person["bbox"][2:], np.float64)
        low, high = corner - size, corner + 2 * size
        offset = np.maximum(0, low - points[..., :2]) + np.maximum(0, points[..., :2] - high)
        shown = np.ones_like(shown)
    variance = (np.asarray(sigmas) * 2) ** 2
    error = (offset[..., 0] ** 2 + offset[..., 1] ** 2) / variance / (person["area"] + np.spacing(1)) / 2
    return np.exp(-error[:, shown]).mean(axis=1)
