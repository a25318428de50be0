"""Whether the joints that change places in a mirror image are the right ones: by their names, and by where they lie.

N people, K joints.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hrformer.data.inspection.report import Finding, Places
from hrformer.geometry.skeleton_inference import infer_flip_pairs
from hrformer.geometry.skeletons import Skeleton

PEOPLE_NEEDED = 40
"""Fewer people than this with both joints labelled say nothing about a distance."""

PEOPLE_USED = 1000
"""More people than this add nothing but time; fewer are enough where there are many joints."""

_JOINTS_SEARCHED = 40
"""With more joints than this no better pairs are searched for: there are too many."""

TOLERANCE = 0.3
"""Largest plausible logarithm of the ratio between a distance and its mirror image, median over the people.

With the right pairs it is 0.05 on the 5000 people of LSPET and 0.13 on 50 of them; with wrong ones 0.5 to 1.4.
"""

AGREEMENT = 0.35
"""Pairs whose left joint lies on the side of the other pairs' left joints in fewer people than this are exchanged.

With the right names the share is at least 0.71 for any two pairs of LSPET or COCO.
"""


def flip_findings(skeleton: Skeleton, keypoints: NDArray[np.float64], split: str) -> Iterator[Finding]:
    """Wrong, missing and doubtful pairs.

    Args:
        skeleton: joints and pairs.
        keypoints: (N, K, 3) x, y and flag in picture pixels; joints with flag 0 do not count.
        split: part of the set.
    """
    if skeleton.num_keypoints == 1:
        return
    if not skeleton.flip_pairs:
        what = "no joints change places in a mirror image: in mirrored people left and right would be learnt wrong"
        fix = "list the pairs in data.flip_pairs, or train without mirror images: --augment.flip 0"
        if _partners_by_name(skeleton):
            yield from _name_findings(skeleton, split)
        else:
            yield Finding(severity="warning", kind="no-flip-pairs", split=split, what=what, fix=fix)
        return
    wrong_names = list(_name_findings(skeleton, split))
    yield from wrong_names
    people = min(PEOPLE_USED, max(5_000_000 // skeleton.num_keypoints**2, 2 * PEOPLE_NEEDED))
    points = keypoints[:: max(1, len(keypoints) // people)]
    xy = np.where(points[..., 2:] > 0, points[..., :2], np.nan)
    if not wrong_names:
        yield from _shape_findings(skeleton, xy, split)
    yield from _pair_findings(skeleton, xy, split)


def _name_findings(skeleton: Skeleton, split: str) -> Iterator[Finding]:
    names, wanted = skeleton.keypoints, _partners_by_name(skeleton)
    given = {a: b for pair in skeleton.flip_pairs for a, b in (pair, pair[::-1])}
    wrong = Places()
    for a, b in sorted(wanted.items()):
        if given.get(a) != b:
            has = f"paired with {names[given[a]]}" if a in given else "not paired"
            wrong.add(f"{names[a]} ({has}, should be with {names[b]})")
    if wanted:
        for a, b in skeleton.flip_pairs:
            if a not in wanted and b not in wanted:
                wrong.add(f"{names[a]} and {names[b]} (paired, but their names know no left and right)")
    if wrong:
        what = "flip pairs do not agree with the names of the joints"
        fix = "leave data.flip_pairs empty, so that the names decide, or correct these pairs in it"
        yield wrong.finding("error", "flip-pair-names", split, what, fix)


def _partners_by_name(skeleton: Skeleton) -> dict[int, int]:
    """Joint -> joint of the same name on the other side, for joints whose names have sides."""
    return {a: b for pair in infer_flip_pairs(skeleton.keypoints) for a, b in (pair, pair[::-1])}


def _shape_findings(skeleton: Skeleton, xy: NDArray[np.float64], split: str) -> Iterator[Finding]:
    """Pairs under which mirrored people have other limb lengths."""
    distances = _log_distances(xy)
    order = _order(skeleton.num_keypoints, skeleton.flip_pairs)
    differences = _differences(distances, order)
    if not (differences > TOLERANCE).any():
        return
    names = skeleton.keypoints
    per_joint = differences.mean(axis=1)
    suspects = [joint for joint in np.argsort(-per_joint) if per_joint[joint] > 0.5 * per_joint.max()]
    seen: set[int] = set()
    places = Places()
    for joint in suspects:
        if joint not in seen:
            partner = int(order[joint])
            seen |= {int(joint), partner}
            places.add(names[joint] if partner == joint else f"{names[joint]} and {names[partner]}")
    what = (
        "joints that change places do not correspond: a mirrored person has other limb lengths, by a factor of "
        f"{np.exp(differences.max()):.1f}"
    )
    better = _better_pairs(distances, skeleton)
    if better:
        pairs = " ".join(names[joint] for pair in better for joint in pair)
        fix = f"these pairs fit: --data.flip-pairs {pairs}"
        yield places.finding("error", "flip-pair-shape", split, what, fix)
    else:
        fix = (
            "check data.flip_pairs and the order of the joints' names against the file; if people always take the same "
            "lopsided pose in this set, all is well"
        )
        yield places.finding("warning", "flip-pair-shape", split, what, fix)


def _log_distances(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K, K) logarithms of the distances, NaN where a joint is not labelled."""
    return np.log(np.maximum(np.linalg.norm(xy[:, :, None] - xy[:, None], axis=-1), 1e-3))


def _order(count: int, pairs: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    order = np.arange(count)
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


def _differences(distances: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K, K) size of the median of log distance minus its mirror image's; 0 where too few people have the joints."""
    ratios = distances - distances[:, order][:, :, order]
    enough = (~np.isnan(ratios)).sum(axis=0) >= PEOPLE_NEEDED
    # Columns without any person would warn; they are left out below anyway.
    medians = np.nanmedian(np.where(enough, ratios, 0), axis=0) if len(ratios) else np.zeros(ratios.shape[1:])
    np.fill_diagonal(medians, 0)
    return np.abs(medians)


def _better_pairs(distances: NDArray[np.float64], skeleton: Skeleton) -> tuple[tuple[int, int], ...]:
    """Pairs that fit, if one change of the given ones is enough: two pairs mixed anew, or one taken apart or added."""
    pairs = skeleton.flip_pairs
    if skeleton.num_keypoints > _JOINTS_SEARCHED:
        return ()
    paired = {joint for pair in pairs for joint in pair}
    single = [joint for joint in range(skeleton.num_keypoints) if joint not in paired]
    candidates = []
    for first, second in combinations(pairs, 2):
        others = tuple(pair for pair in pairs if pair not in (first, second))
        for a, b in (second, second[::-1]):
            candidates.append((*others, (first[0], a), (first[1], b)))
    if len(pairs) > 1:
        candidates += [tuple(pair for pair in pairs if pair != removed) for removed in pairs]
    candidates += [(*pairs, added) for added in combinations(single, 2)]
    few = distances[: 5 * PEOPLE_NEEDED]
    worst = [float(_differences(few, _order(skeleton.num_keypoints, candidate)).max()) for candidate in candidates]
    for number in np.argsort(worst)[:3]:
        if _differences(distances, _order(skeleton.num_keypoints, candidates[number])).max() < TOLERANCE / 2:
            return tuple(sorted(candidates[number]))
    return ()


def _pair_findings(skeleton: Skeleton, xy: NDArray[np.float64], split: str) -> Iterator[Finding]:
    """Pairs whose joints coincide, or have their sides exchanged."""
    names, pairs = skeleton.keypoints, skeleton.flip_pairs
    if not len(xy):
        return
    vectors = np.stack([xy[:, a] - xy[:, b] for a, b in pairs], axis=1)
    lengths = np.linalg.norm(vectors, axis=2)
    spans = np.where(np.isnan(xy), -np.inf, xy).max(axis=1) - np.where(np.isnan(xy), np.inf, xy).min(axis=1)
    labelled = ~np.isnan(lengths)
    together = (lengths < 0.005 * np.maximum(spans.max(axis=1), 1)[:, None]) & labelled
    enough = labelled.sum(axis=0) >= PEOPLE_NEEDED
    same = Places(
        f"{names[a]} and {names[b]}"
        for (a, b), count, all_, usable in zip(pairs, together.sum(axis=0), labelled.sum(axis=0), enough, strict=True)
        if usable and count > 0.9 * all_
    )
    if same:
        what = "two joints lie on one spot in nearly all people"
        fix = "label them apart, or drop one of them; a joint in the middle of the body needs no partner"
        yield same.finding("warning", "joints-coincide", split, what, fix)
    yield from _exchanged(skeleton, vectors / np.maximum(lengths, 1e-6)[:, :, None], split)


def _exchanged(skeleton: Skeleton, units: NDArray[np.float64], split: str) -> Iterator[Finding]:
    """Pairs whose left joint lies where the others have their right ones.

    ``units`` (N, P, 2) point from the second joint of each pair to the first.
    """
    sides = infer_flip_pairs(skeleton.keypoints)
    # Pairs that names know, all from right to left.
    known = [number for number, pair in enumerate(skeleton.flip_pairs) if pair in sides or pair[::-1] in sides]
    signs = np.array([1.0 if skeleton.flip_pairs[number] in sides else -1.0 for number in known])
    arrows = units[:, known] * signs[:, None]
    places = Places()
    for row, number in enumerate(known):
        rest = np.nansum(np.delete(arrows, row, axis=1), axis=1)
        agreement = (arrows[:, row] * rest).sum(axis=1)
        agreement = agreement[~np.isnan(agreement) & rest.any(axis=1)]
        if len(agreement) >= PEOPLE_NEEDED and (agreement > 0).mean() < AGREEMENT:
            a, b = skeleton.flip_pairs[number]
            places.add(f"{skeleton.keypoints[a]} and {skeleton.keypoints[b]}")
    if places:
        what = "left and right seem to be exchanged: in most people these joints lie on the other side than the rest"
        fix = "check the order of the joints' names against the order of the numbers in the file"
        yield places.finding("warning", "sides-exchanged", split, what, fix)
