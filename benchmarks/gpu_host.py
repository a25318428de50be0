"""What ``gpu.py`` does without the package: programs that it looks for, the machine, and the kernels' tests.

Only the stage "machine" imports PyTorch, so that nothing else can hurt what it tells.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_record import WRONG_USE, Case, Record, Skip, stage_json

HERE = Path(__file__).resolve().parent

KERNEL_TESTS = (
    *(f"fast/triton/test_{name}.py" for name in (
        "window_block", "pointwise", "depthwise_pointwise", "fusion_sum", "window_attention", "depthwise",
        "huge_batches", "launch", "attention_op", "depthwise_op", "conv_ffn", "graphs", "compilation",
    )),
    *(f"fast/test_{name}.py" for name in ("stages", "switches", "fused", "fused_convs", "coat")),
    "models/test_attention.py",
)  # fmt: skip
"""Below ``tests/``; what matters most comes first."""
SOUND = (12, 9)
"""As ``SOUND_ASSEMBLER`` of ``hrformer.fast.triton.launch``, which says why and cannot be imported without torch."""
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy", "transformers", "accelerate", "pytest")


def assembler() -> tuple[Path | None, str]:
    """The first ptxas that compiles right, or None, and a line about it.

    One that ``TRITON_PTXAS_PATH`` names comes first, then what Triton's wheel brings, then CUDA toolkits.
    """
    tried = []
    for path in _assemblers():
        found = release(path)
        if found >= SOUND:
            return path, f"{path}, {found[0]}.{found[1]}"
        tried.append(f"{path} is {found[0]}.{found[1]}" if found > (0, 0) else f"{path} does not run")
    wanted = ".".join(map(str, SOUND))
    return None, f"none of at least {wanted}, so attention runs as three kernels ({'; '.join(tried) or 'none found'})"


def _assemblers() -> Iterator[Path]:
    named = os.environ.get("TRITON_PTXAS_PATH")
    found = [Path(named)] if named else []
    spec = find_spec("triton")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found += [Path(folder, "backends", "nvidia", "bin", name) for name in ("ptxas-blackwell", "ptxas")]
    found += _in_toolkits("ptxas")
    yield from dict.fromkeys(path for path in found if path.is_file())


def release(path: Path) -> tuple[int, int]:
    """Version of a ptxas; (0, 0) where it does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    match = re.search(r"release (\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def sanitizer() -> str | None:
    """Path of compute-sanitizer."""
    return next((str(path) for path in _in_toolkits("compute-sanitizer") if path.is_file()), None)


def _in_toolkits(program: str) -> list[Path]:
    """Where a program of a CUDA toolkit may lie: named folders, PATH, the usual place, NVIDIA's wheels."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    homes += sorted(Path("/usr/local").glob("cuda*"), reverse=True)
    homes += [home for folder in sys.path for home in sorted(Path(folder or ".", "nvidia").glob("*"), reverse=True)]
    on_path = shutil.which(program)
    found = [Path(on_path)] if on_path else []
    return found + [home / folder / program for home in homes for folder in ("bin", "compute-sanitizer")]


def describe(options: argparse.Namespace, assembler_line: str, environment: dict[str, str]) -> dict[str, str]:
    """What a reader needs to judge the page: command, date, versions, commit, tools, switches."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "limit": f"{options.minutes:g} minutes",
        "versions": ", ".join([f"Python {platform.python_version()}", *_versions()]),
        "commit": _said(["git", "-C", str(HERE.parent), "rev-parse", "HEAD"]) or "not known: no git here",
        "driver": _said(
            ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,power.limit", "--format=csv,noheader"]
        )
        or "nvidia-smi does not answer",
        "ptxas": assembler_line,
        "compute-sanitizer": sanitizer() or "absent",
        "C compiler": _compiler(),
        "kernels switched off": environment.get("HRFORMER_TRITON_OFF") or "none",
        "processor": f"{os.cpu_count()} cores",
    }


def _compiler() -> str:
    """What Triton compiles the launchers of kernels with; without it, or Python's header, no kernel of it runs."""
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    lacking = [*([] if found else ["gcc"]), *([] if header.is_file() else [str(header)])]
    return f"absent ({', '.join(lacking)}): Triton launches nothing" if lacking else str(found)


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _said(command: list[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout.strip().partition("\n")[0] if finished.returncode == 0 else ""


def no_device(options: argparse.Namespace) -> bool:
    """Whether the run is for a CUDA device and there is none; says so."""
    import torch

    missing = options.device == "cuda" and not torch.cuda.is_available()
    if missing:
        print("there is no CUDA device that torch can use; --device cpu --tiny runs everything on the processor")
    return missing


def run_machine(options: argparse.Namespace) -> int:
    """The stage: what the device is, and the two rates that bound everything on it."""
    import torch

    if no_device(options):
        return WRONG_USE
    device, side = torch.device(options.device), 512 if options.tiny else 8192

    def about() -> Mapping[str, Any]:
        if device.type == "cpu":
            return {"device": "CPU, kernels interpreted", "torch": torch.__version__}
        found = torch.cuda.get_device_properties(device)
        return {
            "device": found.name,
            "capability": f"{found.major}.{found.minor}",
            "memory": f"{found.total_memory / 2**30:.0f} GiB",
            "multiprocessors": found.multi_processor_count,
            "torch": torch.__version__,
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }

    def seconds(call: Callable[[], object]) -> float:
        """Of one call: the best of five rounds of calls without a pause."""
        calls, times = 1 if options.tiny else 20, []
        for _ in range(6):
            began = time.perf_counter()
            for _ in range(calls):
                call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - began) / calls)
        return min(times[1:])

    def bandwidth() -> Mapping[str, Any]:
        source = torch.zeros(side * side * 16, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return {"GB/s": 2 * source.numel() / seconds(lambda: target.copy_(source)) / 1e9}

    def products() -> Mapping[str, Any]:
        a = torch.randn(side, side, device=device).to(torch.bfloat16)
        return {"TFLOP/s": 2 * side**3 / seconds(lambda: a @ a) / 1e12}

    record = Record(stage_json(options), lambda: True, options.seconds)
    name = f"bf16 product of {side} x {side}"
    return record.run_all([("device", about), ("copy, read and written", bandwidth), (name, products)])


def run_tests(options: argparse.Namespace) -> int:
    """The stage: a case for every file."""
    record = Record(stage_json(options), lambda: True, options.seconds)
    return record.run_all(test_cases(options, record))


def test_cases(options: argparse.Namespace, record: Record) -> Iterator[Case]:
    """Files of tests side by side; each is a line with what failed."""
    tests = HERE.parent / "tests"
    files = KERNEL_TESTS[7:8] if options.tiny else KERNEL_TESTS
    with ThreadPoolExecutor(max_workers=2 if options.tiny else min(8, os.cpu_count() or 1)) as pool:
        end = time.monotonic() + options.seconds - 2
        running = {name: pool.submit(_test_file, tests / name, end) for name in files if not record.known(name)}
        for name, result in running.items():
            yield name, result.result


def _test_file(file: Path, end: float) -> Mapping[str, Any]:
    if (left := end - time.monotonic()) < 1:
        raise Skip("no time left")
    if not file.is_file():
        raise Skip("the tests are not part of this tree")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-rf", str(file)]
    try:
        finished = subprocess.run(
            command,
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"not done after {left:.0f} s") from error
    lines = finished.stdout.strip().splitlines()
    facts: dict[str, Any] = {"result": lines[-1].strip("= ") if lines else ""}
    if finished.returncode not in (0, 5):
        print(finished.stdout, flush=True)
        facts["rows"] = [{"failed": line} for line in lines if line.startswith(("FAILED", "ERROR"))][:20]
        facts["wrong"] = f"exit status {finished.returncode}"
    return facts
