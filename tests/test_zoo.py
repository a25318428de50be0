"""Named variants: exact sizes, options, task defaults, and errors that say what would be right."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from torch import nn

from hrformer.models.attention import WindowAttention
from hrformer.models.model import TASKS, VisionModel
from hrformer.zoo import VARIANTS, backbone_config, build_backbone, create_model, list_models

NAMES = ["hrformer_nano", *(f"hrformer_{size}" for size in ("tiny", "small", "base"))]
NAMES += [f"hrformer_{size}_window{k}" for size in ("tiny", "small", "base") for k in (13, 15)]
NAMES += ["hrnet_w18", "hrnet_w32", "hrnet_w48"]


@functools.cache
def on_meta(*args, **options) -> VisionModel:
    """A model without memory, enough to count; never changed by a test."""
    with torch.device("meta"):
        return create_model(*args, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def windows(model: nn.Module) -> set[int]:
    return {m.window for m in model.modules() if isinstance(m, WindowAttention)}


def test_list_models() -> None:
    assert list_models() == NAMES


@pytest.mark.parametrize(
    ("name", "task", "options", "expected"),
    [
        ("hrformer_tiny", "classification", {}, 8_035_820),
        ("hrformer_small", "classification", {}, 13_544_882),
        ("hrformer_base", "classification", {}, 50_320_098),
        ("hrformer_tiny", None, {}, 2_572_388),
        ("hrformer_small", None, {}, 7_891_050),
        ("hrformer_base", None, {}, 44_040_666),
        ("hrformer_tiny", "pose", {}, 2_524_759),
        ("hrformer_small", "pose", {}, 7_746_779),
        ("hrformer_base", "pose", {}, 43_211_777),
        ("hrformer_small", "segmentation", {}, 13_523_856),
        ("hrformer_small", "segmentation", {"num_classes": 59}, 13_564_896),
        ("hrformer_small", "segmentation", {"num_classes": 150}, 13_658_262),
        ("hrformer_small", "segmentation", {"num_classes": 171}, 13_679_808),
        ("hrformer_base", "segmentation", {}, 56_032_512),
        ("hrformer_base", "segmentation", {"num_classes": 59}, 56_073_552),
        ("hrformer_base", "segmentation", {"num_classes": 150}, 56_166_918),
        ("hrformer_base", "segmentation", {"num_classes": 171}, 56_188_464),
        ("hrformer_base", "segmentation", {"window_size": 13}, 56_143_776),
        ("hrformer_base", "segmentation", {"window_size": 15}, 56_196_480),
        ("hrformer_base_window13", "segmentation", {}, 56_143_776),
        ("hrformer_base_window15", "segmentation", {}, 56_196_480),
    ],
)
def test_parameter_counts(name: str, task: str | None, options: dict, expected: int) -> None:
    """Computed from the reference models (``shared/recipes.md``, table 1.11)."""
    assert count(on_meta(name, task, **options)) == expected


@pytest.mark.parametrize("position_bias", [True, False])
def test_tables_count_whether_used_or_not(position_bias: bool) -> None:
    model = on_meta("hrformer_small", "pose", position_bias=position_bias)
    tables = [p for name, p in model.named_parameters() if name.endswith("bias_table")]
    assert count(model) == 7_746_779
    assert sum(p.numel() for p in tables) == 20_618
    assert {p.requires_grad for p in tables} == {position_bias}
    assert count(model.head) == 561


def test_base_tables_and_head() -> None:
    model = on_meta("hrformer_base", "pose")
    assert sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias_table")) == 41_236
    assert count(model.head) == 1_343


@pytest.mark.parametrize("name", ["hrnet_w18", "hrnet_w32", "hrnet_w48"])
def test_hrnet_is_as_large_as_timm_s(name: str) -> None:
    with torch.device("meta"):
        reference = timm.create_model(name)
    assert count(on_meta(name, "classification")) == count(reference)


def test_nano_is_small() -> None:
    """Ours: T with one of three modules in stage 3 and one of two in stage 4. The bundled weights rely on it."""
    assert count(on_meta("hrformer_nano")) == 2_572_388 - 583_440 * 2 // 3 - 1_513_932 // 2 == 1_426_462
    assert backbone_config("hrformer_nano").num_modules == (1, 1, 1)
    assert backbone_config("hrformer_nano").channels == (18, 36, 72, 144)


@pytest.mark.parametrize(("name", "window"), [("hrformer_tiny", 7), ("hrformer_small_window13", 13)])
def test_windows(name: str, window: int) -> None:
    assert windows(on_meta(name)) == {window}
    assert windows(on_meta(name, window_size=15)) == {15}


@pytest.mark.parametrize("name", ["hrformer_tiny_window15", "hrformer_base_window13"])
def test_named_windows_differ_in_nothing_else(name: str) -> None:
    stem, _, window = name.partition("_window")
    for task in TASKS:
        assert backbone_config(name, task) == backbone_config(stem, task, window_size=int(window))


@pytest.mark.parametrize(
    ("name", "task", "upsample", "maps"),
    [
        ("hrformer_small", "classification", "nearest", 4),
        ("hrformer_small", "pose", "bilinear", 1),
        ("hrformer_small", "segmentation", "nearest", 4),
        ("hrformer_small", None, "nearest", 4),
        ("hrnet_w32", "pose", "nearest", 1),
        ("hrnet_w32", "segmentation", "nearest", 4),
    ],
)
def test_task_defaults(name: str, task: str | None, upsample: str, maps: int) -> None:
    model = on_meta(name, task)
    modes = {module.fuse.upsample for module in model.backbone.high_resolution_modules()}
    assert modes == {upsample}
    assert len(model.feature_info) == maps
    other = on_meta(name, task, upsample="bilinear_aligned")
    assert {module.fuse.upsample for module in other.backbone.high_resolution_modules()} == {"bilinear_aligned"}


@pytest.mark.parametrize(
    ("name", "task", "rate"),
    [
        ("hrformer_tiny", "classification", 0.0),
        ("hrformer_small", "classification", 0.0),
        ("hrformer_base", "classification", 0.2),
        ("hrformer_tiny", "pose", 0.0),
        ("hrformer_small", "pose", 0.1),
        ("hrformer_base", "pose", 0.2),
        ("hrformer_tiny", "segmentation", 0.0),
        ("hrformer_small", "segmentation", 0.2),
        ("hrformer_base", "segmentation", 0.2),
        ("hrformer_base_window15", "segmentation", 0.2),
        ("hrformer_base", None, 0.0),
    ],
)
def test_default_drop_path(name: str, task: str | None, rate: float) -> None:
    assert backbone_config(name, task).drop_path_rate == rate
    assert backbone_config(name, task, drop_path_rate=0.3).drop_path_rate == 0.3


@pytest.mark.parametrize(("name", "depth"), [("hrformer_tiny", 12), ("hrformer_small", 14), ("hrformer_base", 14)])
def test_drop_path_rises_linearly_over_the_depth(name: str, depth: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(backbone_config(name, drop_path_rate=0.26))
    rates = []
    for module in backbone.high_resolution_modules():
        for index in range(2):
            same_depth = {getattr(branch[index].drop_path, "rate", 0.0) for branch in module.branches}
            assert len(same_depth) == 1, "branches of one depth share their rate"
            rates += same_depth
    assert len(rates) == depth
    assert rates == pytest.approx([0.26 * i / (depth - 1) for i in range(depth)])


def test_options_reach_the_model() -> None:
    model = on_meta(
        "hrformer_nano",
        "segmentation",
        num_classes=5,
        in_chans=4,
        mlp_ratio=2.0,
        ocr_channels=64,
        ocr_key_channels=32,
        dropout=0.1,
    )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["backbone.conv1.weight"] == (64, 4, 3, 3)
    assert shapes["backbone.stage2.0.branches.0.0.ffn.fc1.weight"] == (36, 18, 1, 1)
    assert shapes["head.classifier.weight"] == (5, 64, 1, 1)
    assert shapes["head.aux.0.weight"] == (64, 270, 3, 3)
    assert shapes["head.attention.value.0.weight"] == (32, 64, 1, 1)
    assert model.head.merge[-1].p == 0.1


def test_info_rebuilds_the_model() -> None:
    options = {"window_size": 13, "position_bias": False, "head_planes": 8, "head_width": 64}
    model = on_meta("hrformer_nano", "classification", num_classes=7, **options)
    assert model.info.options == options
    assert (model.info.name, model.task, model.info.num_classes) == ("hrformer_nano", "classification", 7)
    again = on_meta(model.info.name, model.info.task, num_classes=7, **model.info.options)
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize(
    ("task", "size", "outputs"),
    [("classification", (224, 224), 1000), ("pose", (256, 192), 17), ("segmentation", (520, 520), 19)],
)
def test_info_defaults(task: str, size: tuple[int, int], outputs: int) -> None:
    info = on_meta("hrformer_nano", task).info
    assert (info.input_spec.size, info.num_classes) == (size, outputs)


@pytest.mark.parametrize(
    ("keypoints", "first"), [(17, "nose"), (14, "right_ankle"), (5, None)], ids=["coco", "lsp", "unknown"]
)
def test_pose_knows_common_skeletons(keypoints: int, first: str | None) -> None:
    for name in ("hrformer_nano", "pvt_v2_b0"):
        skeleton = on_meta(name, "pose", num_keypoints=keypoints).info.skeleton
        assert (skeleton.keypoints[0] if skeleton else None) == first


def test_none_means_default() -> None:
    plain = on_meta("hrformer_nano", "pose")
    same = on_meta("hrformer_nano", "pose", window_size=None, drop_path_rate=None, upsample=None)
    assert plain.info == same.info


@pytest.mark.parametrize(
    ("name", "task", "options", "message"),
    [
        ("hrformer_smal", None, {}, "no model named 'hrformer_smal'. Close: hrformer_small"),
        ("hrnet_w19", None, {}, "Close: hrnet_w18, "),
        ("vit_tiny_patch16_225", "pose", {}, "Close: vit_tiny_patch16_224"),
        ("hrformer_nano", "poze", {}, "task must be one of classification, pose, segmentation or None, got 'poze'"),
        ("hrformer_nano", "pose", {"drop_path": 0.1}, "unknown option 'drop_path'.*did you mean 'drop_path_rate'"),
        ("hrformer_nano", "pose", {"pretrained": True}, "unknown option 'pretrained'.*Known: window_size"),
        ("hrformer_nano", "pose", {"dropout": 0.1}, "unknown option 'dropout' for hrformer_nano with task pose"),
        ("hrformer_nano", None, {"drop_rate": 0.1}, "unknown option 'drop_rate' for hrformer_nano with task None"),
        ("hrformer_nano", None, {"num_classes": 3}, "a bare backbone has no classes or keypoints"),
        ("hrformer_nano", "pose", {"num_classes": 3}, "pose takes num_keypoints, not num_classes"),
        ("hrformer_nano", "segmentation", {"num_keypoints": 3}, "segmentation takes num_classes, not num_keypoints"),
        ("hrformer_nano", "pose", {"num_keypoints": 0}, "must be at least 1, got 0"),
        ("hrformer_nano", "classification", {"num_classes": -1}, "must be at least 1, got -1"),
        ("hrformer_nano", None, {"upsample": "cubic"}, "upsample must be one of nearest, .*got 'cubic'"),
        ("hrformer_nano", None, {"window_size": 0}, "window must be at least 1 cell, got 0"),
        ("hrformer_nano", None, {"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), got 1.0"),
        ("hrformer_nano", None, {"mlp_ratio": 0.0}, "mlp_ratio must give at least 1 hidden channel"),
        ("hrformer_nano", None, {"in_chans": 0}, "must be at least 1"),
        ("hrformer_nano", "classification", {"drop_rate": 1.0}, r"drop_rate must lie in \[0, 1\), got 1.0"),
        ("hrformer_nano", "classification", {"head_planes": 0}, "head_planes and head_width must be at least 1"),
        ("hrformer_nano", "segmentation", {"ocr_channels": 0}, "ocr_channels and ocr_key_channels must be at least"),
        ("hrformer_nano", "segmentation", {"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ("hrformer_nano", "segmentation", {"head": "psp"}, "head must be 'ocr' or 'fcn', got 'psp'"),
        ("hrnet_w18", "segmentation", {"head": "fcn", "aux": "wide"}, "unknown option 'aux' for the fcn head"),
        ("hrformer_nano", "segmentation", {"aux": "mm"}, "aux must be one of openseg, wide, hrnet, got 'mm'"),
        ("hrnet_w18", None, {"window_size": 7}, "hrnet_w18 is convolutional and takes no window_size"),
        ("hrnet_w18", "pose", {"position_bias": True}, "is convolutional and takes no position_bias"),
        ("resnet18", "pose", {"window_size": 7}, "timm's 'resnet18' does not take these options: .*window_size"),
        ("resnet18", "pose", {"dropout": 0.1}, "does not take these options: .*dropout"),
        ("resnet18", "classification", {"head_planes": 8}, "does not take these options: .*head_planes"),
        ("resnet18", "pose", {"out_indices": (9,)}, "timm's 'resnet18' cannot be built so"),
    ],
)
def test_errors_say_what_would_be_right(name: str, task: str | None, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, task, **options)


def test_close_names_come_once() -> None:
    with pytest.raises(ValueError, match="no model named") as caught:
        create_model("hrformer_smal")
    close = str(caught.value).partition("Close: ")[2].partition(". Ours")[0].split(", ")
    assert len(close) == len(set(close)) == 3


@pytest.mark.parametrize("variant", VARIANTS.values())
def test_every_variant_says_what_it_is(variant) -> None:
    assert variant.__doc__


class TestInitialisation:
    """Recipe section 1.10."""

    def test_pose_draws_narrow_convolutions(self) -> None:
        model = create_model("hrformer_nano", "pose")
        for name, m in model.named_modules():
            if isinstance(m, nn.Conv2d):
                if m.weight.numel() > 5000:
                    assert m.weight.std().item() == pytest.approx(0.001, rel=0.1), name
                assert m.weight.abs().max() < 0.006, name
                assert m.bias is None or not m.bias.any(), name
            if isinstance(m, nn.BatchNorm2d):
                assert (m.weight == 1).all(), name
                assert not m.bias.any(), name

    def test_pose_keeps_linear_layers(self) -> None:
        attention = create_model("hrformer_nano", "pose").backbone.stage4[0].branches[3][0].attn
        bound = 144**-0.5  # PyTorch's default is uniform within it
        assert attention.qkv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert attention.qkv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)

    @pytest.mark.parametrize("task", ["classification", "segmentation"])
    def test_other_tasks_keep_pytorch_defaults(self, task: str) -> None:
        model = create_model("hrformer_nano", task)
        for name, m in model.named_modules():
            if isinstance(m, nn.Conv2d) and m.weight.numel() > 5000:
                bound = m.weight[0].numel() ** -0.5
                assert m.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
                assert m.weight.abs().max() <= bound, name

    @pytest.mark.parametrize("task", [*TASKS, None])
    def test_tables_are_drawn_for_every_task(self, task: str | None) -> None:
        model = create_model("hrformer_nano", task)
        tables = torch.cat([p.flatten() for name, p in model.named_parameters() if name.endswith("bias_table")])
        assert tables.std().item() == pytest.approx(0.02, rel=0.05)

    def test_pose_head_on_a_timm_backbone(self) -> None:
        model = create_model("pvt_v2_b0", "pose")
        assert model.head.final_layer.weight.std().item() == pytest.approx(0.001, rel=0.05)
        assert not model.head.final_layer.bias.any()
        assert model.backbone.net.patch_embed.proj.weight.std() > 0.01, "the backbone keeps timm's initialisation"


def test_wide_auxiliary_head_is_the_published_baseline() -> None:
    """HRNet-W48 + OCR has 74.5 M parameters in the published comparisons (openseg's ``HRNet_W48_OCR``)."""
    with torch.device("meta"):
        model = create_model("hrnet_w48", "segmentation", num_classes=19, aux="wide")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(74.52e6, abs=5e3)
