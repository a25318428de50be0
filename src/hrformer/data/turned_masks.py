"""Masks of pictures that an EXIF orientation turns: whether they lie on the stored or on the upright pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TypeAlias

from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.data.set_types import Note
from hrformer.data.source_config import Exif
from hrformer.geometry.orientation import UPRIGHT
from hrformer.wording import counted

_TURNED = ("picture lies turned in its file", "pictures lie turned in their files")

MOST_HEADERS = 20_000
"""Of larger sets so many headers are read when they are opened, evenly spread."""

Size: TypeAlias = "tuple[int, int]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """By which orientation each mask is to be turned.

    Attributes:
        known: orientation by the place of the picture, for those that are turned.
        complete: whether ``known`` speaks of all pictures; else headers are read as masks are.
        unsure: whether masks are turned whose size does not tell.
        notes: what is to be said about it.
    """

    known: dict[int, int] = field(default_factory=dict)
    complete: bool = True
    unsure: bool = False
    notes: tuple[Note, ...] = ()

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
    stored, upright, unsure = lying["stored"], lying["upright"], lying["unsure"]
    named = [*stored, *unsure, *(upright if exif == "ignore" else ())]
    notes = _notes(len(stored), len(upright), len(unsure), exif, [pictures[place] for place in named])
    if exif == "ignore" or not (stored or upright or unsure):
        return Turns(notes=tuple(notes))
    turn_unsure = exif == "apply" or (bool(stored) and not upright)
    return Turns(
        known=stored | (unsure if turn_unsure else {}), complete=step == 1, unsure=turn_unsure, notes=tuple(notes)
    )


def _lies(header: Header, mask: Size | None) -> str:
    """ "stored", "upright" or "unsure"; empty for upright pictures and masks that fit neither way."""
    if header.orientation == UPRIGHT or (mask is not None and mask not in (header.stored, header.size)):
        return ""
    if mask is None or header.stored == header.size:
        return "unsure"
    return "stored" if mask == header.stored else "upright"


def _notes(stored: int, upright: int, unsure: int, exif: Exif, files: Sequence[str | PathLike[str]]) -> list[Note]:
    """What is to be said; ``files`` are those of masks on stored pixels and, behind them, those that nobody knows."""
    options = "SegmentationSource.exif ignore|apply: read the pictures as stored, or turn masks wherever the size does "
    options += "not show that they are upright"
    if exif == "ignore" and files:
        text = (
            f"EXIF orientation: {counted(len(files), *_TURNED)}, such as {files[0]}, and are read as "
            "stored, masks as they stand, by SegmentationSource.exif ignore"
        )
        return [Note(kind="exif-ignored", text=text)]
    notes = []
    if exif == "auto" and stored:
        also = f"; {counted(upright, 'other mask is', 'other masks are')} upright already" if upright else ""
        text = (
            f"EXIF orientation: {counted(stored + (0 if upright else unsure), *_TURNED)}, such as "
            f"{files[0]}, and their masks were drawn on the stored pixels, as the sizes tell; the masks were turned "
            f"upright with them{also}. {options}"
        )
        notes.append(Note(kind="exif-turned", text=text))
    if exif == "auto" and unsure and (upright or not stored):
        others = "the masks of the other turned pictures are upright" if upright else "there are no others to go by"
        if upright and stored:
            others = "the masks of the others are as stored and upright"
        text = (
            f"EXIF orientation: {counted(unsure, *_TURNED)}, such as {files[-1]}, and their size "
            f"does not tell whether their masks do; {others}, so they were left as they are. {options}"
        )
        notes.append(Note(kind="exif-unknown", text=text))
    return notes
