"""What a keypoint file says about its joints, and what their names tell where it says nothing.

Nothing is guessed in silence: each guess is logged as a warning, with the setting that replaces it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from hrformer.geometry.skeletons import COCO17, LSPET14, Skeleton

DEFAULT_SIGMA = 0.079
"""Sigma of joints that nobody measured: that of shoulders, which CrowdPose gives to neck and head as well."""

_KNOWN = (COCO17, LSPET14)
# By part of the body: COCO's; neck and top of the head as CrowdPose has them.
_SIGMAS = dict.fromkeys(("neck", "head", "head_top", "top_head"), DEFAULT_SIGMA) | {
    name.rpartition("_")[2]: sigma for name, sigma in zip(COCO17.keypoints, COCO17.sigmas, strict=True)
}
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_LOWER_BODY = {"hip", "knee", "ankle"}
_log = logging.getLogger(__name__)

Pairs = tuple[tuple[int, int], ...]
SkeletonLike: TypeAlias = "Skeleton | Mapping[str, Any] | str | Path"


def read_skeleton(value: SkeletonLike, num_keypoints: int | None = None) -> Skeleton:
    """A skeleton from whatever describes one.

    Args:
        value: a ``Skeleton``; its ``to_dict``; a category of a COCO keypoint file (``keypoints``, ``skeleton`` counted
            from 1, and if wanted ``flip_pairs`` of names and ``sigmas``); or the path of a JSON file with either, or
            with ``categories``, whose first counts. FileNotFoundError where there is no such file.
        num_keypoints: what it must have; None takes any number.

    Raises:
        ValueError: it does not describe joints, or another number of them.
    """
    where = "the skeleton"
    if isinstance(value, str | Path):
        where = str(value)
        try:
            value = json.loads(Path(value).expanduser().read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not a JSON file: {error}") from error
    try:
        if isinstance(value, Mapping) and value.get("categories"):
            value = value["categories"][0]
        if isinstance(value, Mapping) and "edges" in value:
            value = Skeleton.from_dict(dict(value))
        elif isinstance(value, Mapping):
            value = skeleton_of(value, where)
    except (TypeError, LookupError) as error:
        raise ValueError(f"{where} does not describe joints: {error}") from error
    if not isinstance(value, Skeleton):
        raise ValueError(f"{where} must be a Skeleton, a COCO category or the path of one, got {type(value).__name__}")
    if num_keypoints not in (None, value.num_keypoints):
        raise ValueError(f"{where} has {value.num_keypoints} joints, the model {num_keypoints}")
    return value


def skeleton_of(
    category: Mapping[str, Any],
    file: str,
    *,
    skeleton: Skeleton | None = None,
    flip_pairs: Sequence[Sequence[str]] = (),
    sigmas: Sequence[float] = (),
    settings: str = "",
) -> Skeleton:
    """Joints of a category of a COCO keypoint file.

    The names decide: COCO's 17 or LSPET's 14 in their order give the known skeletons. For others the limbs come from
    the category's ``skeleton`` (numbers from 1), flip pairs and sigmas from its ``flip_pairs`` (pairs of names) and
    ``sigmas``, which COCO does not have, else from the names, with a warning.

    Args:
        category: one entry of the file's ``categories``.
        file: what to call the file in messages.
        skeleton: wins over the file, as do ``flip_pairs`` (pairs of names) and ``sigmas``.
        settings: where a user gives these three, such as "PoseSource"; empty where only the category can.

    Raises:
        ValueError: the entry or a setting does not fit the names.
    """
    names = _names(category, file)
    if skeleton is not None:
        if names and len(names) != skeleton.num_keypoints:
            raise ValueError(
                f"{file} has {len(names)} joints, the skeleton {skeleton.name} has {skeleton.num_keypoints}; give a "
                f"skeleton of the file's joints: {', '.join(names)}"
            )
        return skeleton
    flip_setting, sigma_setting, limb_setting = (
        f"{settings}.{name}" if settings else f"its {name!r}" for name in ("flip_pairs", "sigmas", "skeleton")
    )
    if not names:
        raise ValueError(f"{file} does not name its joints; add 'keypoints' to its category or set {limb_setting}")
    words = [words_of(name) for name in names]
    known = next((one for one in _KNOWN if words == [words_of(name) for name in one.keypoints]), None)
    given = {name: value for name, value in (("flip_pairs", flip_pairs), ("sigmas", sigmas)) if value}
    try:
        if known is None:
            return _described({**category, **given}, names, file, flip_setting, sigma_setting)
        found = replace(known, flip_pairs=_numbered(flip_pairs, names)) if flip_pairs else known
        return replace(found, sigmas=tuple(map(float, sigmas))) if sigmas else found
    except (TypeError, ValueError) as error:
        others = f"{flip_setting}, {sigma_setting} or {limb_setting}"
        raise ValueError(f"{file}: {error}; {others} can replace it") from error


def _described(
    category: Mapping[str, Any], names: tuple[str, ...], file: str, flip_setting: str, sigma_setting: str
) -> Skeleton:
    """The skeleton of joints that are neither COCO's nor LSPET's; guesses are told, with their setting."""
    if category.get("flip_pairs") is not None:
        pairs = _numbered(category["flip_pairs"], names)
    else:
        pairs = infer_flip_pairs(names)
        if len(names) > 1:
            shown = ", ".join(f"{names[left]}/{names[right]}" for left, right in pairs) or "none"
            _log.warning(
                "%s does not say which joints change places in a mirror image; by their names: %s. "
                "Set %s if this is wrong",
                *(file, shown, flip_setting),
            )
    if category.get("sigmas") is not None:
        sigmas = tuple(map(float, category["sigmas"]))
    else:
        sigmas, unknown = infer_sigmas(names)
        others = f", and {DEFAULT_SIGMA} for {', '.join(unknown)}" if unknown else ""
        _log.warning(
            "%s does not say how precisely its joints can be labelled; taking COCO's sigmas by name%s. "
            "Set %s to use others",
            *(file, others, sigma_setting),
        )
    return Skeleton(
        name=f"{category.get('name') or 'joints'}{len(names)}",
        keypoints=names,
        flip_pairs=pairs,
        edges=_edges(category, names, file),
        sigmas=sigmas,
        upper_body=infer_upper_body(names),
    )


def words_of(name: str) -> tuple[str, ...]:
    """Lower-case words of a joint's name, whatever joins them: "LeftKnee", "left-knee", "leftknee" are left, knee."""
    words = [word.lower() for word in _WORDS.findall(name)] or [name.lower()]
    for side in ("left", "right"):
        if words[0].startswith(side) and words[0] != side:
            words[0:1] = [side, words[0][len(side) :]]
        elif words[-1].endswith(side) and words[-1] != side:
            words[-1:] = [words[-1][: -len(side)], side]
    return tuple(words)


def infer_flip_pairs(names: Sequence[str]) -> Pairs:
    """(left, right) numbers of joints whose names differ in the side only.

    Besides words (left, l, before or after) a leading l or r without a break counts if the counterpart exists, as in
    "lsho" and "rsho".
    """
    numbers = {sided: number for number, sided in enumerate(map(_sided, names))}
    pairs = []
    for (side, part), left in numbers.items():
        glued = not side and part.startswith("l") and "_" not in part
        right = ("", f"r{part[1:]}") if glued else ("right", part)
        if (side == "left" or glued) and right in numbers:
            pairs.append((left, numbers[right]))
    return tuple(sorted(pairs))


def infer_sigmas(names: Sequence[str]) -> tuple[tuple[float, ...], list[str]]:
    """K sigmas, COCO's where the joint is one of its, else ``DEFAULT_SIGMA``; and the names that got the latter."""
    parts = _parts(names)
    unknown = [name for name, part in zip(names, parts, strict=True) if part not in _SIGMAS]
    return tuple(_SIGMAS.get(part, DEFAULT_SIGMA) for part in parts), unknown


def infer_edges(names: Sequence[str]) -> Pairs:
    """Limbs that COCO or LSPET draw between joints of these names."""
    numbers = {sided: number for number, sided in enumerate(map(_sided, names))}
    edges: dict[frozenset[int], tuple[int, int]] = {}
    for skeleton in _KNOWN:
        for ends in skeleton.edges:
            a, b = (numbers.get(_sided(skeleton.keypoints[end]), -1) for end in ends)
            if min(a, b) >= 0:
                edges.setdefault(frozenset((a, b)), (a, b))
    return tuple(edges.values())


def infer_upper_body(names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the joints above the hips; none unless every joint is one of COCO's or LSPET's."""
    parts = _parts(names)
    if not set(parts) <= set(_SIGMAS):
        return ()
    return tuple(number for number, part in enumerate(parts) if part not in _LOWER_BODY)


def _names(category: Mapping[str, Any], file: str) -> tuple[str, ...]:
    names = category.get("keypoints") or ()
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{file}: 'keypoints' of a category must be a list of joint names, got {names!r:.100}")
    if len(set(names)) != len(names):
        raise ValueError(f"{file}: joint names must differ, got {', '.join(names)}")
    return tuple(names)


def _edges(category: Mapping[str, Any], names: tuple[str, ...], file: str) -> Pairs:
    """Limbs with numbers from 0."""
    limbs = category.get("skeleton") or ()
    if not limbs and len(names) == 1:
        return ()
    if not limbs:
        edges = infer_edges(names)
        _log.warning("%s does not say which joints to connect; drawings will show %d limbs", file, len(edges))
        return edges
    if any(len(limb) != 2 or not all(isinstance(end, int) for end in limb) for limb in limbs):
        raise ValueError(f"'skeleton' must be a list of pairs of joint numbers, got {limbs!r:.100}")
    first = 1
    if min(min(limb) for limb in limbs) == 0:
        _log.warning("%s counts the joints of its limbs from 0, where COCO counts from 1; taken as it is meant", file)
        first = 0
    return tuple((a - first, b - first) for a, b in limbs)


def _numbered(pairs: Sequence[Sequence[str]], names: tuple[str, ...]) -> Pairs:
    """Pairs of names as pairs of numbers."""
    for pair in pairs:
        if len(pair) != 2 or not all(name in names for name in pair):
            raise ValueError(f"flip_pairs must be pairs of joint names of {', '.join(names)}; got {pair!r}")
    return tuple((names.index(left), names.index(right)) for left, right in pairs)


def _sided(name: str) -> tuple[str, str]:
    """(side or "", part): ("left", "shoulder") for whatever way of writing it; no side where there are two.

    A written-out side goes before a letter.
    """
    words = words_of(name)
    for sides in ({"left": "left", "right": "right"}, {"l": "left", "r": "right"}):
        if places := [place for place, word in enumerate(words) if word in sides]:
            if len(places) > 1:
                break
            return sides[words[places[0]]], "_".join(words[: places[0]] + words[places[0] + 1 :])
    return "", "_".join(words)


def _parts(names: Sequence[str]) -> list[str]:
    """Parts of the body without their side. Letters glued to the name ("lhip") are sides where both exist."""
    pairs = {number for pair in infer_flip_pairs(names) for number in pair}
    sided = enumerate(map(_sided, names))
    return [part[1:] if number in pairs and not side else part for number, (side, part) in sided]
