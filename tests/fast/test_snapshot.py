"""What an optimized model does when it is copied, pickled, moved, loaded into or written to."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fast_models import assert_same, small
from hrformer.fast.choice import Wanted
from hrformer.fast.optimize import Engine, FastModel, optimize
from hrformer.fast.triton.graphs import GraphedModel
from hrformer.fast.x86.library import find_library
from hrformer.models.attention import WindowAttention
from hrformer.models.blocks import TransformerBlock
from hrformer.models.model import VisionModel
from hrformer.zoo import VARIANTS, hrformer_nano

BACKENDS = [
    pytest.param(
        "native",
        marks=pytest.mark.skipif(find_library()[0] is None, reason=f"needs compiled kernels: {find_library()[1]}"),
    ),
    "openvino",
    "onnxruntime",
    "reference",
]


@pytest.fixture(autouse=True)
def one_block_per_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one takes runtimes as long again."""
    monkeypatch.setitem(VARIANTS, "hrformer_nano", lambda: replace(hrformer_nano(), num_blocks=1))


def through_a_file(fast: FastModel) -> Any:
    buffer = io.BytesIO()
    torch.save(fast, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[FastModel], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda fast: pickle.loads(pickle.dumps(fast)),
    "torch.save": through_a_file,
    "optimize": lambda fast: optimize(fast, backend=fast.backend, cache=False),
    "deepcopy in a list": lambda fast: copy.deepcopy([fast, fast])[1],
}


def run(fast: nn.Module, x: Tensor) -> Tensor:
    """The fourth result: runtimes have made a program by then, and kernels a recording."""
    for _ in range(3):
        fast(x)
    return fast(x)


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_give_the_same_and_are_fast(backend: str, make: Callable[[FastModel], Any]) -> None:
    if backend in ("openvino", "onnxruntime"):
        pytest.importorskip(backend, reason=f"needs {backend}, from the extra 'fast-cpu'")
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model, backend=backend, cache=False)
    expected = run(fast, x)
    copied = make(fast)
    assert type(copied) is FastModel
    assert (copied.backend, copied.info) == (backend, model.info)
    assert torch.equal(run(copied, x), expected)
    assert torch.equal(fast(x), expected)
    assert list(copied.state_dict()) == list(model.state_dict())


def test_a_copy_has_weights_of_its_own() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model)
    copied = copy.deepcopy(fast)
    expected = fast(x)
    nn.init.zeros_(copied.head.final_layer.weight)
    nn.init.ones_(model.head.final_layer.weight)
    assert torch.equal(fast(x), expected)
    assert not torch.allclose(copied(x), expected)


def test_processes_take_optimized_models() -> None:
    fast, x = optimize(small("hrformer_nano", "pose")), torch.randn(1, 3, 32, 32)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert_same(pool.submit(fast, x).result(), fast(x))


def test_foreign_and_subclassed_models_keep_their_type_in_copies() -> None:
    x = torch.randn(1, 3, 9, 8)
    fast = optimize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), backend="reference")
    for copied in (copy.deepcopy(fast), optimize(fast, backend="reference")):
        assert torch.equal(copied(x), fast(x))
        assert type(copied.plain) is nn.Sequential


def test_what_triton_runs_is_made_anew_for_a_copy() -> None:
    """Graphs cannot be copied; without a GPU the copy falls back, as it does on a machine without one."""
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = FastModel(model, Engine("triton", fused=GraphedModel(model)), Wanted(backend="triton"))
    copied = pickle.loads(pickle.dumps(fast))
    assert torch.equal(copied(x), model(x))
    assert (copied.backend, "runs on CUDA" in copied.reason) == ("reference", True)


def test_what_is_written_to_shows_on_a_device_too() -> None:
    """There the weights are looked at after the call."""
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    old = copy.deepcopy(model)
    fast = FastModel(model, Engine("triton", fused=GraphedModel(old)), Wanted())
    assert torch.equal(fast(x), old(x))
    nn.init.zeros_(fast.head.final_layer.weight)
    assert_same(fast(x), model(x))
    assert fast.fused is not old


def other_weights() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return {name: value * 1.1 for name, value in small("hrformer_nano", "pose").state_dict().items()}


def scale(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.mul_(1.05)


def step(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.05)


def write(module: nn.Module) -> None:
    with torch.no_grad():
        module.backbone.stage2[0].branches[0][0].ffn.norm1.running_mean.add_(0.5)


CHANGES: dict[str, Callable[[VisionModel], Any]] = {
    "load_state_dict": lambda m: m.load_state_dict(other_weights()),
    "load_state_dict, assigned": lambda m: m.load_state_dict(other_weights(), assign=True),
    "loaded into the head": lambda m: m.head.load_state_dict({"final_layer.weight": torch.ones(3, 18, 1, 1)}, False),
    "assigned in the head": lambda m: m.head.load_state_dict(
        {"final_layer.weight": torch.ones(3, 18, 1, 1)}, False, assign=True
    ),
    "apply": lambda m: m.apply(scale),
    "an optimizer's step": step,
    "a running mean": write,
    "another head": lambda m: setattr(m, "head", None) or setattr(m, "head", small("hrformer_nano", "pose").head),
    "a hook": lambda m: m.head.register_forward_hook(lambda module, args, out: 2 * out),
    "double": lambda m: m.double(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.float64),
    "half of it": lambda m: (m.backbone.double(), m.head.double()),
    "there and back": lambda m: m.double().float(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_changes_of_an_optimized_model_take_effect(backend: str, change: Callable[[VisionModel], Any]) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model, backend=backend, cache=False)
    run(fast, x)
    torch.manual_seed(0)
    change(model)
    torch.manual_seed(0)
    change(fast)
    x = x.to(next(model.parameters()).dtype)
    expected = model(x).detach()
    assert_same(run(fast, x), expected)
    is_fast = x.dtype == torch.float32 and not model.head._forward_hooks
    assert fast.backend == (backend if is_fast else "reference")
    assert bool(fast.reason) != is_fast


BLOCK = "backbone.stage3.0.branches.1.0"


def halve(part: nn.Module) -> None:
    old = part.forward
    part.forward = lambda *args: old(*args) / 2


def put(path: str, make: Callable[[], nn.Module]) -> Callable[[VisionModel], Any]:
    def change(model: VisionModel) -> None:
        torch.manual_seed(0)
        model.set_submodule(path, make().requires_grad_(False))

    return change


def plainly(model: VisionModel) -> VisionModel:
    """The plain network of an optimized model; any other model itself."""
    return getattr(model, "plain", model)


INSIDE: dict[str, tuple[bool, Callable[[VisionModel], Any]]] = {
    "another layer": (True, put("head.final_layer", lambda: nn.Conv2d(18, 3, 1))),
    "another norm": (True, put("backbone.bn1", lambda: nn.BatchNorm2d(64, eps=0.1).eval())),
    "another activation": (False, put(f"{BLOCK}.ffn.act", nn.ReLU)),
    "a further block": (False, lambda m: m.get_submodule(BLOCK[:-2]).append(nn.Softplus())),
    "no head": (True, lambda m: setattr(plainly(m), "head", None)),
    "deleted head": (False, lambda m: delattr(m, "head")),
    "further part": (True, lambda m: m.head.add_module("extra", nn.ReLU())),
    "assigned to a layer": (
        True,
        lambda m: m.head.final_layer.load_state_dict(
            {"weight": torch.ones(3, 18, 1, 1), "bias": torch.zeros(3)}, assign=True
        ),
    ),
    "a layer there and back": (True, lambda m: m.get_submodule(BLOCK).attn.qkv.half().float()),
    "layer in double precision": (False, lambda m: m.head.final_layer.double()),
    "block in bfloat16": (False, lambda m: m.get_submodule(BLOCK).bfloat16()),
    "forward of a deep part": (False, lambda m: halve(m.get_submodule(f"{BLOCK}.ffn.act"))),
    "forward of the plain network": (False, lambda m: halve(plainly(m))),
    "training mode": (False, lambda m: m.backbone.train()),
    "training mode of a norm": (False, lambda m: m.get_submodule(f"{BLOCK}.ffn.norm2").train()),
    "upsampling": (True, lambda m: m.backbone.set_upsample("nearest")),
    "upsampling of the plain network": (True, lambda m: plainly(m).set_upsample("nearest")),
    "position bias": (True, lambda m: m.backbone.set_position_bias(False)),
    "window": (True, lambda m: m.get_submodule(BLOCK).attn.set_window(5)),
}


def outcome(model: nn.Module, x: Tensor) -> Any:
    """A result, or the kind of its error."""
    try:
        return model(x)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(("stays_fast", "change"), INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_changes_deep_inside_take_effect(backend: str, stays_fast: bool, change: Callable[[VisionModel], Any]) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 64, 64)
    fast = optimize(model)
    run(fast, x)
    change(model)
    change(fast)
    with torch.no_grad():  # with gradients, training mode takes operations that round otherwise
        found, expected = outcome(fast, x), outcome(model, x)
    if isinstance(expected, dict):
        found, expected = found["stride4"], expected["stride4"]
    if isinstance(expected, Tensor):
        assert_same(found, expected)
    else:
        assert found is expected
    assert fast.backend == (backend if stays_fast else "reference")
    if "training mode" in fast.reason:
        assert fast.eval().backend == backend


@pytest.mark.parametrize("kind", [WindowAttention, nn.GELU, nn.Linear, nn.Conv2d, nn.BatchNorm2d, TransformerBlock])
def test_a_forward_put_into_a_class_takes_effect(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, old = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32), kind.forward
    before = optimize(model)
    expected, backend = run(before, x), before.backend
    with monkeypatch.context() as patched:
        patched.setattr(kind, "forward", lambda self, x: old(self, x) / 2)
        for fast in (before, optimize(model)):
            assert torch.equal(fast(x), model(x))
            assert fast.backend == "reference"
    assert torch.equal(before(x), expected)
    assert before.backend == backend


@pytest.mark.parametrize("names", [("head.final_layer.weight",), ("backbone.bn1.running_mean",), None])
@pytest.mark.parametrize("kept", [True, False])
def test_tensors_lent_for_a_call_take_effect(names: tuple[str, ...] | None, kept: bool) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model)
    expected = run(fast, x)
    state = {name: value for name, value in other_weights().items() if names is None or name in names}
    if kept:
        state = {name: nn.Parameter(value, requires_grad=False) for name, value in state.items()}
    found = torch.func.functional_call(fast, state, (x,))
    assert_same(found, torch.func.functional_call(model, state, (x,)))
    assert not torch.allclose(found, expected)
    assert torch.equal(run(fast, x), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.to("cpu"),
        lambda m: m.float(),
        lambda m: m.cpu(),
        lambda m: m.eval(),
        lambda m: m.requires_grad_(False),
        lambda m: m.requires_grad_(True),
        lambda m: m.zero_grad(),
        lambda m: m.to(torch.float32, memory_format=torch.contiguous_format),
    ],
)
def test_what_changes_nothing_makes_nothing_anew(change: Callable[[FastModel], Any]) -> None:
    fast, x = optimize(small("hrformer_nano", "pose")), torch.randn(1, 3, 32, 32)
    expected, fused = run(fast, x), fast.fused
    change(fast)
    assert torch.equal(fast(x), expected)
    assert fast.fused is fused


def test_weights_can_be_given_to_an_empty_model() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model)
    fast.to_empty(device="meta")
    assert fast.backend == "reference"
    assert fast(x.to("meta")).shape == (1, 3, 8, 8)
    fast.to_empty(device="cpu")
    index = {n: b for n, b in model.named_buffers() if n.endswith("relative_position_index")}
    for name, value in index.items():
        fast.get_buffer(name).copy_(value)  # in no state dict
    fast.load_state_dict(model.state_dict())
    assert_same(fast(x), model(x))


def test_it_can_be_called_in_inference_mode_first() -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = copy.deepcopy(optimize(model))
    with torch.inference_mode():
        fast(x)
    assert_same(fast(x), model(x))
    with torch.inference_mode():
        inside = optimize(model)
    assert_same(inside(x), model(x))
