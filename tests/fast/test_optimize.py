"""``optimize`` as its users see it: same results, any size, one log line where it cannot, clear errors."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import hrformer.fast.choice as choice
import hrformer.fast.optimize as module
from fast_models import assert_same, small
from hrformer.fast.choice import BACKENDS, Wanted
from hrformer.fast.optimize import MAX_SIZES, PLAIN_CALLS, Engine, FastModel, optimize
from hrformer.models.model import TASKS, VisionModel

pytest.importorskip("openvino", reason="needs openvino, from the extra 'fast-cpu'")


def settled(fast: nn.Module, x: Tensor) -> Tensor:
    """The result of the backend: a size's first calls are answered by the plain network."""
    for _ in range(PLAIN_CALLS):
        fast(x)
    return fast(x)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HRFORMER_HOME", str(tmp_path))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_the_same_result(task: str) -> None:
    model = small("hrformer_nano", task)
    fast = optimize(model, backend="openvino", cache=False)
    for batch in (1, 3):
        x = torch.randn(batch, 3, 61, 83)
        assert_same(settled(fast, x), model(x))
    assert fast.backend == "openvino"
    assert isinstance(fast, VisionModel)
    assert (fast.info, fast.task) == (model.info, task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"), [("hrformer_base", "pose"), ("hrformer_tiny", "segmentation"), ("hrnet_w18", "classification")]
)
def test_published_sizes_give_the_same_result(name: str, task: str) -> None:
    model = small(name, task)
    x = torch.randn(2, 3, 64, 48)
    assert_same(settled(optimize(model, backend="openvino", cache=False), x), model(x))


def test_onnx_runtime_gives_the_same_result() -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, from the extra 'fast-cpu'")
    model = small("hrformer_nano", "pose")
    fast = optimize(model, backend="onnxruntime")
    x = torch.randn(2, 3, 64, 48)
    assert_same(settled(fast, x), model(x))
    assert fast.backend == "onnxruntime"


def test_backbone_keeps_its_names_and_channels() -> None:
    model = small("hrformer_nano", None)  # 18 channels, which grow to 24 inside
    x = torch.randn(1, 3, 40, 32)
    expected, found = model(x), settled(optimize(model, backend="openvino", cache=False), x)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert_same(found[name], value)


def test_foreign_module_goes_through_the_converter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus()).eval()
    x = torch.randn(2, 3, 9, 8)
    assert_same(settled(optimize(model, backend="openvino", cache=False), x), model(x).detach())


@pytest.mark.filterwarnings("ignore")
def test_a_failed_conversion_silences_nobody() -> None:
    """OpenVINO's converter left the root logger at ERROR: warnings of all packages were lost."""

    class Lists(nn.Module):
        def forward(self, x: Tensor) -> list[list[int]]:
            return torch.nonzero(x).tolist()

    fast, level = optimize(Lists(), backend="openvino", cache=False), logging.getLogger().level
    settled(fast, torch.rand(1, 3, 9, 8))
    assert (fast.backend, logging.getLogger().level) == ("reference", level)


def test_weights_are_those_of_the_moment() -> None:
    model = small("hrformer_nano", "pose")
    x = torch.randn(1, 3, 32, 32)
    before = model(x)
    fast = optimize(model, backend="openvino", cache=False)
    nn.init.zeros_(model.head.final_layer.weight)
    assert_same(settled(fast, x), before)


def test_channels_last_and_sliced_inputs() -> None:
    model = small("hrformer_nano", "pose")
    fast = optimize(model, backend="openvino", cache=False)
    x = torch.randn(2, 3, 32, 64)[..., ::2].contiguous(memory_format=torch.channels_last)
    assert_same(settled(fast, x), model(x))


def test_what_no_runtime_takes_is_answered_all_the_same() -> None:
    model = small("hrformer_nano", "pose")
    fast = optimize(model, backend="openvino", cache=False)
    assert fast(torch.empty(0, 3, 32, 32)).shape == (0, 3, 8, 8)
    double = model.double()
    assert optimize(double)(torch.randn(1, 3, 32, 32).double()).dtype == torch.float64


def test_results_are_copies_without_gradient() -> None:
    model = small("hrformer_nano", "pose")
    fast = optimize(model, backend="openvino", cache=False)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    first = settled(fast, x)
    kept = first.clone()
    fast(torch.randn(1, 3, 32, 32))
    assert torch.equal(first, kept)
    assert not first.requires_grad


class Counting:
    """A runtime that remembers what it was asked."""

    name = "counting"
    bound = 0.0

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.forgotten: list[int] = []

    def run(self, x: Tensor) -> list[Tensor]:
        self.ran.append(x.shape[-1])
        return [x.flatten(1)]

    def forget(self, plane: tuple[int, int, int]) -> None:
        self.forgotten.append(plane[2])


def test_sizes_are_compiled_when_they_come_again_and_forgotten_in_turn() -> None:
    runtime = Counting()
    fast = FastModel(nn.Flatten(), Engine("openvino", runtime=runtime), Wanted(backend="openvino"))
    for _ in range(PLAIN_CALLS):
        fast(torch.zeros(1, 1, 1, 5))
    assert runtime.ran == []  # a picture and its mirror image: not worth a program
    settled(fast, torch.zeros(1, 1, 1, 6))
    assert runtime.ran == [6, 6]  # a program is tried before it answers
    for _ in range(2):
        fast(torch.zeros(1, 1, 1, 5))
    assert runtime.ran == [6, 6, 5, 5, 5]
    for width in range(7, 7 + MAX_SIZES):
        fast(torch.zeros(1, 1, 1, 5))  # in use all the time
        settled(fast, torch.zeros(1, 1, 1, width))
    assert runtime.forgotten == [6, 7]


def test_failing_runtime_gives_way_to_the_plain_network(caplog) -> None:
    class Failing(Counting):
        def run(self, x: Tensor) -> list[Tensor]:
            raise RuntimeError("no memory left\nand more")

    fast = FastModel(nn.Flatten(), Engine("openvino", runtime=Failing()), Wanted(backend="openvino"))
    with caplog.at_level(logging.WARNING, "hrformer"):
        for _ in range(3):
            assert fast(torch.ones(2, 1, 1, 3)).shape == (2, 3)
    assert [record.message for record in caplog.records] == [
        "openvino fails, the plain network runs from now on: no memory left"
    ]
    assert fast.backend == "reference"


def test_without_runtimes_one_line_says_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    monkeypatch.setattr(choice, "native_model_refusal", lambda model, precision: "no kernels today")
    model = small("hrformer_nano", "pose")
    with caplog.at_level(logging.INFO, "hrformer"):
        fast = optimize(model)
    assert fast.backend == "reference"
    (record,) = caplog.records
    assert "no kernels today" in record.message
    assert "fast-cpu" in record.message
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backend": "tensorrt"}, f"must be one of {', '.join(BACKENDS)}, got 'tensorrt'"),
        ({"precision": "fp8"}, "'fp32', 'bf16' or 'auto', got 'fp8'"),
        *(
            ({"threads": threads}, rf"threads must be a whole number from 1 to 1024, got {threads!r}")
            for threads in (0, -1, 1025, 2**32, 2**32 + 2, 2.5, True, "2")
        ),
        ({"backend": "triton"}, "runs on CUDA, but the model is on cpu"),
    ],
)
def test_wrong_options_are_named(options, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        optimize(nn.Conv2d(3, 3, 1), **options)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"'onnxruntime' needs a package: pip install 'hrformer\[fast-cpu\]'"):
        optimize(nn.Conv2d(3, 3, 1), backend="onnxruntime")


def test_precision_reaches_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Kernels(nn.Module):
        def __init__(self, model: nn.Module, threads: int | None, precision: str) -> None:
            super().__init__()
            asked.append((threads, precision))

    monkeypatch.setattr(module, "NativeModel", Kernels)
    monkeypatch.setattr(choice, "native_model_refusal", lambda model, precision: None)
    monkeypatch.setattr(choice, "find_half_library", lambda: (SimpleNamespace(pays=True), ""))
    model = small("hrformer_nano", "pose")
    for precision in ("fp32", "bf16", "auto"):
        fast = optimize(model, threads=1, precision=precision)
        assert (fast.backend, fast.precision) == ("native", asked[-1][1])
    assert optimize(model).precision == "fp32"
    assert asked == [(1, "fp32"), (1, "bf16"), (1, "bf16"), (None, "fp32")]


@pytest.mark.parametrize("there", [True, False])
def test_openvino_says_what_it_computes_in(monkeypatch: pytest.MonkeyPatch, caplog, there: bool) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda: there)
    with caplog.at_level(logging.INFO, "hrformer"):
        fast = optimize(nn.Conv2d(3, 3, 1), backend="openvino", precision="bf16", cache=False)
    assert (fast.backend, fast.precision) == ("openvino", "bf16" if there else "fp32")
    assert ("no bf16 on this processor" in fast.reason) is ("no bf16 on this processor" in caplog.text) is not there


def test_precision_follows_what_becomes_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_half_library", lambda: (None, "none"))
    fast = optimize(small("hrformer_nano", "pose"), precision="auto")
    assert fast.precision == "fp32"
    assert fast.to(torch.bfloat16).precision == "bf16"
    fast = FastModel(nn.Flatten(), Engine("openvino", precision="bf16"), Wanted())
    assert fast.precision == "bf16"
    fast._use(Engine("reference", "it fails"))
    assert fast.precision == "fp32"


def test_first_result_waits_for_no_program(tmp_path: Path) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    fast = optimize(model, backend="openvino")
    for _ in range(PLAIN_CALLS):
        assert torch.equal(fast(x), model(x))
    assert not (tmp_path / "runtimes").exists()
    fast(x)
    assert list((tmp_path / "runtimes").glob("*.blob"))


def test_other_dtypes_are_refused_by_name_only() -> None:
    half = nn.Conv2d(3, 3, 1).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"float32 models on the CPU, this one is torch\.bfloat16"):
        optimize(half, backend="openvino")
    assert optimize(half).backend == "reference"


def test_it_cannot_be_trained_or_changed() -> None:
    fast = optimize(small("hrformer_nano", "pose"), backend="reference")
    assert fast.eval() is fast
    with pytest.raises(ValueError, match="train the model that it was made from"):
        fast.train()
    with pytest.raises(ValueError, match="set the upsampling first"):
        fast.set_upsample("nearest")


def test_compiled_programs_are_kept_and_broken_ones_replaced(tmp_path, caplog) -> None:
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    expected = settled(optimize(model, backend="openvino"), x)
    (blob,) = (tmp_path / "runtimes").glob("*.blob")
    written = blob.stat().st_mtime_ns
    assert torch.equal(settled(optimize(model, backend="openvino"), x), expected)
    assert blob.stat().st_mtime_ns == written
    blob.write_bytes(blob.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "hrformer"):
        assert torch.equal(settled(optimize(model, backend="openvino"), x), expected)
    assert "cannot be used and is made anew" in caplog.text
    assert blob.stat().st_size > 1000
    assert math.isfinite(expected.sum())


def test_unwritable_cache_only_warns(tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "runtimes").write_text("a file where a folder should be")
    model, x = small("hrformer_nano", "pose"), torch.randn(1, 3, 32, 32)
    with caplog.at_level(logging.WARNING, "hrformer"):
        assert_same(settled(optimize(model, backend="openvino"), x), model(x))
    assert "is not kept" in caplog.text


TWO_MODELS_THEN_A_SIGNAL = """
import signal

import torch
from torch import nn

from hrformer.fast.optimize import PLAIN_CALLS, optimize

handled = []
signal.signal(signal.SIGINT, lambda *_: handled.append("handled"))
models = [optimize(nn.Conv2d(3, 4, 3), backend="openvino", cache=False) for _ in range(2)]
for model in models:
    for _ in range(PLAIN_CALLS + 1):
        model(torch.rand(1, 3, 8, 8))
del model
while models:
    models.pop(0)
signal.raise_signal(signal.SIGINT)
print(handled)
"""


def test_signals_are_handled_after_models_are_gone() -> None:
    """OpenVINO left the thread with a stack for signal handlers that no longer existed: Ctrl-C was a crash."""
    command = [sys.executable, "-c", TWO_MODELS_THEN_A_SIGNAL]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (0, "['handled']\n"), finished.stderr
