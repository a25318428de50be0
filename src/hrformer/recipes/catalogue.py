"""All recipes by name, and what their docstrings tell about them."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

from hrformer.recipes import (
    ade20k,
    cityscapes,
    coco,
    coco_stuff,
    finetune,
    imagenet,
    pascal_context,
    short_runs,
    small_sets,
    smoke,
)
from hrformer.train.config import AnyRun
from hrformer.train.config_file import task_of

Recipe = Callable[[], AnyRun]

RECIPES: dict[str, Recipe] = {
    "imagenet_tiny": imagenet.imagenet_tiny,
    "imagenet_small": imagenet.imagenet_small,
    "imagenet_base": imagenet.imagenet_base,
    "imagenet_hrnet_w18": imagenet.imagenet_hrnet_w18,
    "imagenet_hrnet_w32": imagenet.imagenet_hrnet_w32,
    "imagenet_hrnet_w48": imagenet.imagenet_hrnet_w48,
    "imagenet_deit_small": imagenet.imagenet_deit_small,
    "imagenet_deit_base": imagenet.imagenet_deit_base,
    "imagenet_swin_tiny": imagenet.imagenet_swin_tiny,
    "imagenet_swin_small": imagenet.imagenet_swin_small,
    "imagenet_swin_base": imagenet.imagenet_swin_base,
    "coco_small_256x192": coco.coco_small_256x192,
    "coco_small_384x288": coco.coco_small_384x288,
    "coco_base_256x192": coco.coco_base_256x192,
    "coco_base_384x288": coco.coco_base_384x288,
    "coco_small_256x192_mmpose": coco.coco_small_256x192_mmpose,
    "coco_small_384x288_mmpose": coco.coco_small_384x288_mmpose,
    "coco_base_256x192_mmpose": coco.coco_base_256x192_mmpose,
    "coco_base_384x288_mmpose": coco.coco_base_384x288_mmpose,
    "coco_hrnet_w32_256x192": coco.coco_hrnet_w32_256x192,
    "coco_hrnet_w32_384x288": coco.coco_hrnet_w32_384x288,
    "coco_hrnet_w48_256x192": coco.coco_hrnet_w48_256x192,
    "coco_hrnet_w48_384x288": coco.coco_hrnet_w48_384x288,
    "cityscapes_small": cityscapes.cityscapes_small,
    "cityscapes_base": cityscapes.cityscapes_base,
    "cityscapes_base_window15": cityscapes.cityscapes_base_window15,
    "cityscapes_hrnet_w48_ocr": cityscapes.cityscapes_hrnet_w48_ocr,
    "cityscapes_hrnet_w48": cityscapes.cityscapes_hrnet_w48,
    "pascal_context_small": pascal_context.pascal_context_small,
    "pascal_context_base": pascal_context.pascal_context_base,
    "pascal_context_base_window15": pascal_context.pascal_context_base_window15,
    "pascal_context_hrnet_w48_ocr": pascal_context.pascal_context_hrnet_w48_ocr,
    "pascal_context_hrnet_w48": pascal_context.pascal_context_hrnet_w48,
    "coco_stuff_small": coco_stuff.coco_stuff_small,
    "coco_stuff_base": coco_stuff.coco_stuff_base,
    "coco_stuff_base_window15": coco_stuff.coco_stuff_base_window15,
    "coco_stuff_hrnet_w48_ocr": coco_stuff.coco_stuff_hrnet_w48_ocr,
    "coco_stuff_hrnet_w48": coco_stuff.coco_stuff_hrnet_w48,
    "ade20k_small": ade20k.ade20k_small,
    "ade20k_base": ade20k.ade20k_base,
    "ade20k_base_window13": ade20k.ade20k_base_window13,
    "ade20k_hrnet_w48_ocr": ade20k.ade20k_hrnet_w48_ocr,
    "ade20k_hrnet_w48": ade20k.ade20k_hrnet_w48,
    "finetune_classification": finetune.finetune_classification,
    "finetune_pose": finetune.finetune_pose,
    "finetune_segmentation": finetune.finetune_segmentation,
    "cifar10_tiny": small_sets.cifar10_tiny,
    "cifar10_5k_tiny": small_sets.cifar10_5k_tiny,
    "cifar10_hrnet_w18": small_sets.cifar10_hrnet_w18,
    "cifar10_5k_hrnet_w18": small_sets.cifar10_5k_hrnet_w18,
    "lspet_tiny": small_sets.lspet_tiny,
    "lspet_hrnet_w18": small_sets.lspet_hrnet_w18,
    "camvid_tiny": small_sets.camvid_tiny,
    "camvid_hrnet_w18": small_sets.camvid_hrnet_w18,
    "cifar10_tiny_short": short_runs.cifar10_tiny_short,
    "cifar10_hrnet_w18_short": short_runs.cifar10_hrnet_w18_short,
    "lspet_tiny_short": short_runs.lspet_tiny_short,
    "lspet_hrnet_w18_short": short_runs.lspet_hrnet_w18_short,
    "camvid_tiny_short": short_runs.camvid_tiny_short,
    "camvid_hrnet_w18_short": short_runs.camvid_hrnet_w18_short,
    "smoke_classification": smoke.smoke_classification,
    "smoke_pose": smoke.smoke_pose,
    "smoke_segmentation": smoke.smoke_segmentation,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeFacts:
    """What the docstring of a recipe says.

    Attributes:
        name: of the recipe.
        task: of the run.
        title: first line.
        command: that starts it.
        hardware: it was meant for.
        time: it takes; what is not known is said to be so.
        score: published or measured, and by whom.
    """

    name: str
    task: str
    title: str
    command: str
    hardware: str
    time: str
    score: str


def list_recipes() -> list[str]:
    """Names, in the order of the catalogue."""
    return list(RECIPES)


def find_recipe(name: str) -> Recipe:
    """Function of this name; calling it gives the run.

    Raises:
        ValueError: there is none; the message names those spelt alike.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = [known for known in RECIPES if name and known.startswith(name)]
    close += [known for known in difflib.get_close_matches(name, RECIPES, 3) if known not in close]
    hint = f" Close matches: {', '.join(close[:6])}." if close else ""
    raise ValueError(f"no recipe is called {name!r}.{hint} `hrformer train` lists all")


def recipe_facts(name: str) -> RecipeFacts:
    """What the docstring of a recipe says.

    Raises:
        ValueError: there is no such recipe, or its docstring lacks a part.
    """
    recipe = find_recipe(name)
    text = inspect.getdoc(recipe) or ""
    parts = dict(re.findall(r"^(Command|Hardware|Time|Score): (.+(?:\n[^\n:]+$)*)", text, re.MULTILINE))
    if missing := {"Command", "Hardware", "Time", "Score"} - parts.keys():
        raise ValueError(f"the docstring of {name} lacks {', '.join(sorted(missing))}")
    return RecipeFacts(
        name=name,
        task=task_of(recipe()),
        title=text.splitlines()[0].rstrip(".").replace("``", ""),
        command=parts["Command"].strip().strip("`"),
        hardware=parts["Hardware"].strip(),
        time=parts["Time"].strip(),
        score=" ".join(parts["Score"].split()).rstrip("."),
    )
