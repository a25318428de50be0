"""Pictures with one class: crop, flip and RandAugment per picture; erasing, mixup and CutMix per batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, posterize, rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from hrformer.data.preprocess import centre_crop, draw_wear, worn
from hrformer.data.set_types import as_image, as_pixels
from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.geometry.input_spec import IMAGENET_MEAN, InputSpec


class TrainClassification:
    """Training picture in timm's order: crop, flip, automatic augmentation. All draws come from the global generators.

    Softening, which is ours, comes before the automatic augmentation.

    Resizing is torchvision's, antialiased on bytes: within one grey level of Pillow's filter, which timm uses, in 99 %
    of the values, and 2 to 6 times as fast (a few levels off at sharp edges where one side grows and the other
    shrinks, since Pillow then takes the sides in another order). The crop is drawn as timm draws it.

    With ``crop="padded"`` the picture is continued by reflection, cut back to its own size at a random place, flipped,
    and only then resized to ``size``.

    The settings up to ``auto_augment`` are used here, the rest by :class:`BatchMixer`.
    """

    def __init__(self, settings: ClassificationAugment) -> None:
        size, options = list(settings.size), {"interpolation": v2.InterpolationMode(settings.interpolation)}
        flip = v2.RandomHorizontalFlip(settings.flip)
        steps = [v2.RandomResizedCrop(size, settings.area, settings.ratio, **options), flip]
        if settings.crop == "padded":
            steps = [partial(_shifted, padding=settings.padding), flip, v2.Resize(size, **options)]
        self._crop = v2.Compose(steps)
        self._wear = settings.soften, settings.grey
        self._policy = make_policy(settings) if settings.auto_augment else None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """From ``image`` (3, H, W) uint8, ``label`` and ``index`` to the same with ``image`` of ``size``."""
        image = self._crop(item["image"])
        if any(self._wear):
            image = as_image(worn(as_pixels(image), *draw_wear(*self._wear, lambda: float(torch.rand(())))))
        if self._policy is not None:
            image = as_image(np.array(self._policy(Image.fromarray(as_pixels(image)))))
        return {"image": image, "label": item["label"], "index": item["index"]}


def prepare_picture(item: dict[str, Any], spec: InputSpec) -> dict[str, Any]:
    """In tests: the same item with ``image`` (3, H, W) uint8 of ``spec.size``, its centre."""
    image = as_image(centre_crop(as_pixels(item["image"]), spec))
    return {"image": image, "label": item["label"], "index": item["index"]}


class BatchMixer:
    """What is done to a whole batch on the device: random erasing, then mixup or CutMix, by timm.

    The pictures of a batch are paired first with last, and one draw decides for all of them. timm wants an even number.
    To an odd batch the second picture is added once more, so that each has a partner, and the addition's result is
    dropped; a batch of one stays as it is.

    Draws from the global generators of Python (erasing), torch (noise, on the device) and numpy (mixing). ``kinds``
    says in words what is done; empty for nothing.
    """

    def __init__(self, settings: ClassificationAugment, num_classes: int) -> None:
        kinds = {"erasing": settings.erasing, "mixup": settings.mixup, "CutMix": settings.cutmix}
        self.kinds = ", ".join(name for name, strength in kinds.items() if strength)
        self._erasing = settings.erasing
        self._mixup = None
        if settings.mixup or settings.cutmix:
            self._mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                prob=settings.mix_probability,
                switch_prob=settings.switch_probability,
                mode="batch",
                label_smoothing=settings.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Erase and mix ``images`` (B, 3, H, W), normalised, overwritten, with class ids ``labels`` (B,).

        Returns:
            Images, and targets: (B, C) float32 with rows that sum to 1, smoothed; where neither mixup nor CutMix is
            on, ``labels`` as they came, for a loss that smooths.
        """
        if self._erasing:
            images = RandomErasing(self._erasing, mode="pixel", max_count=1, device=images.device)(images)
        if self._mixup is None:
            return images, labels
        count = len(images)
        if count % 2:
            partner = min(1, count - 1)
            images = torch.cat([images, images[partner : partner + 1]])
            labels = torch.cat([labels, labels[partner : partner + 1]])
        images, targets = self._mixup(images, labels)
        return images[:count], targets[:count]


def make_policy(settings: ClassificationAugment) -> Callable[[Image.Image], Image.Image]:
    """timm's automatic augmentation of that name, with the arguments timm's ``transforms_imagenet_train`` gives it.

    Empty places are filled with ImageNet's mean colour; translations reach up to 0.45 of the shorter side. ValueError
    if timm does not know the policy.
    """
    name = settings.auto_augment
    arguments: dict[str, Any] = {
        "translate_const": int(min(settings.size) * 0.45),
        "img_mean": tuple(round(255 * value) for value in IMAGENET_MEAN),
        "interpolation": Image.Resampling[settings.interpolation.upper()],
    }
    try:
        if name.startswith("rand"):
            policy = rand_augment_transform(name, arguments)
        elif name.startswith("augmix"):
            policy = augment_and_mix_transform(name, arguments | {"translate_pct": 0.3})
        else:
            policy = auto_augment_transform(name, arguments)
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"auto_augment: timm knows no policy {name!r}; the published runs use 'rand-m9-mstd0.5-inc1'"
        ) from error
    steps = policy.ops if hasattr(policy, "ops") else chain.from_iterable(policy.policy)
    for step in steps:
        if step.aug_fn is posterize:
            step.aug_fn = _posterize
    return policy


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """timm's, but at magnitude 10 it asks for 0 bits: black, as in Pillow before version 13, which refuses."""
    return posterize(image, bits_to_keep) if bits_to_keep else Image.new(image.mode, image.size)


def _shifted(image: Tensor, padding: int) -> Tensor:
    """Move a picture by up to ``padding`` pixels in both directions, continuing it by reflection."""
    if not padding:
        return image
    height, width = image.shape[-2:]
    if padding >= min(height, width):
        raise ValueError(f"padding of {padding} pixels by reflection needs a larger picture than {width} x {height}")
    top, left = torch.randint(2 * padding + 1, (2,)).tolist()
    return tv.crop(tv.pad(image, [padding], padding_mode="reflect"), top, left, height, width)
