"""Whether the joints that change places in a mirror image are the right ones: by their names, and by where they lie.

N people, K joints, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hrformer.data.inspection.report import Finding, finding
from hrformer.geometry.skeleton_inference import infer_flip_pairs
from hrformer.geometry.skeletons import Skeleton

PEOPLE_NEEDED = 40  # fewer people than this with both joints labelled say nothing about a distance
PEOPLE_USED = 1000  # more people than this add nothing but time; fewer are enough where there are many joints
_JOINTS_SEARCHED = 40  # with more joints than this no better pairs are searched for: there are too many
TOLERANCE = 0.3
"""Largest plausible logarithm of the ratio between a distance and its mirror image, median over the people.

With the right pairs it is 0.05 on the 5000 people of LSPET and 0.13 on 50 of them; with wrong ones 0.5 to 1.4.
"""

AGREEMENT = 0.35
"""Pairs whose left joint lies on the side of the other pairs' left joints in fewer people than this are exchanged.

With the right names the share is at least 0.71 for any two pairs of LSPET or COCO.
"""

Pairs = Sequence[tuple[int, int]]


def flip_findings(skeleton: Skeleton, keypoints: NDArray[np.float64]) -> Iterator[Finding]:
    """Wrong, missing and doubtful pairs; ``keypoints`` (N, K, 3) are x, y and flag in picture pixels."""
    if skeleton.num_keypoints == 1:
        return
    if wrong_names := _against_names(skeleton):
        what = "flip pairs do not agree with the names of the joints"
        fix = "leave data.flip_pairs empty, so that the names decide, or correct these pairs in it"
        yield finding("error", "flip-pair-names", what, fix, wrong_names)
    if not skeleton.flip_pairs:
        if not wrong_names:
            what = "no joints change places in a mirror image: in mirrored people left and right would be learnt wrong"
            fix = "list the pairs in data.flip_pairs, or train without mirror images: --augment.flip 0"
            yield finding("warning", "no-flip-pairs", what, fix)
        return
    people = min(PEOPLE_USED, max(5_000_000 // skeleton.num_keypoints**2, 2 * PEOPLE_NEEDED))
    points = keypoints[:: max(1, len(keypoints) // people)]
    xy = np.where(points[..., 2:] > 0, points[..., :2], np.nan)
    if not wrong_names:
        yield from _shape_findings(skeleton, xy)
    if len(xy):
        yield from _pair_findings(skeleton, xy)


def _partners(pairs: Pairs) -> dict[int, int]:
    """Joint -> the one it changes places with."""
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


def _against_names(skeleton: Skeleton) -> list[str]:
    """What is wrong with joints whose names have sides, and with other pairs if there are such joints."""
    names, given = skeleton.keypoints, _partners(skeleton.flip_pairs)
    wanted = _partners(infer_flip_pairs(names))
    wrong = []
    for a, b in sorted(wanted.items()):
        if given.get(a) != b:
            has = f"paired with {names[given[a]]}" if a in given else "not paired"
            wrong.append(f"{names[a]} ({has}, should be with {names[b]})")
    for a, b in skeleton.flip_pairs if wanted else ():
        if a not in wanted and b not in wanted:
            wrong.append(f"{names[a]} and {names[b]} (paired, but their names know no left and right)")
    return wrong


def _shape_findings(skeleton: Skeleton, xy: NDArray[np.float64]) -> Iterator[Finding]:
    """Pairs under which mirrored people have other limb lengths."""
    # (N, K, K), NaN where a joint is not labelled.
    distances = np.log(np.maximum(np.linalg.norm(xy[:, :, None] - xy[:, None], axis=-1), 1e-3))
    differences = _differences(distances, skeleton.flip_pairs)
    if not (differences > TOLERANCE).any():
        return
    names, partners = skeleton.keypoints, _partners(skeleton.flip_pairs)
    per_joint = differences.mean(axis=1)
    places: dict[frozenset[int], str] = {}
    for joint in np.argsort(-per_joint).tolist():
        partner = partners.get(joint, joint)
        if per_joint[joint] > 0.5 * per_joint.max():
            name = names[joint] if partner == joint else f"{names[joint]} and {names[partner]}"
            places.setdefault(frozenset((joint, partner)), name)
    what = (
        "joints that change places do not correspond: a mirrored person has other limb lengths, by a factor of "
        f"{np.exp(differences.max()):.1f}"
    )
    fix = (
        "check data.flip_pairs and the order of the joints' names against the file; if people always take the same "
        "lopsided pose in this set, all is well"
    )
    if better := _better_pairs(distances, skeleton):
        fix = f"these pairs fit: --data.flip-pairs {' '.join(names[joint] for pair in better for joint in pair)}"
    yield finding("error" if better else "warning", "flip-pair-shape", what, fix, list(places.values()))


def _differences(distances: NDArray[np.float64], pairs: Pairs) -> NDArray[np.float64]:
    """(K, K) size of the median of log distance minus its mirror image's; 0 where too few people have the joints."""
    count, partners = distances.shape[1], _partners(pairs)
    order = [partners.get(joint, joint) for joint in range(count)]
    if not len(distances):
        return np.zeros((count, count))
    ratios = distances - distances[:, order][:, :, order]
    enough = (~np.isnan(ratios)).sum(axis=0) >= PEOPLE_NEEDED
    # Columns without any person would warn.
    medians = np.nanmedian(np.where(enough, ratios, 0), axis=0)
    np.fill_diagonal(medians, 0)
    return np.abs(medians)


def _better_pairs(distances: NDArray[np.float64], skeleton: Skeleton) -> Pairs:
    """Pairs that fit, if one change of the given ones is enough: two pairs mixed anew, or one taken apart or added."""
    pairs = skeleton.flip_pairs
    if skeleton.num_keypoints > _JOINTS_SEARCHED:
        return ()
    candidates = []
    for first, second in combinations(pairs, 2):
        others = tuple(pair for pair in pairs if pair not in (first, second))
        candidates += [(*others, (first[0], a), (first[1], b)) for a, b in (second, second[::-1])]
    if len(pairs) > 1:
        candidates += [tuple(pair for pair in pairs if pair != removed) for removed in pairs]
    single = sorted({*range(skeleton.num_keypoints)} - {*_partners(pairs)})
    candidates += [(*pairs, added) for added in combinations(single, 2)]
    few = distances[: 5 * PEOPLE_NEEDED]
    worst = [float(_differences(few, candidate).max()) for candidate in candidates]
    for number in np.argsort(worst)[:3]:
        if _differences(distances, candidates[number]).max() < TOLERANCE / 2:
            return sorted(candidates[number])
    return ()


def _pair_findings(skeleton: Skeleton, xy: NDArray[np.float64]) -> Iterator[Finding]:
    """Pairs whose joints coincide, or have their sides exchanged."""
    names, pairs = skeleton.keypoints, skeleton.flip_pairs
    vectors = np.stack([xy[:, a] - xy[:, b] for a, b in pairs], axis=1)
    lengths = np.linalg.norm(vectors, axis=2)
    spans = np.where(np.isnan(xy), -np.inf, xy).max(axis=1) - np.where(np.isnan(xy), np.inf, xy).min(axis=1)
    labelled = (~np.isnan(lengths)).sum(axis=0)
    together = (lengths < 0.005 * np.maximum(spans.max(axis=1), 1)[:, None]).sum(axis=0)
    on_one_spot = (labelled >= PEOPLE_NEEDED) & (together > 0.9 * labelled)
    if same := [f"{names[a]} and {names[b]}" for (a, b), spot in zip(pairs, on_one_spot, strict=True) if spot]:
        what = "two joints lie on one spot in nearly all people"
        fix = "label them apart, or drop one of them; a joint in the middle of the body needs no partner"
        yield finding("warning", "joints-coincide", what, fix, same)
    units = vectors / np.maximum(lengths, 1e-6)[:, :, None]
    if exchanged := [f"{names[a]} and {names[b]}" for a, b in _exchanged(skeleton, units)]:
        what = "left and right seem to be exchanged: in most people these joints lie on the other side than the rest"
        fix = "check the order of the joints' names against the order of the numbers in the file"
        yield finding("warning", "sides-exchanged", what, fix, exchanged)


def _exchanged(skeleton: Skeleton, units: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Pairs whose left joint lies where the others have their right ones.

    ``units`` (N, P, 2) point from the second joint of each pair to the first.
    """
    sides = infer_flip_pairs(skeleton.keypoints)
    # Pairs that names know, all from right to left.
    known = [number for number, pair in enumerate(skeleton.flip_pairs) if pair in sides or pair[::-1] in sides]
    signs = np.array([1.0 if skeleton.flip_pairs[number] in sides else -1.0 for number in known])
    arrows = units[:, known] * signs[:, None]
    for row, number in enumerate(known):
        rest = np.nansum(np.delete(arrows, row, axis=1), axis=1)
        agreement = (arrows[:, row] * rest).sum(axis=1)
        agreement = agreement[~np.isnan(agreement) & rest.any(axis=1)]
        if len(agreement) >= PEOPLE_NEEDED and (agreement > 0).mean() < AGREEMENT:
            yield skeleton.flip_pairs[number]
