"""Width and height in a COCO file against the pictures' headers: the pixels that labels lie on, stored or upright."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_lists import Pictures
from hrformer.data.coco_records import People
from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.data.sets import DataError, Note
from hrformer.geometry.orientation import UPRIGHT, swaps_sides, upright_boxes, upright_points
from hrformer.wording import counted

Exif = Literal["auto", "apply", "ignore"]

MOST_READ, SAMPLED = 20_000, 2_000
"""Of more pictures than the first only so many headers are read, spread evenly, unless one of them is odd."""

_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Canvas:
    """What labels of M pictures lie on.

    Attributes:
        sizes: (M, 2) (width, height) that the labels are written for; 0 where nobody knows.
        orientations: (M,) EXIF orientation by which labels are to be turned, 1 for not at all.
        notes: what is to be said of EXIF orientations.
    """

    sizes: NDArray[np.int64]
    orientations: NDArray[np.int64]
    notes: tuple[Note, ...] = ()

    @property
    def upright(self) -> NDArray[np.int64]:
        """(M, 2) sizes once the labels are turned."""
        swapped = swaps_sides(self.orientations)[:, None]  # type: ignore[arg-type, index]
        return np.where(swapped, self.sizes[:, ::-1], self.sizes)

    def turned(self, people: People) -> People:
        """The people with boxes and joints turned upright."""
        orientations = self.orientations[people.picture]
        rows = np.flatnonzero(orientations != UPRIGHT).tolist()
        if not rows:
            return people
        for row in rows:
            orientation, (width, height) = int(orientations[row]), self.sizes[people.picture[row]].tolist()
            people.box[row] = upright_boxes(people.box[row], (width, height), orientation)
            if people.keypoints is not None:
                shown = people.keypoints[row, :, 2] > 0
                points = people.keypoints[row, shown, :2]
                people.keypoints[row, shown, :2] = upright_points(points, (width, height), orientation)
        return people


@dataclass(kw_only=True, slots=True)
class _Found:
    """Places of pictures by what their header says of the labels."""

    stored: list[int] = field(default_factory=list)
    upright: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    ignored: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)


def canvas_of(pictures: Pictures, used: Sequence[int], path_of: Callable[[int], str], exif: Exif, file: str) -> Canvas:
    """Compare sizes.

    Args:
        pictures: of the file.
        used: places of those to look at.
        path_of: path of the picture at a place.
        exif: see ``PoseSource``.
        file: what to call it in messages.

    Raises:
        DataError: a picture has another size than the file says.
    """
    headers = _headers(pictures, used, path_of)
    sizes, orientations = pictures.sizes.copy(), np.full(len(pictures.ids), UPRIGHT)
    found = _Found()
    for place, header in headers.items():
        given = (int(sizes[place, 0]), int(sizes[place, 1]))
        _sort(found, place, given, header, exif)
        sizes[place] = header.stored if exif == "ignore" else header.size
    if found.wrong:
        raise DataError(_wrong_sizes(pictures, found.wrong, headers, path_of, exif, file, len(headers)))
    turned = list(found.stored)
    guessed = exif == "apply" or (found.stored and not found.upright)
    if guessed:
        turned += found.unknown
    for place in turned:
        sizes[place], orientations[place] = headers[place].stored, headers[place].orientation
    notes = _notes(pictures, found, bool(guessed), exif, file)
    return Canvas(sizes=sizes, orientations=orientations, notes=tuple(notes))


def _headers(pictures: Pictures, used: Sequence[int], path_of: Callable[[int], str]) -> dict[int, Header]:
    """Headers of the used pictures, or of a sample that is as the file says; without those that cannot be read."""
    found: dict[int, Header] = {}

    def read(places: Sequence[int]) -> None:
        for place in places:
            if place not in found:
                try:
                    found[place] = read_header(path_of(place))
                except ImageError:
                    continue  # whoever decodes it says what is wrong with it

    places = np.asarray(used, dtype=np.int64)
    lacking = places[(pictures.sizes[places] < 1).any(axis=1)].tolist()
    step = len(used) // SAMPLED if len(used) > MOST_READ else 1
    read([*used[::step], *lacking])
    given = pictures.sizes
    if step > 1 and any(one.orientation != UPRIGHT or one.stored != tuple(given[at]) for at, one in found.items()):
        read(used)
    return found


def _sort(found: _Found, place: int, given: tuple[int, int], header: Header, exif: Exif) -> None:
    said = min(given) > 0
    if exif == "ignore":
        if said and given != header.stored:
            found.wrong.append(place)
        elif header.orientation != UPRIGHT:
            found.ignored.append(place)
    elif said and given not in (header.stored, header.size):
        found.wrong.append(place)
    elif header.orientation != UPRIGHT:
        if not said or header.stored == header.size:
            found.unknown.append(place)
        else:
            (found.stored if given == header.stored else found.upright).append(place)


def _wrong_sizes(
    pictures: Pictures,
    wrong: Sequence[int],
    headers: dict[int, Header],
    path_of: Callable[[int], str],
    exif: Exif,
    file: str,
    looked_at: int,
) -> str:
    place = wrong[0]
    header, (width, height) = headers[place], pictures.sizes[place].tolist()
    real = header.stored if exif == "ignore" else header.size
    text = (
        f"{file}: 'width' and 'height' of {pictures.names[place]} are {width} x {height}, but {path_of(place)} is "
        f"{real[0]} x {real[1]} pixels ({len(wrong)} of {counted(looked_at, 'picture')} looked at so); "
    )
    if exif == "ignore" and (width, height) == header.size:
        return text + "its labels are for the picture turned by its EXIF orientation, so set PoseSource.exif auto"
    if (height, width) == real:
        return text + (
            f"if the labels fit the picture as it is, write {real[0]} x {real[1]}; else turn the picture back to what "
            "was labelled"
        )
    text += f"if the labels fit this picture, write {real[0]} x {real[1]}; else bring back the one that was labelled"
    if abs(width / real[0] * real[1] / height - 1) < 0.01:
        text += f", or multiply boxes and joints by {real[0] / width:.4g} and areas by {(real[0] / width) ** 2:.4g}"
    return text


def _notes(pictures: Pictures, found: _Found, guessed: bool, exif: Exif, file: str) -> list[Note]:
    notes = []
    if found.stored:
        text = (
            f"{file}: EXIF orientation: {_some(pictures, found.stored)} stored turned and labelled on the stored "
            "pixels, as width and height in the file tell; boxes and joints were turned upright with the picture. "
            "PoseSource.exif ignore|apply: read the pictures as stored, or turn labels wherever the size "
            "does not tell, too"
        )
        notes.append(Note(kind="exif-turned", text=text))
    if found.unknown:
        done = "taken as lying on the stored pixels and turned upright" if guessed else "taken as upright"
        text = (
            f"{file}: EXIF orientation: {_some(pictures, found.unknown)} stored turned, whose size does not tell "
            f"whether the labels are for the stored pixels or the upright picture; {done}. "
            "PoseSource.exif ignore|apply: read the pictures as stored, or turn the labels"
        )
        notes.append(Note(kind="exif-unknown", text=text))
    if found.ignored:
        text = (
            f"{file}: EXIF orientation: {_some(pictures, found.ignored)} stored turned and read as stored, "
            f"labels as they stand, by PoseSource.exif {exif}"
        )
        notes.append(Note(kind="exif-ignored", text=text))
    return notes


def _some(pictures: Pictures, places: Sequence[int]) -> str:
    names = ", ".join(pictures.names[place] for place in places[:_NAMED])
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{counted(len(places), 'picture')} ({names}{more})"
