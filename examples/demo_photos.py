"""The demo's photographs, points marked on them by hand, and what may honestly be said about a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import load_image
from hrformer.predict.results import Classification, Keypoints, Result, Segmentation

Point = tuple[float, float]
PEOPLE_TASKS = ("classification", "pose", "segmentation")
HEIGHT, SPACE = 400, 40  # of photographs side by side, and the white between them, in pixels

NEAR = 0.1
"""A predicted joint is called right within this share of the photograph's ``side`` from its mark."""


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A picture, and what a person sees in it.

    Attributes:
        name: start of the names of its files.
        title: what to call it on the page.
        pixels: (H, W, 3) uint8 RGB.
        credit: author, terms, and the package it comes in.
        link: where it was published.
        shows: "a cat": completes "the photograph shows ...".
        tasks: what is predicted on it.
        people: for each person joint name -> (x, y), marked by hand.
        regions: class name -> points (x, y) inside it, marked by hand.
        labels: its classes among those of ``things``, any of which is right; empty where none fits.
        own: given on the command line, so nothing is known of what it shows.
        side: longer side of the photograph, in pixels; of each photograph where several stand side by side.
    """

    name: str
    title: str
    pixels: NDArray[np.uint8] = field(repr=False)
    credit: str = ""
    link: str = ""
    shows: str = ""
    tasks: tuple[str, ...] = ("classification",)
    people: tuple[Mapping[str, Point], ...] = ()
    regions: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    own: bool = False
    side: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", self.side or max(self.pixels.shape[:2]))


def package_photographs() -> list[Photograph]:
    """Photographs that are installed with scikit-image, scikit-learn and matplotlib, and three of them side by side.

    Raises:
        ModuleNotFoundError: one of the packages is not installed; they are the extra "demo".
    """
    people = _people()
    return [*people, side_by_side(people), *_objects(), *_scenes()]


def _people() -> list[Photograph]:
    from matplotlib.cbook import get_sample_data
    from skimage import data

    astronaut = Photograph(
        name="astronaut",
        title="Astronaut",
        pixels=np.asarray(data.astronaut()),
        credit="Astronaut Eileen Collins, by NASA, public domain; in scikit-image",
        link="https://flic.kr/p/r9qvLn",
        shows="an astronaut, to the waist",
        tasks=PEOPLE_TASKS,
        people=(
            {
                "nose": (222, 127),
                "right_eye": (201, 106),
                "left_eye": (239, 106),
                "right_shoulder": (95, 275),
                "left_shoulder": (320, 265),
                "right_elbow": (45, 440),
            },
        ),
        regions={
            "person": ((220, 120), (200, 400), (100, 330), (300, 330)),
            "background": ((400, 60), (350, 150)),
        },
        labels=("person",),
    )
    admiral = Photograph(
        name="admiral",
        title="Rear admiral",
        pixels=load_image(get_sample_data("grace_hopper.jpg", asfileobj=False)).pixels,
        credit="Rear Admiral Grace Hopper, by James S. Davis, US Navy, public domain; in matplotlib",
        link="https://commons.wikimedia.org/wiki/File:Grace_Hopper.jpg",
        shows="a woman in uniform, to the chest",
        tasks=PEOPLE_TASKS,
        people=(
            {
                "nose": (262, 228),
                "right_eye": (221, 186),
                "left_eye": (307, 186),
                "right_shoulder": (67, 412),
                "left_shoulder": (454, 412),
            },
        ),
        regions={
            "person": ((256, 250), (256, 480), (120, 500), (400, 450)),
            "background": ((450, 100), (60, 200)),
        },
        labels=("person",),
    )
    photographer = Photograph(
        name="photographer",
        title="Photographer",
        pixels=np.repeat(np.asarray(data.camera())[:, :, None], 3, axis=2),
        credit="Photographer, by Lav Varshney, CC0; in scikit-image",
        link="https://scikit-image.org/docs/stable/api/skimage.data.html",
        shows="a man with a camera on a tripod",
        tasks=PEOPLE_TASKS,
        people=({"nose": (250, 167), "right_eye": (230, 144), "right_ear": (187, 142), "right_shoulder": (75, 175)},),
        regions={
            "person": ((120, 250), (200, 120), (60, 400)),
            "background": ((400, 50), (450, 400), (350, 260)),
        },
        labels=("person",),
    )
    return [astronaut, admiral, photographer]


def side_by_side(photographs: Sequence[Photograph]) -> Photograph:
    """One picture of several photographs of people, with their marks."""
    parts: list[NDArray[np.uint8]] = []
    people: list[Mapping[str, Point]] = []
    left = SPACE
    for one in photographs:
        factor = HEIGHT / one.pixels.shape[0]
        size = (round(one.pixels.shape[1] * factor), HEIGHT)
        shown = cv2.resize(one.pixels, size, interpolation=cv2.INTER_AREA)
        parts += [np.full((HEIGHT, SPACE, 3), 255, np.uint8), np.asarray(shown, np.uint8)]
        people += [{name: (x * factor + left, y * factor) for name, (x, y) in person.items()} for person in one.people]
        left += size[0] + SPACE
    return Photograph(
        name="people",
        title="Side by side",
        pixels=np.concatenate([*parts, parts[0]], axis=1),
        credit="The three above",
        link=photographs[0].link,
        shows=f"{len(people)} people, each in a photograph of their own",
        tasks=("pose",),
        people=tuple(people),
        side=max(max(part.shape[:2]) for part in parts),
    )


def _scenes() -> list[Photograph]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    china = Photograph(
        name="china",
        title="China",
        pixels=np.array(load_sample_image("china.jpg")),
        credit="Tower above a lake, by danielbuechele, CC BY 2.0, predictions drawn in; in scikit-learn",
        link="https://www.flickr.com/photos/danielbuechele/6061409035/",
        shows="a tower between trees, above a lake",
        labels=("tower", "building"),
    )
    motorcycle = Photograph(
        name="motorcycle",
        title="Motorcycle",
        pixels=np.asarray(data.stereo_motorcycle()[0]),
        credit="Motorcycle of the Middlebury stereo data sets, by Daniel Scharstein and others, CC0; in scikit-image",
        link="https://vision.middlebury.edu/stereo/data/scenes2014/",
        shows="a motorcycle in a garage",
        labels=("motorbike",),
    )
    rocket = Photograph(
        name="rocket",
        title="Rocket",
        pixels=np.asarray(data.rocket()),
        credit="Rocket before its start, by SpaceX, CC0; in scikit-image",
        link="https://www.flickr.com/photos/spacexphotos/16511594820/",
        shows="a rocket between pylons at night",
    )
    return [china, motorcycle, rocket]


def _objects() -> list[Photograph]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    cat = Photograph(
        name="cat",
        title="Cat",
        pixels=np.asarray(data.cat()),
        credit="Chelsea the cat, by Stéfan van der Walt, CC0; in scikit-image",
        link="https://scikit-image.org/docs/stable/api/skimage.data.html",
        shows="a cat's face",
        tasks=("classification", "segmentation"),
        regions={"cat": ((220, 150), (120, 60), (350, 220))},
        labels=("cat",),
    )
    coffee = Photograph(
        name="coffee",
        title="Coffee",
        pixels=np.asarray(data.coffee()),
        credit="Coffee, by Rachel Michetti, CC0; in scikit-image",
        link="https://scikit-image.org/docs/stable/api/skimage.data.html",
        shows="a cup of coffee on a saucer",
        labels=("cup",),
    )
    flower = Photograph(
        name="flower",
        title="Flower",
        pixels=np.array(load_sample_image("flower.jpg")),
        credit="Dahlia, by dany13, CC BY 2.0, predictions drawn in; in scikit-learn",
        link="https://www.flickr.com/photos/dany13/4984216358/",
        shows="a dahlia",
        labels=("flower",),
    )
    return [cat, coffee, flower]


EXPECT = {
    "classification": (
        "The model learnt 55 everyday classes from pictures of 64 and 96 pixels, and every picture gets one of them. "
        "Expect sense where one such thing fills most of the picture."
    ),
    "pose": (
        "The model learnt COCO's 17 joints from small pictures of people in sports and on streets. It is told nothing: "
        "the regions that the segmentation model below calls a person are the people. Expect joints of upright people, "
        "and less of those who lie, hang or hide each other."
    ),
    "segmentation": (
        "The model learnt people, cats, dogs, horses, cows and sheep from 4,086 pictures; everything else is "
        "background. Expect the right shape where one of them is large, with soft edges."
    ),
}


def caption(photograph: Photograph, result: Result) -> str:
    """What the prediction says, and how far it is right as far as that is known."""
    if isinstance(result, Keypoints):
        return _pose_caption(photograph, result)
    if isinstance(result, Segmentation):
        return _segmentation_caption(photograph, result)
    return _classification_caption(photograph, result)


def verdict(photograph: Photograph, result: Result) -> tuple[str, bool | None]:
    """The same in a few words, and whether most of it is right; None where the marks do not say."""
    if isinstance(result, Keypoints):
        near, far = joints_right(photograph, result)
        return f"{len(near)} of {len(near) + len(far)} joints right", len(near) > len(far)
    if isinstance(result, Segmentation):
        hits, total = _summed(points_right(photograph, result))
        return f"{hits} of {total} points right", 2 * hits > total
    said = f"{result.labels[0]}, {result.probabilities[0]:.0%}"
    if not photograph.labels:
        return f"{said}: none of the classes", None
    right = result.labels[0] in photograph.labels
    return f"{said}: {'right' if right else 'wrong'}", right


def _pose_caption(photograph: Photograph, result: Keypoints) -> str:
    count = len(result.keypoints)
    summary = f"Found: {count} {'person' if count == 1 else 'people'}."
    if photograph.own or not photograph.people:
        return summary
    near, far = joints_right(photograph, result)
    return (
        f"{summary} Of {len(near) + len(far)} joints marked by hand, the prediction is within "
        f"{NEAR:.0%} of a photograph's longer side for {_listed(near)} and farther off for {_listed(far)}."
    )


def joints_right(photograph: Photograph, result: Keypoints) -> tuple[list[str], list[str]]:
    """Names of marked joints that the nearest person found has right, and of the others."""
    near: list[str] = []
    far: list[str] = []
    for person in photograph.people:
        columns = [result.names.index(name) for name in person]
        errors = np.full(len(columns), np.inf)
        if len(result.keypoints):
            distances = np.linalg.norm(result.keypoints[:, columns, :2] - np.array(list(person.values())), axis=2)
            errors = distances[distances.mean(axis=1).argmin()]
        for name, error in zip(person, errors, strict=True):
            (near if error <= NEAR * photograph.side else far).append(name)
    return near, far


def _segmentation_caption(photograph: Photograph, result: Segmentation) -> str:
    shares = [f"{result.name_of(k)} {share:.0%}" for k, share in result.shares().items() if share >= 0.01]
    summary = f"Found: {', '.join(shares)}."
    if photograph.own:
        return summary
    right = points_right(photograph, result)
    hits, total = _summed(right)
    each = ", ".join(f"{name} {right} of {number}" for name, (right, number) in right.items())
    return f"Of {total} points marked by hand, {hits} have the right class ({each}). {summary}"


def points_right(photograph: Photograph, result: Segmentation) -> dict[str, tuple[int, int]]:
    """By class how many marked points have it, and how many there are."""
    return {name: (_hits(result, name, points), len(points)) for name, points in photograph.regions.items()}


def _summed(right: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(hits for hits, _ in right.values()), sum(total for _, total in right.values())


def _classification_caption(photograph: Photograph, result: Classification) -> str:
    best, sure = result.labels[0], f"{result.probabilities[0]:.0%}"
    if photograph.own:
        return f"Best guess: {best}, {sure}."
    if not photograph.labels:
        return f"The photograph shows {photograph.shows}: none of the classes. The model says {best}, {sure}."
    if best in photograph.labels:
        return f"Right: {best}, {sure}."
    places = [result.labels.index(label) + 1 for label in photograph.labels if label in result.labels]
    wanted = " or ".join(photograph.labels)
    where = f"is in place {min(places)}" if places else f"is not among the best {len(result.labels)}"
    return f"Wrong: the model says {best}, {sure}; the photograph shows {photograph.shows}, {wanted} {where}."


def _hits(result: Segmentation, name: str, points: tuple[Point, ...]) -> int:
    return sum(result.name_of(int(result.mask[round(y), round(x)])) == name for x, y in points)


def _listed(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def numbers(result: Result) -> list[tuple[str, float]]:
    """Rows of the table under a prediction: joint, class or label, and its score or share."""
    if isinstance(result, Keypoints):
        rows = result.keypoints[:1]
        return [(name, float(score)) for row in rows for name, score in zip(result.names, row[:, 2], strict=True)]
    if isinstance(result, Segmentation):
        return [(result.name_of(k), share) for k, share in result.shares().items()]
    return list(zip(result.labels, result.probabilities, strict=True))
