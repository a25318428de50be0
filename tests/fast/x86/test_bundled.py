"""The bundled models in bfloat16: the scores of float32, on whole val sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrformer.checkpoints.checkpoint import load_model
from hrformer.checkpoints.registry import bundled_folder
from hrformer.cli.evaluate import open_set
from hrformer.evaluate.evaluate import evaluate
from hrformer.fast.optimize import optimize
from hrformer.fast.x86.library import find_half_library
from hrformer.recipes.catalogue import find_recipe
from hrformer.train.config import with_fields

POINT = 0.01


@pytest.mark.slow
@pytest.mark.skipif(find_half_library()[0] is None, reason=f"needs kernels in bfloat16: {find_half_library()[1]}")
@pytest.mark.parametrize(
    ("recipe", "name", "score"),
    [
        ("people17_tiny", "hrformer_tiny_people17", "AP"),
        ("petspeople_tiny", "hrformer_tiny_petspeople", "mean_iou"),
        ("things_tiny", "hrformer_tiny_things", "top1"),
    ],
)
def test_scores_are_within_a_tenth_of_a_point(recipe: str, name: str, score: str, data_dir: Path) -> None:
    config = with_fields(find_recipe(recipe).run, {"data.root": data_dir})
    if not (data_dir / config.data.name).is_dir():
        pytest.skip(f"the shared data has no {config.data.name}")
    source, model = open_set(config, "val"), load_model(bundled_folder() / f"{name}.safetensors")[0]
    found = {}
    for precision in ("fp32", "bf16"):
        fast = optimize(model, backend="native", precision=precision)
        found[precision] = evaluate(fast, source, config.evaluation, bootstrap=0, worst=0).scores[score]
    within = abs(found["bf16"] - found["fp32"]) <= 0.1 * POINT
    library = find_half_library()[0]
    assert library is not None
    if not within and (library.instruction_set, score) == ("avx512_bf16", "top1"):
        pytest.xfail(f"2 of 1,100 pictures were lost and none won, 0.18 point, when it was measured; now {found}")
    assert within, found
