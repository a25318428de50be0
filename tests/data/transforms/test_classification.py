from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.mixup import Mixup
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision.transforms import v2

from hrformer.data.images import load_image
from hrformer.data.loader import seeded
from hrformer.data.preprocess import centre_crop
from hrformer.data.set_types import as_image, as_pixels
from hrformer.data.transforms.classification import (
    BatchMixer,
    TrainClassification,
    make_policy,
    prepare_picture,
)
from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.geometry.input_spec import InputSpec

NO_BATCH = {"erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}


@pytest.fixture(scope="module")
def photo(data_dir: Path) -> np.ndarray:
    """A real photograph, (H, W, 3)."""
    return load_image(sorted((data_dir / "coco_tiny" / "images").glob("*.jpg"))[0]).pixels


@pytest.fixture(scope="module")
def small(data_dir: Path) -> np.ndarray:
    """A CIFAR picture, (32, 32, 3)."""
    return load_image(sorted((data_dir / "cifar10" / "train" / "cat").glob("*.jpg"))[0]).pixels


def item_of(pixels: np.ndarray) -> dict[str, Any]:
    return {"image": as_image(pixels), "label": 3, "index": 17, "epoch": 2}


def draws(transform: TrainClassification, pixels: np.ndarray, count: int) -> list[np.ndarray]:
    outputs = []
    for seed in range(count):
        with seeded(seed):
            outputs.append(as_pixels(transform(item_of(pixels))["image"]))
    return outputs


@pytest.mark.parametrize(
    "settings",
    [
        ClassificationAugment(),
        ClassificationAugment(size=(96, 160), auto_augment="", interpolation="bilinear"),
        ClassificationAugment(size=(64, 64), crop="padded"),
        ClassificationAugment(auto_augment="original-mstd0.5"),
        ClassificationAugment(auto_augment="augmix-m5-w2-d1"),
    ],
)
def test_output_is_what_the_seed_says(settings: ClassificationAugment, small: np.ndarray) -> None:
    transform = TrainClassification(settings)
    again = pickle.loads(pickle.dumps(transform))
    outputs = draws(transform, small, 6)
    assert all(output.shape == (*settings.size, 3) and output.dtype == np.uint8 for output in outputs)
    assert all(np.array_equal(a, b) for a, b in zip(outputs, draws(again, small, 6), strict=True))
    assert len({output.tobytes() for output in outputs}) > 3
    item = transform(item_of(small))
    assert (sorted(item), item["label"], item["index"]) == (["image", "index", "label"], 3, 17)


def test_the_picture_itself_is_left_alone(photo: np.ndarray, small: np.ndarray) -> None:
    for pixels in (photo.copy(), small.copy()):
        before = pixels.copy()
        for crop in ("random_resized", "padded"):
            draws(TrainClassification(ClassificationAugment(size=(32, 32), crop=crop)), pixels, 4)
        assert np.array_equal(pixels, before)


def test_crop_is_resized_as_pillow_does(photo: np.ndarray) -> None:
    settings = ClassificationAugment(auto_augment="", flip=0)
    transform = TrainClassification(settings)
    drawn = v2.RandomResizedCrop(settings.size, settings.area, settings.ratio)
    shares = []
    for seed in range(12):
        with seeded(seed):
            box = drawn.make_params([as_image(photo)])
        with seeded(seed):
            ours = as_pixels(transform(item_of(photo))["image"])
        top, left, height, width = (box[name] for name in ("top", "left", "height", "width"))
        cut = Image.fromarray(photo[top : top + height, left : left + width])
        expected = np.asarray(cut.resize((224, 224), Image.Resampling.BICUBIC))
        difference = np.abs(ours.astype(int) - expected)
        # Rounding of the weights to integers; more only where Pillow resizes the sides in the other order.
        assert difference.mean() < (0.5 if height > 224 > width else 0.02)
        assert (difference > 1).mean() < 0.05
        shares.append(height * width / photo.shape[0] / photo.shape[1])
    assert 0.07 < min(shares) < 0.3 < max(shares) <= 1


def test_half_of_the_pictures_are_mirrored() -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2)
    for crop in ("random_resized", "padded"):
        settings = ClassificationAugment(size=(24, 24), auto_augment="", crop=crop)
        mirrored = [output[12, 2, 0] > output[12, -3, 0] for output in draws(TrainClassification(settings), ramp, 150)]
        assert 0.35 < np.mean(mirrored) < 0.65  # the standard error is 0.04
    assert not any(o[12, 2, 0] > o[12, -3, 0] for o in draws(TrainClassification(_without_flip()), ramp, 20))


def _without_flip() -> ClassificationAugment:
    return ClassificationAugment(size=(24, 24), auto_augment="", flip=0)


def test_padded_crop_is_a_window_of_the_reflected_picture(small: np.ndarray) -> None:
    settings = ClassificationAugment(size=(32, 32), crop="padded", padding=2, flip=0, auto_augment="")
    around = np.pad(small, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {around[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(5) for x in range(5)}
    found = {windows[output.tobytes()] for output in draws(TrainClassification(settings), small, 300)}
    assert len(found) == 25
    with pytest.raises(ValueError, match="padding of 40 pixels by reflection needs a larger picture than 32 x 32"):
        TrainClassification(ClassificationAugment(crop="padded", padding=40))(item_of(small))


def test_policy_is_the_one_timm_makes() -> None:
    settings = ClassificationAugment()
    _, second, _ = transforms_imagenet_train(
        224, interpolation="bicubic", auto_augment=settings.auto_augment, separate=True
    )
    (theirs,) = second.transforms
    ours = make_policy(settings)
    assert (repr(ours), ours.num_layers) == (repr(theirs), 2)
    for a, b in zip(ours.ops, theirs.ops, strict=True):
        assert (a.name, a.prob, a.magnitude, a.hparams, a.kwargs) == (b.name, b.prob, b.magnitude, b.hparams, b.kwargs)
        assert a.level_fn == b.level_fn


@pytest.mark.parametrize("policy", ["rand-m10-inc1-p1.0", "v0", "augmix-m10-w1-d1"])
def test_no_step_of_a_policy_fails(policy: str, small: np.ndarray) -> None:
    augment = make_policy(ClassificationAugment(auto_augment=policy))
    for _ in range(300):
        assert augment(Image.fromarray(small)).size == (32, 32)


def test_posterising_to_no_bits_gives_black(small: np.ndarray) -> None:
    policy = make_policy(ClassificationAugment(auto_augment="rand-m10-inc1-p1.0"))
    (step,) = (op for op in policy.ops if op.name == "PosterizeIncreasing")
    assert not np.asarray(step(Image.fromarray(small))).any()
    assert np.asarray(step.aug_fn(Image.fromarray(small), 2)).max() == small.max() & 0b11000000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_augment": "rand-m9-q3"}, "timm knows no policy 'rand-m9-q3'"),
        ({"auto_augment": "nonsense"}, "timm knows no policy 'nonsense'"),
        ({"interpolation": "best"}, "'best'"),
    ],
)
def test_unknown_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainClassification(ClassificationAugment(**changes))


def test_test_picture_is_the_centre_crop(photo: np.ndarray) -> None:
    spec = InputSpec(size=(96, 128), interpolation="bicubic")
    item = prepare_picture(item_of(photo), spec)
    assert np.array_equal(as_pixels(item["image"]), centre_crop(photo, spec))
    assert (item["image"].shape, item["label"], item["index"]) == ((3, 96, 128), 3, 17)


def batch_of(count: int, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures whose every value is their number, and labels 0, 1, 2 ..."""
    numbers = torch.arange(count)
    return numbers.float().view(-1, 1, 1, 1).expand(-1, 3, side, side).clone(), numbers


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_targets_say_how_much_of_whom_is_in_a_picture(count: int, mixup: float, cutmix: float) -> None:
    settings = ClassificationAugment(erasing=0, mixup=mixup, cutmix=cutmix, label_smoothing=0)
    mixer = BatchMixer(settings, 8)
    assert mixer.kinds == ("mixup" if mixup else "CutMix")
    partner = torch.arange(count).flip(0)
    if count % 2:
        partner = torch.cat([torch.arange(count), torch.tensor([min(1, count - 1)])]).flip(0)[:count]
        assert count == 1 or (partner != torch.arange(count)).all()
    for _ in range(20):
        images, targets = mixer(*batch_of(count))
        assert (images.shape, targets.shape, targets.dtype) == ((count, 3, 16, 16), (count, 8), torch.float32)
        assert torch.allclose(targets.sum(1), torch.ones(count), atol=1e-6)
        assert torch.allclose((targets * torch.arange(8.0)).sum(1), images.mean((1, 2, 3)), atol=1e-5)
        own = torch.arange(count)
        assert (targets[own, own] + torch.where(partner == own, 0.0, targets[own, partner]) > 1 - 1e-6).all()
        if cutmix:
            assert ((images == own.view(-1, 1, 1, 1)) | (images == partner.view(-1, 1, 1, 1))).all()


def test_even_batches_are_timms_own() -> None:
    settings = ClassificationAugment(erasing=0)
    theirs = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=10)
    for seed in range(10):
        with seeded(seed):
            ours = BatchMixer(settings, 10)(*batch_of(6))
        with seeded(seed):
            expected = theirs(*batch_of(6))
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_share_of_mixed_batches_and_of_cutmix() -> None:
    settings = ClassificationAugment(erasing=0, mix_probability=0.8, switch_probability=0.25, label_smoothing=0.2)
    mixer = BatchMixer(settings, 4)
    plain = cut = 0
    for _ in range(400):
        images, targets = mixer(*batch_of(4, 8))
        whole = bool((images == images[:, :, :1, :1]).all())
        if bool((targets.max(1).values > 0.8499).all()):
            plain += 1
            assert torch.allclose(targets.max(1).values, torch.tensor(0.85))
        cut += not whole
    assert 0.12 < plain / 400 < 0.32  # a fifth, and draws that mixed in almost nothing
    assert 0.12 < cut / 400 < 0.28


def test_erasing_fills_a_rectangle_with_noise_in_a_quarter_of_the_pictures() -> None:
    mixer = BatchMixer(ClassificationAugment(mixup=0, cutmix=0), 10)
    images, labels = mixer(torch.full((1200, 3, 32, 32), 9.0), torch.zeros(1200, dtype=torch.int64))
    assert labels.dtype == torch.int64
    erased = (images != 9).any(1)
    shares = erased.flatten(1).float().mean(1)
    assert 0.20 < (shares > 0).float().mean() < 0.30  # four standard errors are 0.05
    assert 0.01 < shares[shares > 0].min() < shares.max() < 0.36  # 0.02 to 1/3 before rounding to pixels
    for one in erased[shares > 0]:
        rows, columns = one.any(1), one.any(0)
        assert one.sum() == rows.sum() * columns.sum()
    noise = images[images != 9]
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_without_mixing_the_labels_stay_numbers() -> None:
    images, labels = batch_of(3)
    out = BatchMixer(ClassificationAugment(**NO_BATCH), 10)(images, labels)
    assert out[0] is images
    assert out[1] is labels
    smoothed = BatchMixer(ClassificationAugment(erasing=0, mix_probability=0), 10)(images, labels)[1]
    assert torch.allclose(smoothed[1], torch.where(torch.arange(10) == 1, 0.91, 0.01))


def test_mixing_repeats_under_a_seed_and_draws_nothing_else() -> None:
    mixer = BatchMixer(ClassificationAugment(), 10)
    results = []
    for seed in (1, 1, 2):
        with seeded(seed):
            random.random()
            results.append(mixer(*batch_of(9)))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][1], results[2][1])


def test_half_precision_pictures_stay_so() -> None:
    images, labels = batch_of(5)
    images, targets = BatchMixer(ClassificationAugment(erasing=1), 10)(images.bfloat16(), labels)
    assert (images.dtype, targets.dtype) == (torch.bfloat16, torch.float32)


def test_half_of_the_pictures_are_softened(photo: np.ndarray) -> None:
    options: dict[str, Any] = {"size": (64, 64), "area": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0, "auto_augment": ""}
    sharp = draws(TrainClassification(ClassificationAugment(**options)), photo, 1)[0]
    outputs = draws(TrainClassification(ClassificationAugment(**options, soften=0.5)), photo, 100)
    soft = [output for output in outputs if not np.array_equal(output, sharp)]
    assert 30 < len(soft) < 70
    edges = [np.abs(np.diff(output.astype(int), axis=1)).mean() for output in (sharp, *soft)]
    assert max(edges[1:]) < edges[0]
