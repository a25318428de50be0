"""The three heads, on maps of any backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.models.heads import ClassificationConfig, ClassificationHead, FCNHead, OCRConfig, OCRHead, PoseHead
from hrformer.models.trunk import FeatureInfo

TINY, SMALL, BASE = (18, 36, 72, 144), (32, 64, 128, 256), (78, 156, 312, 624)


def features(channels: tuple[int, ...], strides: tuple[int, ...] = (4, 8, 16, 32)) -> list[FeatureInfo]:
    pairs = zip(channels, strides[: len(channels)], strict=True)
    return [FeatureInfo(name=f"m{i}", channels=c, stride=s) for i, (c, s) in enumerate(pairs)]


def random_maps(infos: list[FeatureInfo], size: tuple[int, int], batch: int = 2) -> dict[str, Tensor]:
    return {i.name: torch.randn(batch, i.channels, -(-size[0] // i.stride), -(-size[1] // i.stride)) for i in infos}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def classification(infos: list[FeatureInfo], classes: int = 1000, **options) -> ClassificationHead:
    return ClassificationHead(infos, classes, ClassificationConfig(**options))


class TestClassification:
    @pytest.mark.parametrize(
        ("channels", "bottlenecks", "total"),
        [(TINY, 606_880, 5_463_432), (SMALL, 797_280, 5_653_832), (BASE, 1_422_880, 6_279_432)],
    )
    def test_sizes(self, channels: tuple[int, ...], bottlenecks: int, total: int) -> None:
        """``shared/recipes.md``, table 1.11."""
        with torch.device("meta"):
            head = classification(features(channels))
        parts = (head.incre_modules, head.downsamp_modules, head.final_layer, head.classifier)
        assert [count(p) for p in parts] == [bottlenecks, 704_256, 2_103_296, 2_049_000]
        assert count(head) == total

    @pytest.mark.parametrize("depthwise", [True, False])
    @pytest.mark.parametrize("size", [(64, 48), (61, 83)])
    def test_follows_the_recipe(self, size: tuple[int, int], depthwise: bool) -> None:
        infos = features((4, 8, 16, 32))
        head = classification(infos, 5, planes=2, width=16, depthwise=depthwise).eval()
        maps = random_maps(infos, size)
        y = head.incre_modules[0](maps["m0"])
        for i in range(3):
            y = head.incre_modules[i + 1](maps[f"m{i + 1}"]) + head.downsamp_modules[i](y)
        pooled = head.final_layer(y).mean((2, 3))
        expected = F.linear(pooled, head.classifier.weight, head.classifier.bias)
        torch.testing.assert_close(head(maps, size), expected)

    def test_dropout_comes_before_the_linear_layer(self) -> None:
        infos = features((4, 8))
        head = classification(infos, 5, planes=2, width=16, drop_rate=0.5)
        pooled = torch.ones(1000, 16)
        with torch.no_grad():
            head.classifier.weight.fill_(1.0)
            head.classifier.bias.zero_()
            mean, spread = head.classify(pooled).mean().item(), head.classify(pooled).std().item()
            assert mean == pytest.approx(16, rel=0.05)
            assert spread == pytest.approx(4, rel=0.15)
            assert (head.eval().classify(pooled) == 16).all()

    @pytest.mark.parametrize("strides", [(16, 16, 16), (4, 16), (8, 32), (4, 8, 8, 32), (16,)])
    def test_any_strides(self, strides: tuple[int, ...]) -> None:
        infos = features((6,) * len(strides), strides)
        head = classification(infos, 3, planes=2, width=8)
        logits = head(random_maps(infos, (61, 83)), (61, 83))
        logits.sum().backward()
        assert logits.shape == (2, 3)
        assert all(p.grad is not None for p in head.parameters())

    def test_without_classes(self) -> None:
        infos = features((4, 8))
        assert classification(infos, 0, planes=2, width=16)(random_maps(infos, (64, 64)), (64, 64)).shape == (2, 16)


class TestPose:
    def test_is_one_convolution(self) -> None:
        head, maps = PoseHead(features((6,), (4,)), 17), {"m0": torch.randn(2, 6, 16, 12)}
        assert count(head) == 6 * 17 + 17
        expected = F.conv2d(maps["m0"], head.final_layer.weight, head.final_layer.bias)
        assert torch.equal(head(maps, (64, 48)), expected)

    @pytest.mark.parametrize("strides", [(4, 8, 16, 32), (16, 16), (8,), (2, 4)])
    @pytest.mark.parametrize("size", [(64, 48), (61, 83)])
    def test_resizes_and_stacks_several_maps(self, size: tuple[int, int], strides: tuple[int, ...]) -> None:
        infos = features((3, 5, 7, 9)[: len(strides)], strides)
        head, maps = PoseHead(infos, 4), random_maps(infos, size)
        target = (-(-size[0] // 4), -(-size[1] // 4))
        stack = [F.interpolate(m, target, mode="bilinear", align_corners=False) for m in maps.values()]
        expected = F.conv2d(torch.cat(stack, 1), head.final_layer.weight, head.final_layer.bias)
        torch.testing.assert_close(head(maps, size), expected)


def ocr(infos: list[FeatureInfo], classes: int = 5, **options) -> OCRHead:
    return OCRHead(infos, classes, OCRConfig(**({"channels": 16, "key_channels": 8, "aux_channels": 16} | options)))


class TestOCR:
    def test_gather_equals_loops(self) -> None:
        pixels, logits = torch.randn(2, 6, 4, 3), torch.randn(2, 5, 4, 3)
        regions = OCRHead.gather(pixels, logits)
        assert regions.shape == (2, 6, 5, 1)
        for b in range(2):
            for k in range(5):
                weight = logits[b, k].flatten().softmax(0).view(4, 3)
                torch.testing.assert_close(regions[b, :, k, 0], (pixels[b] * weight).sum((1, 2)))

    @pytest.mark.parametrize("size", [(64, 48), (61, 83)])
    def test_follows_the_recipe(self, size: tuple[int, int]) -> None:
        infos = features((4, 6, 8, 10))
        head, maps = ocr(infos).eval(), random_maps(infos, size)
        target = tuple(maps["m0"].shape[-2:])
        x = torch.cat([F.interpolate(m, target, mode="bilinear", align_corners=True) for m in maps.values()], 1)
        pixels, logits = head.pixel(x), head.aux(x)
        regions = OCRHead.gather(pixels, logits)
        attention = head.attention
        query = attention.pixel(pixels).flatten(2)  # (B, 8, P)
        key, value = attention.object(regions).flatten(2), attention.value(regions).flatten(2)  # (B, 8, R)
        similarity = torch.einsum("bcp,bcr->bpr", query, key) / 8**0.5
        context = torch.einsum("bpr,bcr->bcp", similarity.softmax(2), value).view(2, 8, *target)
        merged = head.merge[:3](torch.cat([attention.up(context), pixels], 1))
        expected = F.interpolate(head.classifier(merged), size, mode="bilinear", align_corners=True)
        torch.testing.assert_close(head(maps, size), expected)

    def test_training_returns_auxiliary_then_main(self) -> None:
        infos = features((4, 6, 8, 10))
        head, maps = ocr(infos, dropout=0.0).train(), random_maps(infos, (64, 48))
        with torch.no_grad():
            head.aux[-1].bias.fill_(100.0)
            head.classifier.bias.fill_(-100.0)
        auxiliary, main = head(maps, (64, 48))
        assert auxiliary.shape == main.shape == (2, 5, 64, 48)
        assert auxiliary.min() > 50
        assert main.max() < -50

    def test_published_convolutions_carry_a_bias(self) -> None:
        head = OCRHead(features(SMALL), 19, OCRConfig())
        assert all(m.bias is not None for m in head.modules() if isinstance(m, nn.Conv2d))
        assert head.aux[0].weight.shape == (512, 480, 3, 3)
        assert head.merge[-1].p == 0.05

    def test_hrnets_form(self) -> None:
        """Its repository keeps the input width in a 1x1 auxiliary head, and leaves out some biases."""
        head = OCRHead(
            features((48, 96, 192, 384)), 19, OCRConfig(aux_channels=None, aux_kernel=1, attention_bias=False)
        )
        assert head.aux[0].weight.shape == (720, 720, 1, 1)
        without = {name for name, m in head.named_modules() if isinstance(m, nn.Conv2d) and m.bias is None}
        names = ("pixel.0", "pixel.3", "object.0", "object.3", "value.0", "up.0")
        assert without == {f"attention.{name}" for name in names} | {"merge.0"}


@pytest.mark.parametrize("align", [False, True])
def test_fcn_head_is_two_convolutions_on_the_resized_maps(align: bool) -> None:
    head = FCNHead(features(SMALL), 5).eval()
    head.align_corners = align
    maps = {f.name: torch.randn(2, f.channels, -(-61 // f.stride), -(-83 // f.stride)) for f in features(SMALL)}
    first, *rest = maps.values()
    options: dict[str, Any] = {"mode": "bilinear", "align_corners": align}
    x = torch.cat([first, *(F.interpolate(m, first.shape[-2:], **options) for m in rest)], 1)
    expected = F.interpolate(head.last_layer(x), (61, 83), **options)
    torch.testing.assert_close(head(maps, (61, 83)), expected)
    assert isinstance(head.train()(maps, (61, 83)), torch.Tensor), "there is no auxiliary output"


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ClassificationConfig, {"planes": 0}, "head_planes and head_width must be at least 1, got 0 and 2048"),
        (ClassificationConfig, {"drop_rate": 1.0}, r"drop_rate must lie in \[0, 1\)"),
        (OCRConfig, {"key_channels": 0}, "ocr_key_channels must be at least 1, got 512 and 0"),
        (OCRConfig, {"dropout": 1.5}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_bad_shapes_are_refused(config: type, values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)
