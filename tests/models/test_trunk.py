"""The trunk: its parts, its maps, its switches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hrformer.models.attention import WindowAttention
from hrformer.models.fusion import UPSAMPLE_MODES
from hrformer.models.trunk import HighResolutionTrunk, HRFormerConfig, TrunkConfig
from hrformer.zoo import backbone_config, build_backbone

PARTS = {
    "hrformer_tiny": (145_408, 124_524, 49_164, 23_472, 583_440, 93_600, 1_513_932),
    "hrformer_small": (145_408, 221_376, 142_166, 73_984, 2_330_744, 295_424, 4_643_100),
    "hrformer_base": (145_408, 539_604, 790_998, 438_672, 13_326_664, 1_753_440, 27_007_032),
}
STEM = 3 * 64 * 9 + 64 * 64 * 9 + 4 * 64


def nano(task: str | None = None, **options) -> HighResolutionTrunk:
    return build_backbone(backbone_config("hrformer_nano", task, **options)).eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_the_published_sizes(name: str) -> None:
    """``shared/recipes.md``, table 1.11."""
    with torch.device("meta"):
        trunk = build_backbone(backbone_config(name))
    parts = ("layer1", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4")
    assert tuple(count(getattr(trunk, part)) for part in parts) == PARTS[name]
    assert count(trunk) == STEM + sum(PARTS[name])


@pytest.mark.parametrize("size", [(64, 48), (61, 83), (32, 32), (5, 3), (1, 1)])
def test_maps_are_what_feature_info_says(size: tuple[int, int]) -> None:
    trunk = nano()
    with torch.no_grad():
        maps = trunk(torch.randn(2, 3, *size))
    assert [f.name for f in trunk.feature_info] == list(maps) == ["stride4", "stride8", "stride16", "stride32"]
    for info in trunk.feature_info:
        expected = (2, info.channels, -(-size[0] // info.stride), -(-size[1] // info.stride))
        assert tuple(maps[info.name].shape) == expected
        assert torch.isfinite(maps[info.name]).all()


def test_pose_trunk_has_one_map_and_one_last_row() -> None:
    trunk = nano("pose")
    assert [(f.channels, f.stride) for f in trunk.feature_info] == [(18, 4)]
    assert len(trunk.stage4[-1].fuse.paths) == 1
    assert list(trunk(torch.randn(1, 3, 32, 32))) == ["stride4"]


def test_pose_trunk_equals_the_finest_branch_of_the_full_one() -> None:
    full, single = nano(upsample="bilinear"), nano("pose")
    names = set(single.state_dict())
    single.load_state_dict({k: v for k, v in full.state_dict().items() if k in names})
    x = torch.randn(1, 3, 61, 83)
    with torch.no_grad():
        assert torch.equal(single(x)["stride4"], full(x)["stride4"])


def test_set_upsample() -> None:
    trunk, x = nano(), torch.randn(1, 3, 61, 83)
    with torch.no_grad():
        results = {}
        for mode in UPSAMPLE_MODES:
            trunk.set_upsample(mode)
            built = nano(upsample=mode)
            built.load_state_dict(trunk.state_dict())
            results[mode] = trunk(x)["stride4"]
            assert torch.equal(built(x)["stride4"], results[mode])
    assert (results["nearest"] - results["bilinear"]).abs().max() > 1e-3
    assert (results["nearest"] - results["bilinear_aligned"]).abs().max() > 1e-3
    assert (results["bilinear"] - results["bilinear_to_size"]).abs().max() > 1e-3
    modes = "nearest, bilinear, bilinear_aligned, bilinear_to_size"
    with pytest.raises(ValueError, match=f"upsample must be one of {modes}, got 'area'"):
        trunk.set_upsample("area")


def test_set_position_bias_reaches_every_block() -> None:
    trunk, x = nano(), torch.randn(1, 3, 64, 48)
    for m in trunk.modules():
        if isinstance(m, WindowAttention):
            nn.init.normal_(m.relative_position_bias_table)
    with torch.no_grad():
        on = trunk(x)["stride4"]
        trunk.set_position_bias(False)
        off = trunk(x)["stride4"]
    assert (on - off).abs().max() > 1e-3
    assert {m.position_bias for m in trunk.modules() if isinstance(m, WindowAttention)} == {False}
    trunk.set_position_bias(True)
    with torch.no_grad():
        assert torch.equal(trunk(x)["stride4"], on)


def test_keep_only_half() -> None:
    trunk, x = nano(), torch.randn(1, 3, 21, 17)
    half = trunk.forward_stem(x)[0]
    trunk.keep_only_half()
    assert torch.equal(trunk.forward_half(x), half)
    assert {name.partition(".")[0] for name, _ in trunk.named_parameters()} == {"conv1", "bn1"}


def test_stage_one_is_shorter_than_hrnets() -> None:
    with torch.device("meta"):
        assert len(build_backbone(backbone_config("hrformer_small")).layer1) == 2
        assert len(build_backbone(backbone_config("hrnet_w18")).layer1) == 4


def test_head_counts_follow_the_branches() -> None:
    with torch.device("meta"):
        trunk = build_backbone(backbone_config("hrformer_base"))
    heads = [[block.attn.num_heads for block in branch] for branch in trunk.stage4[0].branches]
    assert heads == [[2, 2], [4, 4], [8, 8], [16, 16]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (8, 16, 32)}, "channels needs 4 values and num_modules 3"),
        ({"num_modules": (1, 1)}, "channels needs 4 values and num_modules 3"),
        ({"num_blocks": 0}, "must be at least 1"),
        ({"upsample": "area"}, "upsample must be one of"),
    ],
)
def test_bad_trunks_are_refused(changes: dict, message: str) -> None:
    good = {
        "channels": (8, 16, 32, 64),
        "num_modules": (1, 1, 1),
        "stage1_blocks": 2,
        "num_blocks": 2,
        "separable_fusion": True,
    }
    assert TrunkConfig(**good).depth == 6
    with pytest.raises(ValueError, match=message):
        TrunkConfig(**good | changes)


def test_bad_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads needs 4 values"):
        HRFormerConfig(channels=(8, 16, 32, 64), num_heads=(1, 2), num_modules=(1, 1, 1))
    with pytest.raises(ValueError, match="num_heads must divide channels, got 3 heads for 8 channels"):
        build_backbone(HRFormerConfig(channels=(8, 16, 32, 64), num_heads=(3, 2, 4, 8), num_modules=(1, 1, 1)))
