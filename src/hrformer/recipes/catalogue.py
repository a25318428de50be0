"""All recipes by name."""

from __future__ import annotations

import difflib

from hrformer.recipes import coco, finetune, imagenet, photographs, segmentation, small_sets
from hrformer.recipes.recipe import Recipe

_ALL = (
    *imagenet.RECIPES,
    *coco.RECIPES,
    *segmentation.RECIPES,
    *finetune.RECIPES,
    *small_sets.RECIPES,
    *photographs.RECIPES,
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def list_recipes() -> list[str]:
    """Names, in the order of the catalogue."""
    return list(RECIPES)


def find_recipe(name: str) -> Recipe:
    """Recipe of this name; calling it gives the run.

    Raises:
        ValueError: there is none; the message names those spelt alike.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = [known for known in RECIPES if name and known.startswith(name)]
    close += [known for known in difflib.get_close_matches(name, RECIPES, 3) if known not in close]
    hint = f" Close matches: {', '.join(close[:6])}." if close else ""
    raise ValueError(f"no recipe is called {name!r}.{hint} `hrformer train` lists all")
