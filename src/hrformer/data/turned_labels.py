"""Labels of pictures that an EXIF orientation turns: whether they lie on the stored or on the upright pixels.

The size that labels are made for tells it where width and height change places. For squares, and orientations 2 to 4,
what the other pictures show counts; where these show nothing, or both, labels are left as they are. Either is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_file import Pictures
from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.data.set_types import DataError, Note
from hrformer.data.source_config import Exif
from hrformer.geometry.orientation import UPRIGHT
from hrformer.wording import counted, listed

MOST_HEADERS, SAMPLED = 20_000, 2_000
"""Of more pictures only some headers are read, spread evenly, unless one of these is odd: so many for folders of masks,
and so many for COCO's files."""

_NAMED = 3

Size: TypeAlias = "tuple[int, int]"
"""(width, height)"""


class Canvas(NamedTuple):
    """What the labels of M pictures lie on.

    Attributes:
        sizes: (M, 2) (width, height) that the labels are written for; 0 where nobody knows.
        upright: (M, 2) once the labels are turned.
        turned: orientation by which labels are to be turned, by the place of the picture.
        notes: what is to be said of EXIF orientations.
    """

    sizes: NDArray[np.int64]
    upright: NDArray[np.int64]
    turned: dict[int, int]
    notes: tuple[Note, ...]


def canvas_of(
    pictures: Pictures, used: Sequence[int], path_of: Callable[[int], str], exif: Exif, source: str, labels: str
) -> Canvas:
    """Compare width and height in COCO's file with the headers of those pictures, given by their places, that are used.

    ``source`` is the name of the class that has the option ``exif``, ``labels`` what to call them.

    Raises:
        DataError: a picture has another size than the file says.
    """

    def told(place: int) -> Size | None:
        width, height = pictures.sizes[place].tolist()
        return (width, height) if width and height else None

    def odd(place: int, header: Header) -> bool:
        return header.orientation != UPRIGHT or header.stored != told(place)

    sample = SAMPLED if all(map(told, used)) else len(used)
    headers = _headers(used, path_of, odd, sample)
    real = {place: one.stored if exif == "ignore" else one.size for place, one in headers.items()}
    wrong = [place for place, one in headers.items() if told(place) not in (None, one.stored, real[place])]
    if wrong:
        place, share = wrong[0], f"{len(wrong)} of {counted(len(headers), 'picture')} looked at so"
        given, (width, height) = told(place) or (0, 0), real[place]
        raise DataError(
            f"'width' and 'height' of {pictures.names[place]} are {given[0]} x {given[1]}, but {path_of(place)} is "
            f"{width} x {height} pixels ({share}); {_advice_on_size(given, headers[place], exif, source, labels)}"
        )
    turned, notes = _turned(headers, told, exif, source, labels, pictures.names.__getitem__)
    upright = pictures.sizes.copy()
    for place, size in real.items():
        upright[place] = size
    sizes = upright.copy()
    for place in turned:
        sizes[place] = headers[place].stored
    return Canvas(sizes, upright, turned, notes)


def turned_masks(
    pictures: Sequence[Path], size_of_mask: Callable[[int], Size | None], exif: Exif
) -> tuple[dict[int, int], tuple[Note, ...]]:
    """Orientation by the place of the picture of those whose masks lie on stored pixels, and what is to be said of it.

    Args:
        pictures: files in the order of the items.
        size_of_mask: of an item; None where it cannot be told.
        exif: "auto"; "apply" turns all masks but those whose size shows that they are upright; "ignore" none.
    """
    places, paths = range(len(pictures)), [str(picture) for picture in pictures]
    headers = _headers(places, paths.__getitem__, lambda _, header: header.orientation != UPRIGHT, MOST_HEADERS)
    return _turned(headers, size_of_mask, exif, "SegmentationSource", "masks", paths.__getitem__)


def _headers(
    places: Sequence[int], path_of: Callable[[int], str], odd: Callable[[int, Header], bool], sample: int
) -> dict[int, Header]:
    """Headers of pictures, of many only a sample if none of it is odd; without those that cannot be read."""
    found: dict[int, Header] = {}
    step = max(-(-len(places) // sample), 1) if len(places) > MOST_HEADERS else 1
    for some in (places[::step], places):
        for place in some:
            try:
                found[place] = found.get(place) or read_header(path_of(place))
            except ImageError:
                continue  # whoever decodes it says what is wrong with it
        if step == 1 or not any(odd(place, header) for place, header in found.items()):
            break
    return found


def _advice_on_size(told: Size, header: Header, exif: Exif, source: str, labels: str) -> str:
    """What to do about a picture of another size than the file says."""
    width, height = header.stored if exif == "ignore" else header.size
    if exif == "ignore" and told == header.size:
        return f"its labels are for the picture turned by its EXIF orientation, so set {source}.exif auto"
    if told == (height, width):
        return (
            f"if the labels fit the picture as it is, write {width} x {height}; else turn the picture back to what was "
            "labelled"
        )
    text = f"if the labels fit this picture, write {width} x {height}; else bring back the one that was labelled"
    if abs(told[0] / width * height / told[1] - 1) < 0.01:
        text += f", or multiply {labels} by {width / told[0]:.4g} and areas by {(width / told[0]) ** 2:.4g}"
    return text


def _turned(
    headers: Mapping[int, Header],
    size_of: Callable[[int], Size | None],
    exif: Exif,
    source: str,
    labels: str,
    name_of: Callable[[int], str],
) -> tuple[dict[int, int], tuple[Note, ...]]:
    """Orientation by place of the pictures whose labels are to be turned, and what is to be said of them."""
    lying: dict[str, dict[int, int]] = {"stored": {}, "upright": {}, "unsure": {}}
    for place, header in headers.items():
        if header.orientation == UPRIGHT:
            continue
        size = size_of(place)
        if size is None or header.stored == header.size == size:
            lying["unsure"][place] = header.orientation
        elif size in (header.stored, header.size):
            lying["stored" if size == header.stored else "upright"][place] = header.orientation
    stored, upright, unsure = lying.values()

    def some(places: Iterable[int]) -> str:
        names = [name_of(place) for place in sorted(places)]
        return f"EXIF orientation: {counted(len(names), 'picture')} ({listed(names, _NAMED)}) stored turned"

    if exif == "ignore":
        text = f"{some(stored | upright | unsure)} and read as stored, {labels} as they stand, by {source}.exif ignore"
        return {}, (Note(kind="exif-ignored", text=text),) * any(lying.values())
    option = f"{source}.exif ignore|apply: read the pictures as stored, or turn {labels} unless the size shows that "
    option += "they are upright"
    turn_unsure = exif == "apply" or bool(stored and not upright)
    notes = []
    if stored:
        also = f"; those of {counted(len(upright), 'other')} are upright already" if upright else ""
        text = f"and labelled on the stored pixels, as the sizes tell; {labels} were turned upright with the picture"
        notes.append(Note(kind="exif-turned", text=f"{some(stored)} {text}{also}. {option}"))
    if unsure:
        others = "those of others are upright" if upright else "there are no others to go by"
        others = "those of others are both" if upright and stored else others
        done = f"taken as upright, since {others}"
        if turn_unsure:
            done = "taken as lying on the stored pixels and turned upright"
        text = f"whose size does not tell whether {labels} are for the stored pixels or the upright picture"
        notes.append(Note(kind="exif-unknown", text=f"{some(unsure)}, {text}; {done}. {option}"))
    return (stored | unsure if turn_unsure else stored), tuple(notes)
