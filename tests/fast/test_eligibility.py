"""Changed models: ``optimize`` gives their own results, and says which part made the plain network run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm
from torchvision.ops import FrozenBatchNorm2d

from fast_models import assert_same, lively, small
from hrformer.fast.eligibility import changed_part
from hrformer.fast.optimize import optimize
from hrformer.fast.x86.library import find_library
from hrformer.models.blocks import Bottleneck, ConvFFN, TransformerBlock
from hrformer.models.heads import PoseHead
from hrformer.models.model import VisionModel
from hrformer.timm_api import TimmHRFormer
from hrformer.zoo import create_model

needs_kernels = pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}")

BLOCK = "backbone.stage3.0.branches.1.0"


class LoRALinear(nn.Module):
    """What an adapter puts in a linear layer's place: the layer, and two narrow ones beside it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)

    @property
    def weight(self) -> Tensor:
        return self.layer.weight + self.up.weight @ self.down.weight

    @property
    def bias(self) -> Tensor:
        return self.layer.bias + self.up(self.down.bias)

    @property
    def in_features(self) -> int:
        return self.layer.in_features

    @property
    def out_features(self) -> int:
        return self.layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class OtherFFN(ConvFFN):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


class Tagged(Tensor):
    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.detach().clone()


def put(path: str, make: Callable[[Any], nn.Module]) -> Callable[[VisionModel], None]:
    """Replace the module at a path by what ``make`` makes of it."""

    def change(model: VisionModel) -> None:
        model.set_submodule(path, make(model.get_submodule(path)))

    return change


def swap(old: type[nn.Module], new: Callable[[], nn.Module]) -> Callable[[VisionModel], None]:
    """Replace all layers of a kind."""

    def change(model: VisionModel) -> None:
        for name, part in list(model.named_modules()):
            if type(part) is old:
                model.set_submodule(name, new())

    return change


def do(path: str, act: Callable[[Any], Any]) -> Callable[[VisionModel], None]:
    def change(model: VisionModel) -> None:
        act(model.get_submodule(path))

    return change


def conv_like(conv: nn.Conv2d, **options: Any) -> nn.Conv2d:
    """The same weights with other settings."""
    kept = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
    new = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, **(kept | options))
    with torch.no_grad():
        new.weight.copy_(conv.weight)
        if conv.bias is not None:
            new.bias.copy_(conv.bias)
    return new


def batch_statistics(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(norm.num_features, track_running_stats=False)


def replace_forward(part: nn.Module) -> None:
    old = part.forward
    part.forward = lambda x: 0.5 * old(x)


def replace_method(block: TransformerBlock) -> None:
    block.feed_forward = lambda x: torch.zeros_like(x)


def tag(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Tagged), requires_grad=False)


CHANGES: dict[str, Callable[[VisionModel], None]] = {
    "gelu to relu": swap(nn.GELU, nn.ReLU),
    "gelu to silu": swap(nn.GELU, nn.SiLU),
    "gelu to tanh": swap(nn.GELU, lambda: nn.GELU("tanh")),
    "one gelu to tanh": do(f"{BLOCK}.ffn.act", lambda act: setattr(act, "approximate", "tanh")),
    "relu to leaky": swap(nn.ReLU, lambda: nn.LeakyReLU(0.3)),
    "stem's relu": put("backbone.relu", lambda _: nn.LeakyReLU(0.3)),
    "bottleneck's relu": put("backbone.layer1.1.relu", lambda _: nn.Hardswish()),
    "transition's relu": put("backbone.transition1.0.2", lambda _: nn.LeakyReLU(0.3)),
    "new branch's relu": put("backbone.transition2.2.0.2", lambda _: nn.ELU()),
    "fusion's relu": put("backbone.stage3.0.fuse.paths.2.0.0.4", lambda _: nn.LeakyReLU(0.3)),
    "group norm": put(f"{BLOCK}.ffn.norm2", lambda norm: nn.GroupNorm(4, norm.num_features)),
    "group norm in the stem": put("backbone.bn1", lambda norm: nn.GroupNorm(4, norm.num_features)),
    "rms norm": put(f"{BLOCK}.norm1", lambda norm: nn.RMSNorm(norm.normalized_shape)),
    "no layer norm": put(f"{BLOCK}.norm2", lambda _: nn.Identity()),
    "no batch norm": put(f"{BLOCK}.ffn.norm3", lambda _: nn.Identity()),
    "layer norm without weights": put(
        f"{BLOCK}.norm1", lambda norm: nn.LayerNorm(norm.normalized_shape, elementwise_affine=False)
    ),
    "batch statistics": put(f"{BLOCK}.ffn.norm1", batch_statistics),
    "batch statistics in the stem": put("backbone.bn2", batch_statistics),
    "batch norm without weights": put(
        f"{BLOCK}.ffn.norm1", lambda norm: nn.BatchNorm2d(norm.num_features, affine=False)
    ),
    "frozen batch norm": put(f"{BLOCK}.ffn.norm2", lambda norm: FrozenBatchNorm2d(norm.num_features)),
    "adapter in attention": put(f"{BLOCK}.attn.qkv", LoRALinear),
    "adapter in projection": put(f"{BLOCK}.attn.proj", LoRALinear),
    "attention without projection bias": do(f"{BLOCK}.attn.proj", lambda layer: layer.register_parameter("bias", None)),
    "reflecting padding": put(f"{BLOCK}.ffn.dw3x3", lambda conv: conv_like(conv, padding_mode="reflect")),
    "reflecting stem": put("backbone.conv1", lambda conv: conv_like(conv, padding_mode="reflect")),
    "circular padding by attribute": put("backbone.conv2", lambda conv: conv_like(conv, padding_mode="circular")),
    "dilated": put(f"{BLOCK}.ffn.dw3x3", lambda conv: conv_like(conv, dilation=2, padding=2)),
    "dilated bottleneck": put("backbone.layer1.0.conv2", lambda conv: conv_like(conv, dilation=2, padding=2)),
    "convolution through linear": put(
        "backbone.transition3.3.0.1",
        lambda norm: nn.Sequential(norm, nn.Conv2d(norm.num_features, norm.num_features, 1)),
    ),
    "dropout with a scale": put(f"{BLOCK}.drop_path", lambda _: Doubled()),
    "other feed-forward class": do(f"{BLOCK}.ffn", lambda ffn: setattr(ffn, "__class__", OtherFFN)),
    "removed block": put("backbone.stage3.0.branches.1.1", lambda _: nn.Identity()),
    "further block": do("backbone.stage3.0.branches.1", lambda branch: branch.append(Doubled())),
    "further layer in a transition": do("backbone.transition1.0", lambda path: path.append(nn.Softplus())),
    "block of another kind": put(BLOCK, lambda _: nn.Conv2d(36, 36, 3, padding=1)),
    "forward hook": do(f"{BLOCK}.attn", lambda part: part.register_forward_hook(lambda m, i, o: 2 * o)),
    "hook on a norm": do(f"{BLOCK}.norm1", lambda part: part.register_forward_hook(lambda m, i, o: 2 * o)),
    "hook before": do(f"{BLOCK}.ffn", lambda part: part.register_forward_pre_hook(lambda m, i: (2 * i[0],))),
    "hook on the head": do("head", lambda part: part.register_forward_hook(lambda m, i, o: 2 * o)),
    "hook on the model": do("", lambda part: part.register_forward_hook(lambda m, i, o: 2 * o)),
    "forward of a block": do(BLOCK, replace_forward),
    "forward of the backbone's norm": do("backbone.bn1", replace_forward),
    "forward of the model": do("", replace_forward),
    "method of a block": do(BLOCK, replace_method),
    "weight norm": do(f"{BLOCK}.ffn.fc1", weight_norm),
    "spectral norm": do(f"{BLOCK}.ffn.fc2", parametrizations.spectral_norm),
    "parametrization": do(
        f"{BLOCK}.ffn.fc1", lambda conv: parametrize.register_parametrization(conv, "weight", Doubled())
    ),
    "pruned": do(f"{BLOCK}.ffn.fc1", lambda conv: prune.l1_unstructured(conv, "weight", 0.5)),
    "tensor subclass": do(f"{BLOCK}.attn.qkv", tag),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_gives_its_own_results_and_says_why(change, caplog: pytest.LogCaptureFixture) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    change(model.requires_grad_())
    expected = model.eval()(x).detach()
    with caplog.at_level(logging.INFO, "hrformer"):
        fast = optimize(model)
    assert torch.equal(fast(x), expected)
    assert fast.backend == "reference"
    assert [record.message for record in caplog.records] == [f"the plain network runs: {fast.reason}"]
    assert fast.reason in repr(fast).replace("\\", "")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["gelu to relu", "reflecting padding", "forward hook", "forward of a block"])
def test_runtimes_fall_back_too(name: str, backend: str) -> None:
    pytest.importorskip(backend, reason=f"needs {backend}, from the extra 'fast-cpu'")
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    CHANGES[name](model)
    fast = optimize(model, backend=backend, cache=False)
    assert all(torch.equal(fast(x), model(x)) for _ in range(4))
    assert fast.backend == "reference"


def test_the_compiled_kernels_asked_for_by_name_raise_with_the_part() -> None:
    model = small("hrformer_nano", "pose")
    CHANGES["one gelu to tanh"](model)
    with pytest.raises(ValueError, match=r"stage3\.0\.branches\.1\.0\.ffn\.act\.approximate is 'tanh', not 'none'"):
        optimize(model, backend="native")


def test_quantised_layers_and_mixed_precisions_are_named() -> None:
    model = small("hrformer_nano", "pose")
    model.backbone.stage4[0].half()
    assert "is torch.float16 on cpu, backbone.conv1.weight is torch.float32 on cpu" in str(changed_part(model))
    assert optimize(model).backend == "reference"
    quantised = torch.ao.quantization.quantize_dynamic(small("hrformer_nano", "pose"), {nn.Linear})
    assert "attn.qkv is Linear, not Linear" not in str(changed_part(quantised))
    assert "quantized.dynamic" in str(changed_part(quantised))
    on_meta = small("hrformer_nano", "pose")
    on_meta.head.to("meta")
    assert optimize(on_meta).backend == "reference"


def test_a_bottleneck_of_the_head_and_layers_of_another_backbone_count() -> None:
    model, x = small("hrformer_nano", "classification"), torch.randn(1, 3, 64, 48)
    model.head.incre_modules[1][0].relu = nn.LeakyReLU(0.3)
    fast = optimize(model)
    assert_same(fast(x), model(x))
    assert "head.incre_modules.1.0.relu is LeakyReLU" in fast.reason
    hrnet = small("hrnet_w18", "pose")
    hrnet.backbone.stage2[0].branches[0][1].relu = nn.LeakyReLU(0.3)
    fast = optimize(hrnet)
    assert torch.equal(fast(x), hrnet(x))
    assert "branches.0.1.relu is LeakyReLU" in fast.reason


class Halved(VisionModel):
    def forward(self, x: Tensor) -> Any:
        return 0.5 * super().forward(x)


def test_a_forward_of_its_own_is_kept() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    halved = Halved(model.backbone, model.head, model.info).eval()
    fast = optimize(halved)
    assert torch.equal(fast(x), 0.5 * model(x))
    assert fast.reason == "Halved has a forward of its own"


def test_hooks_on_any_module_count() -> None:
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    model[0].register_forward_hook(lambda module, args, out: seen.append(out))
    fast = optimize(model)
    assert fast.reason == "0 has forward hooks"
    for _ in range(4):
        fast(torch.randn(1, 3, 9, 8))
    assert len(seen) == 4


@needs_kernels
def test_a_hook_for_all_modules_is_called() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    fast = optimize(model)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: 2 * out if isinstance(module, nn.GELU) else None
    )
    try:
        assert torch.equal(fast(x), model(x))
    finally:
        handle.remove()
    assert_same(fast(x), model(x))


class OwnHead(nn.Module):
    """A head that is not of this package, with a layer that looks like one that reads all maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(18, channels, 1)
        self.second = nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1), nn.BatchNorm2d(5))

    def forward(self, features: dict[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        return self.second(self.first(features["stride4"]) + self.first.weight.mean())


def other_pose_head(model: VisionModel) -> None:
    model.head.final_layer = nn.Sequential(nn.Conv2d(18, 18, 1), nn.GELU(), nn.Conv2d(18, 3, 1))


def changed_windows(model: VisionModel) -> None:
    for part in model.modules():
        if type(part) is TransformerBlock and part.attn.num_heads == 2:
            part.attn.set_window(5)


def more_channels(model: VisionModel) -> None:
    model.backbone.conv1 = nn.Conv2d(3, 64, 3, 2, 1)  # with a bias


LEGITIMATE: dict[str, Callable[[VisionModel], Any]] = {
    "windows": changed_windows,
    "upsampling": lambda model: model.set_upsample("nearest"),
    "no position bias": lambda model: model.backbone.set_position_bias(False),
    "eps": lambda model: [setattr(m, "eps", 1e-3) for m in model.modules() if hasattr(m, "eps")],
    "momentum": lambda model: [setattr(m, "momentum", None) for m in model.modules() if hasattr(m, "momentum")],
    "other stem": more_channels,
    "head of several layers": other_pose_head,
    "own head": lambda model: setattr(model, "head", OwnHead(18)),
    "no head": lambda model: setattr(model, "head", None),
    "subclassed head": lambda model: setattr(model.head, "__class__", type("Own", (PoseHead,), {})),
    "training mode": lambda model: model.train(),
    "for several processes": nn.SyncBatchNorm.convert_sync_batchnorm,
    "gradients wanted": lambda model: model.requires_grad_(),
}


@pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_kernels), "openvino"])
@pytest.mark.parametrize("change", LEGITIMATE.values(), ids=LEGITIMATE)
def test_what_fused_blocks_compute_stays_fast(change, backend: str) -> None:
    pytest.importorskip("openvino", reason="needs openvino, from the extra 'fast-cpu'")
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 48)
    made = change(model)
    model = made if isinstance(made, VisionModel) else model
    fast = optimize(model, backend=backend, cache=False)
    with torch.no_grad():
        expected = model.eval()(x)
    for _ in range(3):
        found = fast(x)
    assert_same(*(y if isinstance(y, Tensor) else y["stride4"] for y in (found, expected)))
    assert (fast.backend, fast.reason) == (backend, "")


@needs_kernels
@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("pose", {"drop_path_rate": 0.3, "mlp_ratio": 2.3, "window_size": 9, "in_chans": 5}),
        ("classification", {"head_planes": 18, "drop_rate": 0.5, "upsample": "bilinear"}),
        ("segmentation", {"head": "fcn"}),
        ("segmentation", {"aux": "wide", "ocr_channels": 32, "ocr_key_channels": 16}),
    ],
)
def test_every_option_of_create_model_stays_fast(task: str, options: dict[str, Any]) -> None:
    model = lively("hrformer_nano", task, **options)
    x = torch.randn(1, options.get("in_chans", 3), 64, 48)
    for backend in ("native", "openvino"):
        fast = optimize(model, backend=backend, cache=False)
        for _ in range(3):
            found = fast(x)
        assert_same(found, model(x))
        assert fast.backend == backend


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of OpenVINO's converter, which traces
def test_timm_models_stay_fast() -> None:
    pytest.importorskip("openvino", reason="needs openvino, from the extra 'fast-cpu'")
    x = torch.randn(1, 3, 64, 64)
    own = TimmHRFormer("hrformer_nano", num_classes=0).eval()
    own.reset_classifier(4)
    own.backbone.set_upsample("bilinear")
    for model in (own.eval(), create_model("timm/resnet18", "pose").eval()):
        fast = optimize(model, backend="openvino", cache=False)
        for _ in range(3):
            found = fast(x)
        assert_same(found, model(x).detach())
        assert (fast.backend, fast.reason) == ("openvino", "")


def test_hooks_by_which_timm_takes_its_maps_are_no_change() -> None:
    assert changed_part(create_model("timm/resnet18", "pose", feature_cls="hook")) is None


def test_a_bottleneck_stands_where_it_should() -> None:
    """The bottlenecks of the first stage differ in their input."""
    model = small("hrformer_nano", "pose")
    model.backbone.layer1[1] = Bottleneck(64, 64)
    assert changed_part(model) == "backbone.layer1.1.conv1.in_channels is 64, not 256"
