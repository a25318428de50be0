"""The demo's photographs, points marked on them by hand, and what may honestly be said about a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hrformer.data.images import load_image
from hrformer.predict.results import Classification, Keypoints, Result, Segmentation

Point = tuple[float, float]

NEAR = 50
"""A predicted joint is called right within this many pixels of the mark: a tenth of the astronaut's picture."""


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
        box: the person's (x, y, width, height), pixels; it may leave the picture. None: the whole picture.
        joints: joint name -> (x, y), marked by hand.
        regions: class name -> points (x, y) inside it, marked by hand.
        labels: its classes among those of ``things``, any of which is right; empty where none fits.
        own: given on the command line, so nothing is known of what it shows.
    """

    name: str
    title: str
    pixels: NDArray[np.uint8] = field(repr=False)
    credit: str = ""
    link: str = ""
    shows: str = ""
    tasks: tuple[str, ...] = ("classification",)
    box: tuple[float, float, float, float] | None = None
    joints: Mapping[str, Point] = field(default_factory=dict)
    regions: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    own: bool = False


def package_photographs() -> list[Photograph]:
    """Photographs that are installed with scikit-image, scikit-learn and matplotlib.

    Raises:
        ModuleNotFoundError: one of the packages is not installed; they are the extra "demo".
    """
    return [*_people(), *_scenes(), *_objects()]


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
        tasks=("classification", "pose"),
        # Of the whole person, as in the training data: down to where her feet would be.
        box=(0, 0, 400, 1200),
        joints={
            "head_top": (228, 16),
            "neck": (228, 200),
            "right_shoulder": (85, 260),
            "left_shoulder": (320, 270),
            "right_elbow": (40, 440),
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
        labels=("person",),
    )
    photographer = Photograph(
        name="photographer",
        title="Photographer",
        pixels=np.repeat(np.asarray(data.camera())[:, :, None], 3, axis=2),
        credit="Photographer, by Lav Varshney, CC0; in scikit-image",
        link="https://scikit-image.org/docs/stable/api/skimage.data.html",
        shows="a man with a camera on a tripod",
        labels=("person",),
    )
    return [astronaut, admiral, photographer]


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
        tasks=("classification", "segmentation"),
        regions={
            "sky": ((60, 60), (300, 40), (450, 120), (600, 60)),
            "tree": ((30, 240), (60, 380), (480, 360), (610, 280)),
            "building": ((200, 110), (200, 150), (210, 215), (230, 270), (240, 345)),
        },
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
        "The model learnt from small pictures of whole people in sports and gymnastics, with noisy labels. "
        "Expect rough positions on one person who is fully visible and fills the box, and little else."
    ),
    "segmentation": (
        "The model learnt from 367 frames filmed from a car in one city. It knows eleven classes of the street, and "
        "every pixel gets one of them whatever it shows. Expect sense on streets seen from a car."
    ),
}


def caption(photograph: Photograph, result: Result) -> str:
    """What the prediction says, and how far it is right as far as that is known."""
    if isinstance(result, Keypoints):
        return _pose_caption(photograph, result)
    if isinstance(result, Segmentation):
        return _segmentation_caption(photograph, result)
    return _classification_caption(photograph, result)


def _pose_caption(photograph: Photograph, result: Keypoints) -> str:
    sure = int((result.keypoints[0, :, 2] > 0.2).sum())
    summary = f"Score {result.scores[0]:.2f}; {sure} of {len(result.names)} joints score above 0.2 and are drawn."
    if photograph.own:
        return f"The whole picture was taken for one person. {summary}"
    if not photograph.joints:
        return f"Nobody is in this picture; told that somebody fills it, the model finds joints all the same. {summary}"
    near: list[str] = []
    far: list[str] = []
    for name, point in photograph.joints.items():
        x, y, _ = result.keypoints[0, result.names.index(name)]
        (near if np.hypot(x - point[0], y - point[1]) <= NEAR else far).append(name)
    return (
        "Her box was given by hand after trying others, and ends where her feet would be, below the picture. "
        f"Of {len(photograph.joints)} joints marked by hand, the prediction is within {NEAR} pixels for "
        f"{_listed(near)} and farther off for {_listed(far)}. {summary}"
    )


def _segmentation_caption(photograph: Photograph, result: Segmentation) -> str:
    shares = [f"{result.name_of(k)} {share:.0%}" for k, share in result.shares().items() if share >= 0.01]
    summary = f"Found: {', '.join(shares)}."
    if photograph.own:
        return summary
    if not photograph.regions:
        return f"This is not a street, so no class is right. {summary}"
    counts = {name: (_hits(result, name, points), len(points)) for name, points in photograph.regions.items()}
    hits, total = (sum(column) for column in zip(*counts.values(), strict=True))
    each = ", ".join(f"{name} {right} of {number}" for name, (right, number) in counts.items())
    return (
        f"Of {total} points marked by hand, {hits} have the right class ({each}). The lake has no class of its own. "
        f"{summary}"
    )


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
        rows = result.keypoints[0]
        return [(name, float(score)) for name, score in zip(result.names, rows[:, 2], strict=True)]
    if isinstance(result, Segmentation):
        return [(result.name_of(k), share) for k, share in result.shares().items()]
    return list(zip(result.labels, result.probabilities, strict=True))
