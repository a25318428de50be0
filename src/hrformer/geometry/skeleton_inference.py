"""What a keypoint file says about its joints, and what their names tell where it says nothing.

Nothing is guessed in silence: each guess is logged as a warning, with the setting that replaces it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from hrformer.geometry.skeletons import COCO17, LSPET14, Skeleton

DEFAULT_SIGMA = 0.079
"""Sigma of joints that nobody measured: that of shoulders, which CrowdPose gives to neck and head as well."""

_KNOWN = (COCO17, LSPET14)
_OPPOSITE = {"left": "right", "right": "left", "l": "r", "r": "l"}
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
_LOWER_BODY = {"hip", "knee", "ankle"}
_log = logging.getLogger(__name__)

Pairs = tuple[tuple[int, int], ...]
SkeletonLike: TypeAlias = "Skeleton | Mapping[str, Any] | str | Path"


class JointSettings(Protocol):
    """What a caller may say of joints; empty where the file decides."""

    @property
    def flip_pairs(self) -> Sequence[Sequence[str]]: ...
    @property
    def sigmas(self) -> Sequence[float]: ...
    @property
    def skeleton(self) -> Skeleton | None: ...


@dataclass(frozen=True, slots=True)
class Category:
    """Says nothing: the category itself has to."""

    flip_pairs: tuple[tuple[str, str], ...] = ()
    sigmas: tuple[float, ...] = ()
    skeleton: Skeleton | None = None


def read_skeleton(value: SkeletonLike, num_keypoints: int | None = None) -> Skeleton:
    """A skeleton from whatever describes one.

    Args:
        value: a ``Skeleton``; its ``to_dict``; a category of a COCO keypoint file (``keypoints``, ``skeleton`` counted
            from 1, and if wanted ``flip_pairs`` of names and ``sigmas``); or the path of a JSON file with either, or
            with ``categories``, whose first counts.
        num_keypoints: what it must have; None takes any number.

    Raises:
        FileNotFoundError: no such file.
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
            value = skeleton_of(value, Category(), where)
    except (TypeError, LookupError) as error:
        raise ValueError(f"{where} does not describe joints: {error}") from error
    if not isinstance(value, Skeleton):
        raise ValueError(f"{where} must be a Skeleton, a COCO category or the path of one, got {type(value).__name__}")
    if num_keypoints not in (None, value.num_keypoints):
        raise ValueError(f"{where} has {value.num_keypoints} joints, the model {num_keypoints}")
    return value


def skeleton_of(category: Mapping[str, Any], source: JointSettings, file: str) -> Skeleton:
    """Joints of a category of a COCO keypoint file.

    The names decide: COCO's 17 or LSPET's 14 in their order give the known skeletons. For others the limbs come from
    the category's ``skeleton`` (numbers from 1), flip pairs and sigmas from its ``flip_pairs`` (pairs of names) and
    ``sigmas``, which COCO does not have, else from the names, with a warning. ``source`` overrides all.

    Args:
        category: one entry of the file's ``categories``.
        source: its ``skeleton``, ``flip_pairs`` and ``sigmas`` win over the file.
        file: what to call the file in messages.

    Raises:
        ValueError: the entry or an override does not fit the names.
    """
    names = _names(category, file)
    if source.skeleton is not None:
        if names and len(names) != source.skeleton.num_keypoints:
            raise ValueError(
                f"{file} has {len(names)} joints, the skeleton {source.skeleton.name} has "
                f"{source.skeleton.num_keypoints}; give a skeleton of the file's joints: {', '.join(names)}"
            )
        return source.skeleton
    if not names:
        raise ValueError(
            f"{file} does not name its joints; add 'keypoints' to its category or set {_setting(source, 'skeleton')}"
        )
    words = [words_of(name) for name in names]
    known = next((one for one in _KNOWN if words == [words_of(name) for name in one.keypoints]), None)
    try:
        skeleton = known or _build(category, names, source, file)
        if source.flip_pairs:
            skeleton = replace(skeleton, flip_pairs=_numbered(source.flip_pairs, names))
        return replace(skeleton, sigmas=tuple(map(float, source.sigmas))) if source.sigmas else skeleton
    except (TypeError, ValueError) as error:
        flip_pairs, sigmas, limbs = (_setting(source, name) for name in ("flip_pairs", "sigmas", "skeleton"))
        raise ValueError(f"{file}: {error}; {flip_pairs}, {sigmas} or {limbs} can replace it") from error


def _setting(source: JointSettings, name: str) -> str:
    """Where a user gives it."""
    return f"its {name!r}" if isinstance(source, Category) else f"{type(source).__name__}.{name}"


def words_of(name: str) -> tuple[str, ...]:
    """Lower-case words of a joint's name, whatever joins them: "LeftKnee", "left-knee", "leftknee" are left, knee."""
    words = [word.lower() for word in _WORDS.findall(name)] or [name.lower()]
    for side in ("left", "right"):
        if words[0].startswith(side) and words[0] != side:
            words[0:1] = [side, words[0][len(side) :]]
        elif words[-1].endswith(side) and words[-1] != side:
            words[-1:] = [words[-1][: -len(side)], side]
    return tuple(words)


def mirrored(words: Sequence[str]) -> tuple[str, ...] | None:
    """The name with left and right exchanged, or None where it has no side or more than one.

    Args:
        words: from :func:`words_of`.
    """
    place = _side_at(words)
    return None if place is None else (*words[:place], _OPPOSITE[words[place]], *words[place + 1 :])


def infer_flip_pairs(names: Sequence[str]) -> Pairs:
    """(left, right) numbers of joints whose names differ in the side only.

    Besides words (left, l, before or after) a leading l or r without a break counts if the counterpart exists, as in
    "lsho" and "rsho".
    """
    words = [words_of(name) for name in names]
    numbers = {word: number for number, word in enumerate(words)}
    pairs = set()
    for number, word in enumerate(words):
        other = mirrored(word)
        if other is None and len(word) == 1 and word[0][0] in "lr":
            other = (_OPPOSITE[word[0][0]] + word[0][1:],)
        if other is None or other == word or numbers.get(other, number) == number:
            continue
        is_left = next(a for a, b in zip(word, other, strict=True) if a != b).startswith("l")
        pairs.add((number, numbers[other]) if is_left else (numbers[other], number))
    return tuple(sorted(pairs))


def infer_sigmas(names: Sequence[str]) -> tuple[tuple[float, ...], list[str]]:
    """COCO's sigma where the joint is one of its, else ``DEFAULT_SIGMA``.

    Returns:
        K sigmas, and the names that got the default.
    """
    parts = _parts(names)
    table = _known_sigmas()
    return tuple(table.get(part, DEFAULT_SIGMA) for part in parts), [
        name for name, part in zip(names, parts, strict=True) if part not in table
    ]


def infer_edges(names: Sequence[str]) -> Pairs:
    """Limbs that COCO or LSPET draw between joints of these names."""
    numbers = {_sided(words_of(name)): number for number, name in enumerate(names)}
    edges: dict[frozenset[int], tuple[int, int]] = {}
    for skeleton in _KNOWN:
        for ends in skeleton.edges:
            a, b = (numbers.get(_sided(words_of(skeleton.keypoints[end])), -1) for end in ends)
            if min(a, b) >= 0:
                edges.setdefault(frozenset((a, b)), (a, b))
    return tuple(edges.values())


def infer_upper_body(names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the joints above the hips; none unless every joint is one of COCO's or LSPET's."""
    parts = _parts(names)
    if not set(parts) <= set(_known_sigmas()):
        return ()
    return tuple(number for number, part in enumerate(parts) if part not in _LOWER_BODY)


def _build(category: Mapping[str, Any], names: tuple[str, ...], source: JointSettings, file: str) -> Skeleton:
    """The skeleton of joints that are neither COCO's nor LSPET's."""
    if category.get("flip_pairs") is not None:
        pairs = _numbered(category["flip_pairs"], names)
    else:
        pairs = infer_flip_pairs(names)
        if not source.flip_pairs and len(names) > 1:
            shown = ", ".join(f"{names[left]}/{names[right]}" for left, right in pairs) or "none"
            _log.warning(
                "%s does not say which joints change places in a mirror image; by their names: %s. "
                "Set %s if this is wrong",
                *(file, shown, _setting(source, "flip_pairs")),
            )
    if category.get("sigmas") is not None:
        sigmas = tuple(map(float, category["sigmas"]))
    else:
        sigmas, unknown = infer_sigmas(names)
        if not source.sigmas:
            _log.warning(
                "%s does not say how precisely its joints can be labelled; taking COCO's sigmas by name%s. "
                "Set %s to use others",
                *(file, f", and {DEFAULT_SIGMA} for {', '.join(unknown)}" if unknown else ""),
                _setting(source, "sigmas"),
            )
    return Skeleton(
        name=f"{category.get('name') or 'joints'}{len(names)}",
        keypoints=names,
        flip_pairs=pairs,
        edges=_edges(category, names, file),
        sigmas=sigmas,
        upper_body=infer_upper_body(names),
    )


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


def _side_at(words: Sequence[str]) -> int | None:
    """Where the side stands: a written-out one goes before a letter."""
    for sides in (("left", "right"), ("l", "r")):
        places = [place for place, word in enumerate(words) if word in sides]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _sided(words: tuple[str, ...]) -> tuple[str, str]:
    """(side or "", part): ("left", "shoulder") for whatever way of writing it."""
    place = _side_at(words)
    if place is None:
        return "", "_".join(words)
    side = {"l": "left", "r": "right"}.get(words[place], words[place])
    return side, "_".join(words[:place] + words[place + 1 :])


def _parts(names: Sequence[str]) -> list[str]:
    """Parts of the body without their side. Letters glued to the name ("lhip") are sides where both exist."""
    pairs = {number for pair in infer_flip_pairs(names) for number in pair}
    parts = []
    for number, name in enumerate(names):
        side, part = _sided(words_of(name))
        parts.append(part[1:] if number in pairs and not side else part)
    return parts


def _known_sigmas() -> dict[str, float]:
    """Sigma by part: COCO's; neck and top of the head as CrowdPose has them."""
    table = {"neck": 0.079, "head": 0.079, "head_top": 0.079, "top_head": 0.079}
    return table | {_sided(words_of(n))[1]: s for n, s in zip(COCO17.keypoints, COCO17.sigmas, strict=True)}
