"""Masks of pictures that an EXIF orientation turns: whether they lie on the stored or on the upright pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Literal, TypeAlias

from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.geometry.orientation import UPRIGHT

MOST_HEADERS = 20_000
"""Of larger sets so many headers are read when they are opened, evenly spread."""

Exif: TypeAlias = Literal["auto", "apply", "ignore"]
Size: TypeAlias = "tuple[int, int]"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """By which orientation each mask is to be turned.

    Attributes:
        known: orientation by the place of the picture, for those that are turned.
        complete: whether ``known`` speaks of all pictures; else headers are read as masks are.
        unsure: whether masks are turned whose size does not tell.
    """

    known: dict[int, int] = field(default_factory=dict)
    complete: bool = True
    unsure: bool = False

    def of(self, place: int, picture: str | PathLike[str], mask: Size) -> int:
        """Orientation, 1 to 8, by which a mask of this (width, height) is turned upright; 1 where it is so already."""
        if self.complete:
            return self.known.get(place, UPRIGHT)
        header = read_header(picture)
        lies = _lies(header, mask)
        return header.orientation if lies == "stored" or (lies == "unsure" and self.unsure) else UPRIGHT


def turns_of(
    pictures: Sequence[str | PathLike[str]],
    mask_size: Callable[[int], Size | None],
    exif: Exif,
    misfit: Callable[[int, Header], object] | None = None,
) -> Turns:
    """Find out from the headers which masks lie on stored pixels.

    The size tells where width and height change places. For squares, and orientations 2 to 4, what the others show
    counts; where they show nothing, or both, such masks are left as they are, with a warning.

    Args:
        pictures: files in the order of the items.
        mask_size: (width, height) of the mask of an item; None where it cannot be told.
        exif: "auto" as above; "apply" turns all masks but those whose size shows that they are upright; "ignore" none.
        misfit: called with the place and the header of pictures that the mask fits neither way.
    """
    if exif == "ignore" and misfit is None:
        return Turns()
    step = -(-len(pictures) // MOST_HEADERS) or 1
    lying: dict[str, dict[int, int]] = {"stored": {}, "upright": {}, "unsure": {}}
    for place in range(0, len(pictures), step):
        try:
            header = read_header(pictures[place])
        except ImageError:
            # Reading the picture says what is wrong with it.
            continue
        if misfit and (size := mask_size(place)) is not None and size not in (header.stored, header.size):
            misfit(place, header)
        if header.orientation != UPRIGHT and (lies := _lies(header, mask_size(place))):
            lying[lies][place] = header.orientation
    if exif == "ignore":
        return Turns()
    stored, upright, unsure = lying["stored"], lying["upright"], lying["unsure"]
    turn_unsure = exif == "apply" or (bool(stored) and not upright)
    _warn(len(stored), len(upright), len(unsure), exif, [pictures[place] for place in [*stored, *unsure]])
    any_turned = bool(stored or upright or unsure)
    return Turns(
        known=stored | (unsure if turn_unsure else {}), complete=step == 1 or not any_turned, unsure=turn_unsure
    )


def _lies(header: Header, mask: Size | None) -> str:
    """ "stored", "upright" or "unsure"; empty for upright pictures and masks that fit neither way."""
    if header.orientation == UPRIGHT or (mask is not None and mask not in (header.stored, header.size)):
        return ""
    if mask is None or header.stored == header.size:
        return "unsure"
    return "stored" if mask == header.stored else "upright"


def _warn(stored: int, upright: int, unsure: int, exif: Exif, files: Sequence[str | PathLike[str]]) -> None:
    if exif != "auto" or not files:
        return
    options = "SegmentationSource.exif apply|ignore"
    if stored:
        _log.warning(
            "EXIF orientation: %d picture(s) are stored turned, such as %s, and their masks lie on the stored pixels, "
            "so these masks are turned upright with them%s. %s says whether to do so for all, or to read the "
            "pictures as they are stored",
            stored + (0 if upright else unsure),
            files[0],
            f"; {upright} other mask(s) are upright already" if upright else "",
            options,
        )
    if unsure and (upright or not stored):
        others = "the other pictures show both" if stored and upright else "the sizes cannot tell"
        if upright and not stored:
            others = "the masks of other turned pictures are upright, so these are taken to be"
        _log.warning(
            "EXIF orientation: %d picture(s) are stored turned, such as %s; whether their masks are, %s; they are left "
            "as they are. Look at the samples of `hrformer inspect data`; if masks and pictures do not fit, give %s",
            unsure,
            files[-1],
            others,
            options,
        )
