"""Draw where a cell of the finest map looks, with and without the depthwise convolution of the feed-forward networks.

    python examples/window_borders.py WITH.safetensors WITHOUT.safetensors --data ../shared/data

The second file is of a network with ``--model.ffn-kernel 1`` (the paper's ablation). For a cell beside the border of an
attention window: mean size of the gradient of its features, over people of LSPET's val part, by the cells that enter
the last blocks of the finest branch, and by the pixels of the crop. Prints the share from outside the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from hrformer.checkpoints.checkpoint import load_model
from hrformer.cli.evaluate import open_set
from hrformer.data.preprocess import crop_people, normalise
from hrformer.data.set_types import PoseSet
from hrformer.files import write_file
from hrformer.models.attention import window_padding
from hrformer.models.model import VisionModel
from hrformer.recipes.catalogue import find_recipe
from hrformer.train.config import with_fields

WINDOW = 7


@dataclass(frozen=True)
class Args:
    """Two pose models of 96 x 96 crops, and the people."""

    whole: tyro.conf.Positional[Path]  # trained with the convolution
    without: tyro.conf.Positional[Path]  # and without
    data: Path  # folder that holds lspet/
    people: int = 64
    out: Path = Path("docs/images/window_borders.png")


def border_cell(side: int) -> tuple[int, slice]:
    """Of a map of ``side`` cells the last cell of the second window, and the window's cells."""
    start = WINDOW - window_padding(side, side, WINDOW)[0]
    return start + WINDOW - 1, slice(start, start + WINDOW)


def crops_of(model: VisionModel, source: PoseSet, count: int) -> Tensor:
    """(B, 3, H, W) normalised crops of the first people."""
    spec = model.info.input_spec
    people = [source.person(index) for index in range(count)]
    rows = [crop_people(source.pixels(i), one.box[None], spec)[0][0] for i, one in enumerate(people)]
    return normalise(torch.from_numpy(np.stack(rows)), spec)


def influence(model: VisionModel, crops: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h, w) by the cells that enter the last blocks of the finest branch, and (H, W) by the pixels."""
    kept: dict[str, Tensor] = {}
    branch: nn.Module = model.backbone.stage4[-1].branches[0]

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept["in"], kept["out"] = inputs[0], output

    handle = branch.register_forward_hook(keep)
    pixels = crops.clone().requires_grad_()
    finest = next(iter(model.backbone(pixels).values()))
    handle.remove()
    cell, _ = border_cell(finest.shape[-1])
    inner = torch.autograd.grad(kept["out"][..., cell, cell].abs().sum(), kept["in"], retain_graph=True)[0]
    outer = torch.autograd.grad(finest[..., cell, cell].abs().sum(), pixels)[0]
    return inner.abs().sum(1).mean(0).numpy(), outer.abs().sum(1).mean(0).numpy()


def outside(values: NDArray[np.float32], cells: int) -> float:
    """Share of the influence from beyond the window."""
    scale = len(values) // cells
    window = border_cell(cells)[1]
    own = slice(window.start * scale, window.stop * scale)
    return 1 - float(values[own, own].sum() / values.sum())


def main(args: Args) -> None:
    """Draw both networks, and print the shares."""
    source = open_set(with_fields(find_recipe("lspet_tiny_short").run, {"data.root": args.data}), "val")
    assert isinstance(source, PoseSet)
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, (name, file) in zip(axes, (("with convolution", args.whole), ("without", args.without)), strict=True):
        model = load_model(file)[0].eval()
        maps = influence(model, crops_of(model, source, args.people))
        cells = len(maps[0])
        for place, values, what in zip(row, maps, ("cells of the branch", "pixels of the crop"), strict=True):
            scale, window = len(values) // cells, border_cell(cells)[1]
            place.imshow(np.sqrt(values), cmap="magma")
            for line in range(window.start % WINDOW, cells, WINDOW):
                place.axvline(line * scale - 0.5, color="white", linewidth=0.5)
                place.axhline(line * scale - 0.5, color="white", linewidth=0.5)
            share = outside(values, cells)
            place.set(title=f"{name}: {share:.1%} from other windows", xlabel=what, xticks=[], yticks=[])
            print(f"{name}, {what}: {share:.1%} from other windows")
    write_file(args.out, partial(figure.savefig, format="png", dpi=80))
    print(args.out)


if __name__ == "__main__":
    main(tyro.cli(Args))
