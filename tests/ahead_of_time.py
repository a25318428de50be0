"""Compile kernel launches for a GPU that is not there: the compiler and ptxas come with Triton's wheel.

Run as a script, in a process whose kernels are not interpreted: ``TRITON_INTERPRET=0 python tests/ahead_of_time.py
models`` (``training``, ``forms``) writes what the kernels of HRFormer-B need on Hopper, as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from hrformer.fast import stages as fused
from hrformer.fast.fused import ALIGN, FusedFusionUnit, FusedTransformerBlock
from hrformer.fast.triton.depthwise import depthwise_forward
from hrformer.fast.triton.depthwise_backward import depthwise_backward
from hrformer.fast.triton.launch import round_up
from hrformer.fast.triton.window_attention import attention_forward
from hrformer.fast.triton.window_attention_backward import attention_backward
from hrformer.fast.x86 import stages as native
from hrformer.models.blocks import TransformerBlock
from hrformer.models.fusion import FusionUnit
from machine_code import undefined_reads

LOOP_HEADS = re.compile(r"scf\.for .*iter_args\((.*?)\) ->")
"""What a loop carries, as Triton's first intermediate form writes it."""

HOPPER = GPUTarget("cuda", 90, 32)
"""H100 and H200."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """One kernel as compiled.

    Attributes:
        name: of the function.
        num_warps: of a program. ``registers``: of a thread.
        shared_bytes: of a program. ``stack_bytes``: of a thread, spilled registers included.
        carried: values that the loop with most of them hands from one round to the next.
        undefined: instructions that use a uniform register which none wrote, see ``machine_code``.
    """

    name: str
    num_warps: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    carried: int
    undefined: list[str]


@contextmanager
def compiled_launches() -> Iterator[list[Compiled]]:
    """Launches inside compile for Hopper with their very arguments, and run nothing; fills the list given."""
    found: list[Compiled] = []

    def compile_instead(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append(_compile(kernel, args, kwargs))

    with mock.patch.object(JITFunction, "run", compile_instead):
        yield found


def _bound(
    kernel: JITFunction[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The compiler's options of a launch, and its arguments by name."""
    options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
    return options, kernel.signature.bind(*args, **kwargs).arguments


def _compile(kernel: JITFunction[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Compiled:
    options, values = _bound(kernel, args, kwargs)
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        signature[parameter.name] = mangle_type(value)
        aligned = isinstance(value, torch.Tensor) and value.data_ptr() % 16 == 0
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    binary = triton.compile(source, target=HOPPER, options=options)
    registers, stack, undefined = _read_back(binary.asm["cubin"])
    return Compiled(
        name=kernel.__name__,
        num_warps=binary.metadata.num_warps,
        shared_bytes=binary.metadata.shared,
        registers=registers,
        stack_bytes=stack,
        undefined=undefined,
        carried=max((head.count(" = ") for head in LOOP_HEADS.findall(binary.asm["ttir"])), default=0),
    )


def _read_back(cubin: bytes) -> tuple[int, int, list[str]]:
    """Registers, stack bytes and undefined reads of a kernel, by ``cuobjdump`` from Triton's wheel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", "--dump-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2]), undefined_reads(text)


@contextmanager
def triton_everywhere() -> Iterator[None]:
    """Triton's kernels run for maps on the CPU too, and the compiled ones for x86 processors do not."""
    everywhere = mock.patch.object(fused, "kernel_refusal", return_value=None)
    with everywhere, mock.patch.object(native, "native_refusal", return_value="Triton's turn"):
        yield


def compile_models() -> list[Compiled]:
    """Every kind of kernel that HRFormer-B launches in bfloat16, and the attention of HRFormer-S."""
    dtype = torch.bfloat16
    channels = (80, 160)
    with compiled_launches() as found, triton_everywhere(), torch.no_grad():
        for width, heads in ((78, 2), (312, 8), (32, 1), (64, 2), (128, 4)):
            block = FusedTransformerBlock(TransformerBlock(width, heads).eval().to(dtype), ALIGN)
            block(torch.zeros(1, round_up(width, ALIGN), 64, 48, dtype=dtype))
        for mode in ("nearest", "bilinear"):
            unit = FusionUnit(channels, num_outputs=2, separable=True, upsample=mode).eval().to(dtype)
            sizes = [(64 >> i, 48 >> i) for i in range(2)]
            maps = [torch.zeros(1, c, *size, dtype=dtype) for c, size in zip(channels, sizes, strict=True)]
            FusedFusionUnit(unit)(maps)
    return found


def launched_forms() -> list[str]:
    """What each launch of HRFormer-B's blocks and fusion units would be compiled for, by the size of the map."""
    dtype, forms = torch.bfloat16, []

    def record(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options, values = _bound(kernel, args, kwargs)
        fixed = {p.name: values[p.name] for p in kernel.params if p.is_constexpr or not p.do_not_specialize}
        kinds = {name: mangle_type(value) if isinstance(value, Tensor) else value for name, value in fixed.items()}
        forms.append(f"{size}: {kernel.__name__} {kinds} {options}")

    block = FusedTransformerBlock(TransformerBlock(78, 2).eval().to(dtype), ALIGN)
    unit = FusedFusionUnit(FusionUnit((80, 160), num_outputs=2, separable=True, upsample="nearest").eval().to(dtype))
    with mock.patch.object(JITFunction, "run", record), triton_everywhere(), torch.no_grad():
        for size in ((64, 48), (40, 56), (33, 17), (1, 1), (16, 13)):
            finest = torch.zeros(1, 80, *size, dtype=dtype)
            block(finest)
            unit([finest, torch.zeros(1, 160, *(-(-side // 2) for side in size), dtype=dtype)])
    return forms


def compile_training() -> list[Compiled]:
    """The kernels of training, for a small map, heads of 39 channels and a feed-forward network of 20."""
    size, channels, heads, window = (1, 5, 3), 20, 2, 7
    vectors = [torch.zeros(channels) for _ in range(6)]
    weight, hidden = torch.zeros(channels, 1, 3, 3), torch.zeros(*size, channels, dtype=torch.bfloat16)
    qkv = torch.zeros(*size, 3 * heads * 39, dtype=torch.bfloat16)
    padding, bias = qkv[0, 0, 0].clone(), torch.zeros(heads, window**2, window**2)
    with compiled_launches() as found:
        y, mean, _ = depthwise_forward(hidden, *vectors[:3], weight, vectors[3])
        depthwise_backward(hidden, *vectors[4:], y, mean, hidden, *vectors[:3], weight)
        out, softmax = attention_forward(qkv, padding, bias, window=window, num_heads=heads)
        attention_backward(out, qkv, padding, bias, out, softmax, window=window, num_heads=heads, bias_grad=True)
    return found


if __name__ == "__main__":
    parts = {"models": compile_models, "training": compile_training, "forms": launched_forms}
    found = parts[sys.argv[1]]()  # type: ignore[operator]
    sys.stdout.write(json.dumps([asdict(one) if isinstance(one, Compiled) else one for one in found]))
