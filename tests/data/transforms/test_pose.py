"""Crops of people: what is drawn, that picture and joints move together, and what the targets say."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrformer.data.loader import LoaderDataset, batches_of, seeded
from hrformer.data.order import Key
from hrformer.data.pose_sets import open_pose
from hrformer.data.preprocess import crop_people, warp
from hrformer.data.set_types import Person, PoseSet
from hrformer.data.source_config import PoseSource
from hrformer.data.transforms.pose import PoseParams, TrainPose, prepare_person
from hrformer.data.transforms.settings import PoseAugment
from hrformer.geometry.affine import crop_matrix, transform_points
from hrformer.geometry.boxes import box_to_crop
from hrformer.geometry.heatmaps import cells_to_image
from hrformer.geometry.input_spec import InputSpec
from hrformer.geometry.skeletons import COCO17, LSPET14, Skeleton
from parity import Golden

DRAWS = 2000
NOTHING = PoseAugment(
    size=(128, 96), shift_probability=0, flip=0, half_body=0, scale=0, rotation_probability=0, brightness=0
)
MMPOSE = PoseAugment(style="mmpose", shift=0.16, rotation=80)
INSIDE = (80, 80, 40, 60)  # a box whose crop lies inside the picture
LEGS_AND_ARMS = np.array([[100 + 10 * (joint % 2), 60 + 10 * joint, 2] for joint in range(17)], float)


class OnePerson(PoseSet):
    """One person in one picture."""

    skeleton = COCO17

    def __init__(self, joints: np.ndarray, pixels: np.ndarray, box: tuple[float, ...] = (60, 50, 90, 190)) -> None:
        self.joints, self.image, self.box = np.asarray(joints, float), pixels, np.array(box, float)

    def __len__(self) -> int:
        return 1

    def file(self, index: int) -> str:
        return "memory"

    def pixels(self, index: int) -> np.ndarray:
        return self.image

    def person(self, index: int) -> Person:
        return Person(image_id=1, person_id=1, box=self.box, keypoints=self.joints)


def item_of(joints: np.ndarray = LEGS_AND_ARMS, index: int = 0, **changes: Any) -> dict[str, Any]:
    """An item of a grey picture of 200 x 260 pixels."""
    pixels = changes.pop("pixels", np.full((260, 200, 3), 100, np.uint8))
    return OnePerson(joints, pixels, **changes).item(0, pixels) | {"index": index, "epoch": 0}


def transform_of(settings: PoseAugment, skeleton: Skeleton = COCO17) -> TrainPose:
    return TrainPose(settings, skeleton)


def drawn(settings: PoseAugment, *, indices: bool = False, **changes: Any) -> list[PoseParams]:
    """Many draws for one person, or for as many people that differ in their number only."""
    transform, item = transform_of(settings), item_of(**changes)
    return [transform.make_params(item | {"index": number if indices else 0}) for number in range(DRAWS)]


def share(values: Any, expected: float) -> Any:
    """A share of DRAWS, within four standard errors."""
    return pytest.approx(expected, abs=4 * (expected * (1 - expected) / DRAWS) ** 0.5) == np.mean(values)


def base_crop(settings: PoseAugment, box: tuple[float, ...] = (60, 50, 90, 190)) -> tuple[np.ndarray, np.ndarray]:
    centers, sizes = box_to_crop(np.array([box]), settings.size[1] / settings.size[0])
    return centers[0], sizes[0]


@pytest.mark.parametrize("style", ["official", "hrnet"])
def test_draws_of_hrnet_and_hrformer(style: Any) -> None:
    settings = PoseAugment(style=style, half_body=0, shift_probability=0)
    params = drawn(settings)
    center, size = base_crop(settings)
    assert all(np.array_equal(one.center, center) and one.gain == 1 for one in params)
    assert share([one.flip for one in params], 0.5)
    factors = np.array([one.size / size for one in params])
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-6)
    # A normal draw of deviation 0.5, cut to one deviation: 15.9 % of the draws lie on each end.
    assert share(np.isclose(factors[:, 0], 0.5), 0.1587)
    assert share(np.isclose(factors[:, 0], 1.5), 0.1587)
    assert np.abs(factors - 1).max() < 0.501
    turned = np.array([one.rotation for one in params if one.rotation])
    assert share([one.rotation != 0 for one in params], 0.6)
    assert np.abs(turned).max() == 80
    assert np.mean(np.abs(turned) == 80) == pytest.approx(0.0455, abs=0.02)
    assert np.abs(turned[np.abs(turned) < 80]).mean() == pytest.approx(29.6, abs=2)
    assert np.mean(turned) == pytest.approx(0, abs=4 * 40 / len(turned) ** 0.5)


def test_draws_of_mmpose() -> None:
    params = drawn(replace(MMPOSE, half_body=0))
    center, size = base_crop(MMPOSE)
    factors = np.array([one.size[0] / size[0] for one in params])
    assert 0.5 < factors.min() < 0.52
    assert 1.48 < factors.max() < 1.5
    # A standard normal cut to [-1, 1] has deviation 0.5396.
    assert factors.std() == pytest.approx(0.27, abs=0.01)
    turned = np.array([one.rotation for one in params if one.rotation])
    assert share([one.rotation != 0 for one in params], 0.6)
    assert np.abs(turned).max() < 80
    assert turned.std() == pytest.approx(80 * 0.5396, abs=2)
    # The jitter is a share of the padded box before it got the crop's aspect ratio: 112.5 x 237.5 pixels.
    shifts = np.array([one.center - center for one in params])
    moved = shifts.any(axis=1)
    assert share(moved, 0.3)
    assert (np.abs(shifts).max(axis=0) <= 0.16 * 1.25 * np.array([90, 190])).all()
    deviation = 0.16 * 0.5396 * 1.25 * np.array([90, 190])
    np.testing.assert_allclose(shifts[moved].std(axis=0), deviation, rtol=0.1)


def test_official_jitter_is_frozen_for_each_person() -> None:
    settings = PoseAugment(half_body=0)
    first, second = drawn(settings, indices=True), drawn(settings, indices=True)
    center, _ = base_crop(settings)
    shifts = np.array([one.center - center for one in first])
    np.testing.assert_array_equal(shifts, [one.center - center for one in second])
    assert any(a.rotation != b.rotation for a, b in zip(first, second, strict=True))
    moved = shifts.any(axis=1)
    assert share(moved, 0.3)
    assert (np.abs(shifts).max(axis=0) <= [18.001, 38.001]).all()
    np.testing.assert_allclose(np.abs(shifts[moved]).mean(axis=0), [9, 19], rtol=0.1)
    fresh = drawn(replace(settings, shift_once=False))
    assert share([not np.array_equal(one.center, center) for one in fresh], 0.3)
    assert len({tuple(one.center) for one in fresh}) > 500
    assert all(np.array_equal(one.center, center) for one in drawn(replace(settings, style="hrnet"), indices=True))


@pytest.mark.parametrize(("style", "upper"), [("official", 0.6915), ("hrnet", 0.6915), ("mmpose", 0.7)])
def test_half_body(style: Any, upper: float) -> None:
    settings = PoseAugment(style=style, shift_probability=0, scale=0)
    params = drawn(settings)
    whole, size = base_crop(settings)
    halves = {"upper": LEGS_AND_ARMS[:11, :2], "lower": LEGS_AND_ARMS[11:, :2]}
    taken = {name: [np.allclose(one.center, joints.mean(axis=0)) for one in params] for name, joints in halves.items()}
    assert share(taken["upper"], 0.3 * upper)
    assert share(taken["lower"], 0.3 * (1 - upper))
    for one, is_upper, is_lower in zip(params, taken["upper"], taken["lower"], strict=True):
        # Joints 0 to 10 span 100 pixels, joints 11 to 16 span 50; both are 10 wide, so the height decides.
        height = 1.5 * 100 if is_upper else 1.5 * 50 if is_lower else size[1]
        np.testing.assert_allclose(one.size, [height * 0.75, height], rtol=1e-5)
        assert is_upper or is_lower or np.array_equal(one.center, whole)


@pytest.mark.parametrize("style", ["official", "mmpose"])
@pytest.mark.parametrize(
    ("shown", "half"),
    [
        (range(8), None),  # too few
        ([*range(7), 15, 16], "upper"),  # two joints are too few for a lower half
        ([0, *range(9, 17)], "either"),
        (range(9), "upper"),
    ],
)
def test_half_body_needs_joints(style: Any, shown: Any, half: str | None) -> None:
    joints = LEGS_AND_ARMS.copy()
    joints[:, 2] = np.isin(np.arange(17), list(shown))
    settings = PoseAugment(style=style, shift_probability=0, half_body=1)
    transform, item = transform_of(settings), item_of(joints)
    visible, upper = joints[:, 2] > 0, np.arange(17) < 11
    places = {"upper": joints[visible & upper, :2], "lower": joints[visible & ~upper, :2]}
    seen = set()
    for _ in range(40):
        center = transform.make_params(item).center
        names = [name for name, points in places.items() if len(points) and np.allclose(center, points.mean(axis=0))]
        seen.add(names[0] if names else None)
    assert seen == ({"upper", "lower"} if half == "either" else {half})


def test_half_body_of_a_skeleton_that_knows_none() -> None:
    settings = PoseAugment(half_body=1, shift_probability=0)
    transform = transform_of(settings, replace(COCO17, upper_body=()))
    center, _ = base_crop(settings)
    assert all(np.array_equal(transform.make_params(item_of()).center, center) for _ in range(50))
    # Joints on one spot span no box.
    heap = np.tile([100.0, 100.0, 2.0], (17, 1))
    assert np.array_equal(transform_of(settings).make_params(item_of(heap)).center, center)


def test_portraits_end_below_the_shoulders() -> None:
    settings = replace(NOTHING, portrait=0.4)
    transform, item = transform_of(settings), item_of(pixels=np.full((260, 200, 3), 200, np.uint8))
    params = drawn(settings)
    rows = np.array([one.bottom for one in params if one.bottom is not None])
    assert share([one.bottom is not None for one in params], 0.4)
    # Between the middle of joints 0 to 10 and joint 11.
    assert (rows.min(), rows.max()) == pytest.approx((110, 170), abs=1)
    one = next(one for one in params if one.bottom == 140)
    shown = transform.apply(item, one)
    # Joints 0 to 7 lie above row 140, and their box down to it, 80 pixels high, decides the crop.
    assert shown["weights"].tolist() == [1] * 8 + [0] * 9
    np.testing.assert_allclose((*one.center, *one.size), (105, 100, 1.5 * 80 * 0.75, 1.5 * 80), rtol=1e-5)
    # A sixth of the crop lies below the end of the picture.
    column = shown["image"][0, :, 48].numpy()
    assert (column[:105] == 200).all()
    assert (column[109:] == 0).all()
    upside_down = LEGS_AND_ARMS * [1, -1, 1] + [0, 300, 0]
    assert all(one.bottom is None for one in drawn(replace(settings, portrait=1), joints=upside_down))
    # Of a person labelled beyond the picture's upper border nothing would be left.
    beyond = LEGS_AND_ARMS - [0, 400, 0]
    assert all(one.bottom is None for one in drawn(replace(settings, portrait=1), joints=beyond))


def test_brightness_is_one_factor_for_the_picture() -> None:
    transform = transform_of(replace(NOTHING, size=(32, 24), brightness=0.3))
    gains = []
    for _ in range(300):
        image = transform(item_of(box=INSIDE))["image"].numpy()
        assert image.min() == image.max()
        gains.append(image.max() / 100)
    assert 0.7 <= min(gains) < 0.75
    assert 1.25 < max(gains) <= 1.3
    assert np.mean(gains) == pytest.approx(1, abs=0.04)
    bright = item_of(box=INSIDE, pixels=np.full((260, 200, 3), 250, np.uint8))
    out = transform.apply(bright, replace(transform.make_params(bright), gain=1.3))
    assert (out["image"] == 255).all()


def color_of(joint: int) -> tuple[int, int, int]:
    return 60 + 11 * joint, 250 - 11 * joint, 200 if joint % 2 else 30


def dotted(joints: np.ndarray) -> np.ndarray:
    """A black picture with a disc of its own colour at each joint."""
    pixels = np.zeros((260, 200, 3), np.uint8)
    rows, columns = np.mgrid[:260, :200]
    for joint, (x, y, _) in enumerate(joints):
        pixels[(columns - x) ** 2 + (rows - y) ** 2 <= 4.5**2] = color_of(joint)
    return pixels


def spread(seed: int) -> np.ndarray:
    """17 joints at least 20 pixels apart, two in five rows of the picture's middle."""
    places = np.array([(30 + 46 * column, 40 + 38 * row) for row in range(5) for column in range(4)], float)
    chosen = np.random.default_rng(seed).permutation(len(places))[:17]
    return np.concatenate([places[chosen], np.full((17, 1), 2.0)], axis=1)


@pytest.mark.parametrize("style", ["official", "mmpose", "hrnet"])
def test_picture_and_joints_move_together(style: Any) -> None:
    settings = PoseAugment(style=style, size=(256, 192))
    transform = transform_of(settings)
    mirror = list(range(17))
    for left, right in COCO17.flip_pairs:
        mirror[left], mirror[right] = right, left
    looked_at, flips = 0, 0
    for seed in range(60):
        joints = spread(seed)
        item = item_of(joints, index=seed, pixels=dotted(joints))
        with seeded(seed):
            params = transform.make_params(item)
        out = transform.apply(item, params)
        flips += params.flip
        cells, scores = transform.codec.decode(out["targets"][None])
        for joint in torch.nonzero((out["weights"] > 0) & (scores[0] > 0.999)).ravel().tolist():
            x, y = (4 * cells[0, joint]).round().long().tolist()
            if 4 <= x < 188 and 4 <= y < 252 and params.size[0] < 220:
                expected = color_of(mirror[joint] if params.flip else joint)
                assert np.abs(out["image"][:, y, x].numpy().astype(int) - expected).max() <= 3, (seed, joint)
                looked_at += 1
    assert looked_at > 250
    assert 15 < flips < 45


def test_round_trip_stays_below_half_a_cell() -> None:
    settings = PoseAugment(size=(256, 192), shift_probability=0, half_body=0, flip=0)
    transform = transform_of(settings)
    worst, looked_at, upright = 0.0, 0, 0
    for seed in range(100):
        with seeded(seed):
            item = item_of(spread(seed))
            params = transform.make_params(item)
        cells, _ = transform.codec.decode(transform.apply(item, params)["targets"][None])
        points = item["keypoints"].numpy()
        there = transform_points(points, crop_matrix(params.center, params.size, (192, 256), params.rotation)) / 4
        # Joints whose nearest cell is on the map.
        inside = ((there > -0.5) & (there < (47.5, 63.5))).all(axis=1)
        worst = max(worst, float(np.abs(cells[0].numpy() - there)[inside].max(initial=0)))
        looked_at += int(inside.sum())
        if params.rotation == 0:
            back = cells_to_image(cells.numpy(), params.center[None], params.size[None], (64, 48))[0]
            assert np.abs(back - points)[inside].max(initial=0) <= params.size[0] / 48 / 2 + 1e-3
            upright += 1
    assert 0.45 < worst <= 0.5 + 1e-4
    assert looked_at > 800
    assert upright > 20


def test_unlabelled_and_distant_joints_weigh_nothing() -> None:
    joints = LEGS_AND_ARMS.copy()
    joints[3] = 0  # not labelled, at (0, 0)
    joints[4, 2] = 1  # labelled, hidden
    joints[5, :2] = (-300, 100)  # labelled, far outside
    joints[6] = (105, 120, 0)  # not labelled, inside
    box = (80, 40, 60, 200)
    for flip in (0.0, 1.0):
        settings = replace(NOTHING, flip=flip)
        out = transform_of(settings)(item_of(joints, box=box))
        expected = np.ones(17)
        # Mirrored, joint 3 (left ear) is joint 4, shoulder 5 is shoulder 6.
        expected[[4, 6, 5] if flip else [3, 5, 6]] = 0
        np.testing.assert_array_equal(out["weights"].numpy(), expected)
        assert not out["targets"][out["weights"] == 0].any()
        assert (out["targets"][out["weights"] > 0].amax(dim=(1, 2)) == 1).all()
    nobody = transform_of(PoseAugment(half_body=1))(item_of(np.zeros((17, 3))))
    assert not nobody["weights"].any()
    assert not nobody["targets"].any()


def test_official_mirroring_is_the_references(data_dir: Path, parity_dir: Path) -> None:
    golden = Golden.read(parity_dir / "protocol", "geometry")
    source = PoseSource(
        root=data_dir / "coco_tiny", val_annotations="annotations/person_keypoints.json", val_images=("images",)
    )
    people, settings = open_pose(source, "val"), PoseAugment(scale=0, rotation=0, half_body=0, shift=0, flip=1)
    transform = transform_of(settings)
    for index in range(len(people)):
        pixels = people.pixels(index)
        item = people.item(index, pixels) | {"index": index}
        out = transform(item)
        center, size = golden.arrays["official_flipped_center"][index], transform.make_params(item).size
        np.testing.assert_allclose(size, golden.arrays["official_scale200_256x192"][index] * 200, atol=2e-4)
        joints = golden.arrays["official_flipped_joints"][index]
        matrix = crop_matrix(center, size, (192, 256))
        targets, weights = transform.codec.encode(
            transform_points(joints, matrix)[None], golden.arrays["official_flipped_visible"][index][None]
        )
        np.testing.assert_array_equal(out["targets"].numpy(), targets[0])
        np.testing.assert_array_equal(out["weights"].numpy(), weights[0])
        crop = warp(np.ascontiguousarray(pixels[:, ::-1]), matrix, (192, 256))
        # The centre went through another order of float32 sums: 0.03 % of the values are one grey level off.
        difference = np.abs(out["image"].permute(1, 2, 0).numpy().astype(int) - crop)
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


@pytest.fixture
def people(data_dir: Path) -> PoseSet:
    """LSPET's validation part."""
    return open_pose(
        PoseSource(root=data_dir / "lspet", val_annotations="annotations/person_keypoints_val.json"), "val"
    )


@pytest.mark.parametrize("filter_", ["bilinear", "antialiased"])
def test_without_augmentation_training_sees_what_testing_sees(people: PoseSet, filter_: Any) -> None:
    transform = transform_of(replace(NOTHING, interpolation=filter_), LSPET14)
    spec = InputSpec(size=(128, 96), interpolation=filter_)
    for index in range(20):
        item = people.item(index, people.pixels(index)) | {"index": index}
        out, tested = transform(item), prepare_person(item, spec)
        assert torch.equal(out["image"], tested["image"])
        crops, centers, sizes = crop_people(people.pixels(index), people.person(index).box[None], spec)
        np.testing.assert_array_equal(tested["image"].permute(1, 2, 0).numpy(), crops[0])
        np.testing.assert_array_equal(tested["center"].numpy(), centers[0])
        np.testing.assert_array_equal(tested["size"].numpy(), sizes[0])


@pytest.mark.parametrize("encoding", ["dark", "udp"])
def test_unbiased_targets_and_crops(encoding: str) -> None:
    settings = replace(NOTHING, encoding=encoding)
    codec, item = settings.codec(), item_of()
    out = transform_of(settings)(item)
    _, centers, sizes = crop_people(
        item["image"].permute(1, 2, 0).numpy(), item["box"].numpy()[None], InputSpec(size=settings.size)
    )
    cells, _ = codec.decode(out["targets"][None])
    found = cells_to_image(cells, centers, sizes, codec.steps)[0]
    shown = out["weights"].numpy() > 0
    np.testing.assert_allclose(found[shown], LEGS_AND_ARMS[shown, :2], atol=0.3)
    assert (PoseAugment().codec().blur_kernel, PoseAugment(sigma=3).codec().blur_kernel) == (11, 17)


def test_batches_of_the_loader(people: PoseSet) -> None:
    settings = PoseAugment(size=(96, 96), brightness=0.2)
    order = [[Key(0, 0), Key(1, 0), Key(2, 0)], [Key(0, 1), Key(1, 0), Key(5, 0)]]
    runs = [list(batches_of(LoaderDataset(people, transform_of(settings, LSPET14), seed), order)) for seed in (1, 1, 2)]
    batch, later = runs[0]
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "image": ((3, 3, 96, 96), torch.uint8),
        "targets": ((3, 14, 24, 24), torch.float32),
        "weights": ((3, 14), torch.float32),
        "index": ((3,), torch.int64),
    }
    assert all(torch.equal(batch[key], runs[1][0][key]) for key in batch)
    assert torch.equal(batch["image"][1], later["image"][1])
    assert not torch.equal(batch["image"][0], later["image"][0])
    assert not torch.equal(batch["image"], runs[2][0]["image"])
    test = LoaderDataset(people, partial(prepare_person, spec=InputSpec(size=(96, 96))), 0)
    tested = next(iter(batches_of(test, order)))
    shapes = {key: tuple(value.shape) for key, value in tested.items()}
    assert shapes == {"image": (3, 3, 96, 96), "center": (3, 2), "size": (3, 2), "index": (3,)}


def test_the_item_is_left_alone_and_transforms_can_be_pickled(people: PoseSet) -> None:
    transform = pickle.loads(pickle.dumps(transform_of(PoseAugment(size=(128, 128), flip=1), LSPET14)))
    pixels = people.pixels(0)
    item = people.item(0, pixels) | {"index": 0}
    before = {key: item[key].clone() for key in ("image", "keypoints", "visible", "box")}
    with seeded(3):
        first = transform(item)
    with seeded(3):
        again = transform(item)
    assert all(torch.equal(item[key], value) for key, value in before.items())
    assert all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(again[key])) for key in first)


def test_no_picture_gets_darker_than_black() -> None:
    with pytest.raises(ValueError, match=r"brightness must lie in \[0, 1\], got 1.1"):
        transform_of(PoseAugment(brightness=1.1))


def test_some_crops_are_softened_and_joints_are_not() -> None:
    settings = replace(NOTHING, soften=0.4)
    sharpness = np.array([one.sharpness for one in drawn(settings)])
    assert share(sharpness < 1, 0.4)
    assert 0.35 <= sharpness.min() < 0.4
    assert {one.sharpness for one in drawn(NOTHING)} == {1.0}
    pixels = np.random.default_rng(0).integers(0, 256, (260, 200, 3), dtype=np.uint8)
    transform, item = transform_of(settings), item_of(pixels=pixels)
    params = replace(transform.make_params(item), sharpness=1.0)
    sharp, soft = (transform.apply(item, replace(params, sharpness=value)) for value in (1.0, 0.35))
    assert soft["image"].float().std() < 0.7 * sharp["image"].float().std()
    assert torch.equal(soft["targets"], sharp["targets"])
