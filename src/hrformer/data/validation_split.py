"""Splits the pictures of a set without a validation part in two."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Sequence

from hrformer.data.part_patterns import ROBOFLOW_MARK
from hrformer.data.set_types import DataError
from hrformer.data.source_config import Source, Split
from hrformer.data.views import AnySet, chosen
from hrformer.wording import counted

_SALT = b"hrformer val"

_log = logging.getLogger(__name__)


def own_part_error(source: Source, part: object, instead: str = "") -> DataError:
    """What to say where a share is to be kept of a set that has a validation part of its own, a file or folder.

    ``instead`` ends the sentence with what else than 0 would be right.
    """
    field = f"{type(source).__name__}.val_share"
    return DataError(
        f"{field} {source.val_share:g} is for sets without a validation part, and here is one, {part}; set {field} 0"
        f"{instead}"
    )


def kept_for_validation(names: Sequence[str], share: float, groups: Sequence[int] | None = None) -> list[int]:
    """Which pictures to keep for validation.

    A hash of its name decides about each, so that all commands see the same split, and a picture added moves no other.
    Only where chance would take a quarter more or less than the share, as with few pictures, are some moved; each part
    has a picture at least. Roboflow's copies of one picture stay together.

    ``groups`` are classes of the pictures, each of which is split; those of one picture go to training.

    Returns:
        Their places in ``names``, sorted.
    """
    members: dict[int, dict[str, list[int]]] = {}
    for place, name in enumerate(names):
        group = members.setdefault(groups[place] if groups is not None else 0, {})
        group.setdefault(ROBOFLOW_MARK.sub(r"\1", name), []).append(place)
    kept: list[int] = []
    for group in members.values():
        order = sorted(group, key=_draw)
        wanted = share * len(order)
        fewest, most = max(math.ceil(0.75 * wanted), 1), max(math.floor(1.25 * wanted), 1)
        count = min(max(sum(_draw(key) < share for key in order), fewest), most, len(order) - 1)
        kept += [place for key in order[:count] for place in group[key]]
    return sorted(kept)


def split_part(
    whole: AnySet, split: Split, source: Source, names: Sequence[str] = (), groups: Sequence[int] | None = None
) -> AnySet:
    """The training or the validation part of a set that was read whole.

    Args:
        whole: the set.
        split: "train" or "val".
        source: of the set, with the share for validation.
        names: of the pictures, in the order of their numbers; default those of their files, one item being one picture.
        groups: see :func:`kept_for_validation`.

    Raises:
        DataError: a part would be empty.
    """
    share, field = source.val_share, f"{type(source).__name__}.val_share"
    if not names:
        # Relative to the root: the same on every machine.
        files, above = (whole.file(index) for index in range(len(whole))), os.path.join(source.root, "")
        names = [file.removeprefix(above).replace(os.sep, "/") for file in files]
    val = kept_for_validation(names, share, groups)
    train = sorted(set(range(len(names))) - set(val))
    if not val or not train:
        each = "" if groups is None else " of some class"
        raise DataError(
            f"{whole.name}: {field} needs at least two pictures{each}, one for each part; there are {len(names)} in all"
        )
    _log.info("%s %g: %s to train on, %d to validate on", field, share, counted(len(train), "picture"), len(val))
    try:
        return chosen(whole, train if split == "train" else val)
    except DataError as error:
        raise DataError(
            f"{whole.name}: {field} {share:g} leaves the {split} part without labels, since they are on few of the "
            f"{counted(len(names), 'picture')}; take another share, or remove pictures without labels"
        ) from error


def _draw(name: str) -> float:
    """A number in [0, 1) that only depends on the name."""
    data = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=_SALT).digest(), "big") / 2**64
