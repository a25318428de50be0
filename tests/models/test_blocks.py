"""The residual blocks, each against its recipe written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.fast.optimize import optimize
from hrformer.models.blocks import BasicBlock, Bottleneck, ConvFFN, TransformerBlock
from hrformer.zoo import create_model


def settled(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics and affine parameters that change what they touch."""
    generator = torch.Generator().manual_seed(3)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(m.weight, 1.0, 0.2, generator=generator)
            nn.init.normal_(m.bias, 0.0, 0.2, generator=generator)
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0.0, 0.2, generator=generator)
            m.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def batch_norm(x: Tensor, m: nn.BatchNorm2d) -> Tensor:
    scale = m.weight / (m.running_var + 1e-5).sqrt()
    return x * scale[:, None, None] + (m.bias - m.running_mean * scale)[:, None, None]


def ffn(x: Tensor, m: ConvFFN) -> Tensor:
    """Recipe section 1.5."""
    hidden = m.fc1.out_channels
    x = F.gelu(batch_norm(F.conv2d(x, m.fc1.weight, m.fc1.bias), m.norm1))
    x = F.gelu(batch_norm(F.conv2d(x, m.dw3x3.weight, m.dw3x3.bias, padding=1, groups=hidden), m.norm2))
    return F.gelu(batch_norm(F.conv2d(x, m.fc2.weight, m.fc2.bias), m.norm3))


def test_ffn_follows_the_recipe() -> None:
    module, x = settled(ConvFFN(6, 24)), torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(module(x), ffn(x, module))


def test_ffn_convolutions_carry_a_bias() -> None:
    shapes = {name: tuple(p.shape) for name, p in ConvFFN(6, 24).named_parameters() if not name.startswith("norm")}
    assert shapes == {
        "fc1.weight": (24, 6, 1, 1),
        "fc1.bias": (24,),
        "dw3x3.weight": (24, 1, 3, 3),
        "dw3x3.bias": (24,),
        "fc2.weight": (6, 24, 1, 1),
        "fc2.bias": (6,),
    }


@pytest.mark.parametrize("size", [(7, 7), (8, 6), (3, 9), (1, 1)])
def test_transformer_block_follows_the_recipe(size: tuple[int, int]) -> None:
    block, x = settled(TransformerBlock(8, 2)), torch.randn(2, 8, *size)

    def norm(tokens: Tensor, m: nn.LayerNorm) -> Tensor:
        return F.layer_norm(tokens, (8,), m.weight, m.bias, 1e-6)

    tokens = x.permute(0, 2, 3, 1)
    tokens = tokens + block.attn(norm(tokens, block.norm1))
    expected = tokens.permute(0, 3, 1, 2) + ffn(norm(tokens, block.norm2).permute(0, 3, 1, 2), block.ffn)
    torch.testing.assert_close(block(x), expected)


def test_epsilons_and_momentum() -> None:
    for module in (TransformerBlock(8, 2), BasicBlock(8), Bottleneck(8, 4)):
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                assert (m.eps, m.momentum) == (1e-5, 0.1)
            if isinstance(m, nn.LayerNorm):
                assert m.eps == 1e-6


def test_drop_path_drops_both_residuals_per_sample() -> None:
    block = TransformerBlock(8, 2, drop_path=0.5).train()
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    x = torch.randn(1, 8, 7, 7)
    with torch.no_grad():
        batch = block(x.expand(200, -1, -1, -1))
    untouched = (batch == x).flatten(1).all(1).float().mean().item()
    assert untouched == pytest.approx(0.25, abs=0.1), "a sample that loses both residuals passes unchanged"
    assert len({tuple(sample.flatten().tolist()) for sample in batch}) == 4, "either residual, both, or none"
    assert torch.equal(block.eval()(x), block(x))


def test_no_drop_path_means_no_layer() -> None:
    assert isinstance(TransformerBlock(8, 2).drop_path, nn.Identity)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.1])
def test_ffn_needs_a_hidden_channel(ratio: float) -> None:
    with pytest.raises(ValueError, match="mlp_ratio must give at least 1 hidden channel"):
        TransformerBlock(8, 2, mlp_ratio=ratio)


def test_basic_block_follows_the_recipe() -> None:
    block, x = settled(BasicBlock(5)), torch.randn(2, 5, 6, 3)
    y = F.relu(batch_norm(F.conv2d(x, block.conv1.weight, padding=1), block.bn1))
    y = batch_norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
    torch.testing.assert_close(block(x.clone()), F.relu(x + y))


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("in_channels", [5, 16])
def test_bottleneck_follows_the_recipe(in_channels: int, depthwise: bool) -> None:
    block, x = settled(Bottleneck(in_channels, 4, depthwise=depthwise)), torch.randn(2, in_channels, 6, 3)
    y = F.relu(batch_norm(F.conv2d(x, block.conv1.weight), block.bn1))
    y = F.conv2d(y, block.conv2.weight, padding=1, groups=4 if depthwise else 1)
    y = batch_norm(F.conv2d(F.relu(batch_norm(y, block.bn2)), block.conv3.weight), block.bn3)
    shortcut = x
    if in_channels != 16:
        shortcut = batch_norm(F.conv2d(x, block.downsample[0].weight), block.downsample[1])
    else:
        assert isinstance(block.downsample, nn.Identity)
    torch.testing.assert_close(block(x.clone()), F.relu(shortcut + y))


@pytest.mark.parametrize("kernel", [1, 3])
def test_windows_talk_through_the_depthwise_convolution_alone(kernel: int) -> None:
    block = settled(TransformerBlock(8, 2, window=7, ffn_kernel=kernel))
    x = torch.randn(1, 8, 14, 14)
    other = x.clone()
    other[:, :, :7, :7] = torch.randn(1, 8, 7, 7)
    with torch.no_grad():
        changed = (block(x) - block(other)).abs().amax(dim=1)[0] > 1e-6
    assert changed[:7, :7].all()
    assert not changed[8:, :].any()
    assert changed[7, :8].any() == (kernel == 3)


def test_a_network_without_depthwise_convolutions_is_rebuilt_and_never_fused(tmp_path: Path) -> None:
    model = settled(create_model("hrformer_nano", "classification", num_classes=3, head_planes=4, ffn_kernel=1))
    loaded, report = load_model(save_checkpoint(model, tmp_path / "plain.safetensors"))
    assert report.fresh == ()
    x = torch.randn(1, 3, 64, 64)
    fast = optimize(loaded)
    assert fast.backend == "reference"
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
    with pytest.raises(ValueError, match="ffn_kernel must be odd, got 2"):
        create_model("hrformer_nano", ffn_kernel=2)
