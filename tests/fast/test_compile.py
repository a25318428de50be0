"""``torch.compile`` for open sizes: two graphs serve all of them, one where the sizes are said to be open at once.

At batch 1 PyTorch chooses its convolutions on the CPU by whether a map holds more than 20,480 numbers, and compiles
again where the choice changes; ours do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager

from hrformer.fast.coat import put_on
from hrformer.models.blocks import BasicBlock
from hrformer.models.heads import ClassificationConfig, ClassificationHead, OCRConfig, OCRHead, PoseHead
from hrformer.models.model import ModelInfo, VisionModel
from hrformer.models.trunk import HighResolutionTrunk, HRFormerConfig, HRNetConfig, build_hrformer

SIZES = [(96, 64), (128, 160), (97, 65), (33, 70), (112, 224), (56, 61), (40, 140)]
"""Heights and widths with and without padding of windows, odd ones, and maps smaller than a window.

Pictures on both sides of 20,480 numbers."""


def hrformer(head: str, training: bool) -> VisionModel:
    config = HRFormerConfig(
        channels=(8, 16, 24, 32),
        num_heads=(1, 2, 3, 4),
        num_modules=(1, 1, 1),
        num_blocks=1,
        upsample="bilinear" if head == "pose" else "nearest",
        multi_scale=head != "pose",
    )
    trunk = build_hrformer(config)
    maps = trunk.feature_info
    build: dict[str, Callable[[], nn.Module]] = {
        "pose": lambda: PoseHead(maps, 5),
        "segmentation": lambda: OCRHead(maps, 5, OCRConfig(channels=16, key_channels=8, aux_channels=8)),
        "classification": lambda: ClassificationHead(maps, 5, ClassificationConfig(planes=4, width=16)),
    }
    return put_on(VisionModel(trunk, build[head](), ModelInfo(name="small"))).train(training)


def compiled(model: nn.Module, **options: Any) -> tuple[Callable[[Tensor], Any], list[torch.fx.GraphModule]]:
    """The model traced and differentiated by the compiler without its code generation, and the graphs so far."""
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return aot_eager(graph, inputs) if model.training else graph.forward

    return torch.compile(model, backend=backend, fullgraph=True, **options), graphs


def assert_serves_all(model: nn.Module, batch: int, limit: int, **options: Any) -> None:
    run, graphs = compiled(model, **options)
    for size in SIZES:
        x = torch.randn(batch, 3, *size)
        with torch.no_grad():
            # float32 sums in another order
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-4)
    assert len(graphs) <= limit


@pytest.mark.slow
@pytest.mark.parametrize(("head", "batch"), [("pose", 1), ("pose", 2), ("segmentation", 1), ("classification", 1)])
def test_one_graph_serves_all_sizes(head: str, batch: int) -> None:
    assert_serves_all(hrformer(head, training=False), batch, 1, dynamic=True)


@pytest.mark.slow
def test_one_graph_of_hrnet_serves_all_sizes() -> None:
    """Of one block per branch and one module per stage, in which all of its operations stand."""
    whole = HRNetConfig(width=8, multi_scale=False).trunk
    config = replace(whole, stage1_blocks=1, num_modules=(1, 1, 1), num_blocks=1)
    trunk = HighResolutionTrunk(config, lambda branch, depth: BasicBlock(config.channels[branch]))
    model = put_on(VisionModel(trunk, PoseHead(trunk.feature_info, 5), ModelInfo(name="small"))).eval()
    assert_serves_all(model, 1, 1, dynamic=True)


@pytest.mark.slow
def test_a_second_size_opens_the_graph_for_all() -> None:
    """Without ``dynamic``: the first graph holds for its size alone."""
    assert_serves_all(hrformer("pose", training=False), 1, 2)


@pytest.mark.slow
def test_two_graphs_train_all_sizes() -> None:
    model = hrformer("pose", training=True)
    run, graphs = compiled(model, dynamic=True)
    for size in SIZES[:5]:
        run(torch.randn(2, 3, *size)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert len(graphs) <= 2
