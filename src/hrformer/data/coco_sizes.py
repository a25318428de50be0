"""Width and height in a COCO file against the pictures' headers: the pixels that labels lie on, stored or upright."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hrformer.data.coco_lists import Pictures
from hrformer.data.coco_records import People
from hrformer.data.headers import Header, read_header
from hrformer.data.images import ImageError
from hrformer.data.set_types import DataError, Note
from hrformer.geometry.orientation import UPRIGHT, swaps_sides, upright_boxes, upright_points
from hrformer.wording import counted, listed

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

    def turn(self, people: People) -> None:
        """Turn boxes and joints upright."""
        orientations = self.orientations[people.picture]
        for row in np.flatnonzero(orientations != UPRIGHT).tolist():
            orientation, (width, height) = int(orientations[row]), self.sizes[people.picture[row]].tolist()
            people.box[row] = upright_boxes(people.box[row], (width, height), orientation)
            if people.keypoints is not None:
                shown = people.keypoints[row, :, 2] > 0
                points = people.keypoints[row, shown, :2]
                people.keypoints[row, shown, :2] = upright_points(points, (width, height), orientation)


def canvas_of(pictures: Pictures, used: Sequence[int], path_of: Callable[[int], str], exif: Exif) -> Canvas:
    """Compare the file's sizes with the headers of those pictures, given by their places, that are used.

    Raises:
        DataError: a picture has another size than the file says.
    """
    headers = _headers(pictures, used, path_of)
    places = np.fromiter(headers, dtype=np.int64)
    stored = np.array([one.stored for one in headers.values()], dtype=np.int64).reshape(-1, 2)
    upright = np.array([one.size for one in headers.values()], dtype=np.int64).reshape(-1, 2)
    orientation = np.array([one.orientation for one in headers.values()], dtype=np.int64)
    given = pictures.sizes[places]
    told, as_stored, as_upright = (given > 0).all(axis=1), _same(given, stored), _same(given, upright)
    wrong = told & ~as_stored & (~as_upright | (exif == "ignore"))
    if wrong.any():
        place = int(places[wrong][0])
        share = f"{int(wrong.sum())} of {counted(len(places), 'picture')} looked at so"
        header = headers[place]
        raise DataError(_wrong_size(pictures, place, header, path_of(place), exif, share))
    sizes, orientations = pictures.sizes.copy(), np.full(len(pictures.ids), UPRIGHT)
    sizes[places] = stored if exif == "ignore" else upright
    turned = orientation != UPRIGHT
    if exif == "ignore":
        text = (
            f"EXIF orientation: {_some(pictures, places[turned])} stored turned and read as stored, "
            f"labels as they stand, by PoseSource.exif {exif}"
        )
        notes = [Note(kind="exif-ignored", text=text)] if turned.any() else []
        return Canvas(sizes=sizes, orientations=orientations, notes=tuple(notes))
    unknown = turned & (~told | _same(stored, upright))
    on_stored, on_upright = turned & ~unknown & as_stored, turned & ~unknown & ~as_stored
    guessed = exif == "apply" or bool(on_stored.any() and not on_upright.any())
    lying = on_stored | unknown if guessed else on_stored
    sizes[places[lying]], orientations[places[lying]] = stored[lying], orientation[lying]
    notes = _notes(pictures, places[on_stored], places[unknown], guessed)
    return Canvas(sizes=sizes, orientations=orientations, notes=tuple(notes))


def _same(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray((one == other).all(axis=1))


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

    given, places = pictures.sizes, np.asarray(used, dtype=np.int64)
    lacking = places[(given[places] < 1).any(axis=1)].tolist()
    step = len(used) // SAMPLED if len(used) > MOST_READ else 1
    read([*used[::step], *lacking])
    if step > 1 and any(one.orientation != UPRIGHT or one.stored != tuple(given[at]) for at, one in found.items()):
        read(used)
    return found


def _wrong_size(pictures: Pictures, place: int, header: Header, path: str, exif: Exif, share: str) -> str:
    """What to say of a picture that has another size than the file says, and what to do."""
    width, height = pictures.sizes[place].tolist()
    real = header.stored if exif == "ignore" else header.size
    text = (
        f"'width' and 'height' of {pictures.names[place]} are {width} x {height}, but {path} is {real[0]} x {real[1]} "
        f"pixels ({share}); "
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


def _notes(pictures: Pictures, stored: NDArray[np.int64], unknown: NDArray[np.int64], guessed: bool) -> list[Note]:
    """What is to be said of turned pictures, whose places are given."""
    notes, options = [], "PoseSource.exif ignore|apply: read the pictures as stored, or turn"
    if len(stored):
        text = (
            f"EXIF orientation: {_some(pictures, stored)} stored turned and labelled on the stored pixels, as "
            "width and height in the file tell; boxes and joints were turned upright with the picture. "
            f"{options} labels wherever the size does not tell, too"
        )
        notes.append(Note(kind="exif-turned", text=text))
    if len(unknown):
        done = "taken as lying on the stored pixels and turned upright" if guessed else "taken as upright"
        text = (
            f"EXIF orientation: {_some(pictures, unknown)} stored turned, whose size does not tell whether the "
            f"labels are for the stored pixels or the upright picture; {done}. {options} the labels"
        )
        notes.append(Note(kind="exif-unknown", text=text))
    return notes


def _some(pictures: Pictures, places: NDArray[np.int64]) -> str:
    names = listed((pictures.names[place] for place in places), _NAMED)
    return f"{counted(len(places), 'picture')} ({names})"
