"""``hrformer models``: what can be built, how large it is, and which weights there are; and ``hrformer convert``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hrformer.checkpoints.checkpoint import LOAD_SETTINGS, convert_checkpoint
from hrformer.checkpoints.registry import WeightEntry, list_weights
from hrformer.cli.arguments import ConvertArguments, ModelsArguments
from hrformer.cli.messages import note, say, wide_console
from hrformer.models.attention import WindowAttention, window_padding
from hrformer.models.model import TASKS, Task
from hrformer.zoo import DEFAULT_CLASSES, INPUT_SPECS, create_model, list_models

DEFINITION = (
    "one multiply-add each in convolutions, linear layers and the two products of every attention, for one picture; "
    "the padding of windows counts, norms and resizing do not"
)

MEASURED: Mapping[str, tuple[tuple[int, int], ...]] = {
    "hrformer_nano": ((6_889_894, 1_370_805_670), (1_378_833, 1_110_591_888), (5_123_908, 63_154_461_940)),
    "hrformer_tiny": ((8_035_820, 1_708_032_196), (2_524_759, 1_485_305_088), (6_269_834, 65_103_045_460)),
    "hrformer_small": ((13_544_882, 3_364_326_080), (7_746_779, 3_244_958_464), (13_523_856, 107_114_854_688)),
    "hrformer_base": ((50_320_098, 13_308_176_164), (43_211_777, 13_906_995_600), (56_032_512, 271_050_467_830)),
    "hrformer_tiny_window13": ((8_085_068, 2_521_954_324), (2_574_007, 1_888_935_648), (6_319_082, 66_847_426_180)),
    "hrformer_tiny_window15": ((8_108_396, 2_326_800_484), (2_597_335, 2_363_034_336), (6_342_410, 68_535_788_596)),
    "hrformer_small_window13": ((13_600_514, 5_368_043_840), (7_802_411, 4_121_082_368), (13_579_488, 110_820_676_256)),
    "hrformer_small_window15": ((13_626_866, 4_731_792_064), (7_828_763, 5_222_545_920), (13_605_840, 114_743_361_568)),
    "hrformer_base_window13": (
        (50_431_362, 20_766_958_300),
        (43_323_041, 16_441_935_072),
        (56_143_776, 281_061_439_294),
    ),
    "hrformer_base_window15": (
        (50_484_066, 17_554_391_332),
        (43_375_745, 20_136_214_752),
        (56_196_480, 294_226_226_566),
    ),
    "hrnet_w18": ((21_299_004, 4_283_537_072), (9_318_215, 3_188_385_792), (13_259_706, 75_025_685_828)),
    "hrnet_w32": ((41_232_680, 8_921_133_056), (28_536_113, 7_645_003_776), (34_938_342, 133_058_531_328)),
    "hrnet_w48": ((77_469_864, 17_277_996_032), (63_595_745, 15_691_825_152), (73_169_766, 216_186_975_488)),
}
"""Model -> (parameters, multiply-adds) for each of ``TASKS``, with default outputs and sizes."""


def run_models(arguments: ModelsArguments) -> int:
    """Print the tables."""
    if arguments.size is not None and min(arguments.size) < 32:
        raise ValueError(f"--size must be at least 32 32 (height width), got {arguments.size}")
    weights = [entry for entry in list_weights() if _wanted(arguments.names, entry.name, entry.model)]
    models = [name for name in list_models() if _wanted(arguments.names, name)]
    if not models and not weights:
        raise ValueError(f"no model or weights match {' '.join(arguments.names)}; `hrformer models` lists all")
    console = wide_console()
    if models:
        console.print(_model_table(models, weights, arguments.size))
        outputs = ", ".join(f"{task} {count}" for task, count in DEFAULT_CLASSES.items())
        say(f"MACs: {DEFINITION}. Classes or keypoints: {outputs}.\n")
    if weights:
        console.print(_weight_table(weights))
        say('Use a name as --weights NAME or hrformer.load("NAME"); a local file works as well.')
    return 0


def _wanted(patterns: Sequence[str], *names: str) -> bool:
    return not patterns or any(pattern in name for pattern in patterns for name in names)


def _model_table(models: Sequence[str], weights: Sequence[WeightEntry], size: tuple[int, int] | None) -> Table:
    table = Table(title="Models", title_justify="left")
    table.add_column("name", no_wrap=True)
    for task in TASKS:
        height, width = size or INPUT_SPECS[task].size
        table.add_column(f"{task}\nparams", justify="right")
        table.add_column(f"{height}x{width}\nGMACs", justify="right")
    table.add_column("weights", justify="right")
    for name in models:
        cells = []
        for task in TASKS:
            parameters, macs = MEASURED[name][TASKS.index(task)] if size is None else measure(name, task, size)
            cells += [f"{parameters / 1e6:.2f} M", f"{macs / 1e9:.3f}"]
        available = sum(entry.model == name for entry in weights)
        table.add_row(name, *cells, str(available) if available else "-")
    return table


def _weight_table(weights: Sequence[WeightEntry]) -> Table:
    table = Table("name", "task", "input", "from", "result", title="Weights", title_justify="left")
    table.columns[0].no_wrap, table.columns[2].justify = True, "right"
    for entry in weights:
        height, width = entry.input_spec.size
        table.add_row(entry.name, entry.task or "backbone", f"{height}x{width}", entry.origin, entry.score)
    return table


@torch.no_grad()
def measure(name: str, task: Task, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Parameters, and multiply-adds as ``DEFINITION`` has them, of a model built without memory for its weights.

    PyTorch's counter sees every product but those of our window attention, which are left out of it and counted by
    formula: the code skips output projections of padded tokens that the published implementations compute. ``size`` is
    (height, width) of the input; None takes the task's usual one.
    """
    formula = 0

    def count_attention(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        nonlocal formula
        assert isinstance(module, WindowAttention)
        _, height, width, channels = args[0].shape
        left, right, top, bottom = window_padding(height, width, module.window)
        tokens = (height + top + bottom) * (width + left + right)
        formula += 4 * tokens * channels**2 + 2 * tokens * module.window**2 * channels

    with torch.device("meta"):
        model = create_model(name, task).eval()
        picture = torch.empty((1, 3, *(size or INPUT_SPECS[task].size)))
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, WindowAttention)}
    for module in attentions.values():
        module.register_forward_hook(count_attention)
    with FlopCounterMode(display=False) as counter:
        model(picture)
    by_module = counter.get_flop_counts()
    seen = sum(sum(by_module.get(f"{type(model).__name__}.{name}", {}).values()) for name in attentions)
    # The counter counts a multiply-add as two operations.
    macs = (counter.get_total_flops() - seen) // 2 + formula
    return sum(parameter.numel() for parameter in model.parameters()), macs


def run_convert(arguments: ConvertArguments) -> int:
    """Convert, and say what was found in the file."""
    options = {name: getattr(arguments, name) for name in ("to", "half", *LOAD_SETTINGS)}
    report = convert_checkpoint(arguments.source, arguments.destination, **options)
    note(str(report))
    say(f"wrote {arguments.destination}")
    return 0
