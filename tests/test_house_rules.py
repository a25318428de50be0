"""Rules a reader would otherwise check by hand: sizes, leftovers, quiet imports, what the wheel holds."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hrformer

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src"
FILES = sorted((SOURCE / "hrformer").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if path.name != "__main__.py"
]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Bracketed letters keep these patterns from finding themselves.
LEFTOVERS = re.compile(r"\bTO[D]O\b|\bFIX[M]E\b|\bimport pd[b]\b|\bbreakpoint[(]")
MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9_.])/(work|tmp|root|home)/")

# Runs in a fresh interpreter: None in sys.modules makes a package look absent.
IMPORT_ALL = """
import importlib, sys
for name in ("accelerate", "faster_coco_eval", "onnx", "pycocotools", "skimage", "tensorboard", "torchmetrics"):
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def size_problems(name: str, text: str) -> Iterator[str]:
    """Files and functions longer than the house allows."""
    if (lines := len(text.splitlines())) > MAX_FILE_LINES:
        yield f"{name}: {lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{name}:{node.lineno} {node.name}: {lines} lines, at most {MAX_FUNCTION_LINES}"


def print_calls(name: str, text: str) -> Iterator[str]:
    """Calls of the built-in ``print``; a library logs, and the command line writes through rich."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{name}:{node.lineno} calls print"


def environment_reads_at_import(name: str, text: str) -> Iterator[str]:
    """Uses of ``os.environ`` and ``os.getenv`` that run when the module is imported."""
    pending: list[ast.AST] = [ast.parse(text)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).split(".")[-1] in ("environ", "getenv"):
            yield f"{name}:{getattr(node, 'lineno', 0)} reads the environment at import"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif not isinstance(node, ast.Lambda):
            pending += ast.iter_child_nodes(node)


def line_matches(pattern: re.Pattern[str], name: str, text: str) -> Iterator[str]:
    """Lines in which the pattern occurs."""
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.search(line):
            yield f"{name}:{number} {line.strip()[:80]}"


def _repository_texts() -> dict[str, str]:
    """Text files that are, or are about to be, in version control."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout to know which files belong to the repository")
    texts = {}
    for name in filter(None, listing.split("\0")):
        path = REPOSITORY / name
        if path.is_file():
            data = path.read_bytes()
            if b"\0" not in data:
                texts[name] = data.decode("utf-8", errors="replace")
    return texts


@pytest.mark.parametrize("rule", [size_problems, print_calls, environment_reads_at_import])
def test_sources_keep_the_rule(rule) -> None:
    assert len(FILES) > 5
    problems = [
        problem for path in FILES for problem in rule(str(path.relative_to(REPOSITORY)), path.read_text("utf-8"))
    ]
    assert problems == []


@pytest.mark.parametrize("pattern", [LEFTOVERS, MACHINE_PATH], ids=["leftovers", "machine paths"])
def test_repository_is_free_of(pattern: re.Pattern[str]) -> None:
    texts = _repository_texts()
    assert "pyproject.toml" in texts
    assert [found for name, text in texts.items() for found in line_matches(pattern, name, text)] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (size_problems, "x = 1\n" * 401),
        (size_problems, "def f():\n" + "    x = 1\n" * 60),
        (print_calls, "def f():\n    print(1)"),
        (environment_reads_at_import, "import os\nclass A:\n    x = os.environ['A']"),
        (environment_reads_at_import, "from os import getenv\ndef f(x=getenv('A')): ..."),
    ],
)
def test_rules_can_fail(rule, text: str) -> None:
    assert list(rule("name", text))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (size_problems, "x = 1\n" * 340 + "def f():\n" + "    x = 1\n" * 59),
        (print_calls, "console.print(1)\n'print(1)'"),
        (environment_reads_at_import, "import os\ndef f():\n    return os.environ['A']"),
    ],
)
def test_rules_can_pass(rule, text: str) -> None:
    assert not list(rule("name", text))


@pytest.mark.parametrize("text", ["open('/" + "tmp/x')", "/" + "home/me", "cd /" + "root/a"])
def test_machine_paths_are_seen(text: str) -> None:
    assert MACHINE_PATH.search(text)
    assert not MACHINE_PATH.search("https://example.org/home/page ../work/ src/work/")


@pytest.mark.parametrize("module", MODULES)
def test_module_is_importable_and_documented(module: str) -> None:
    assert importlib.import_module(module).__doc__, f"{module} needs a docstring"


def test_importing_everything_is_silent_and_needs_no_extras() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, "hrformer", *MODULES]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_changelog_has_an_entry_for_the_current_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    assert f"\n## [{hrformer.__version__}]" in changelog


def test_wheel_holds_the_package_its_weights_and_the_licence(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling, from the extra 'dev'")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    # Without the hook that compiles, which tests/fast/x86/test_build.py tries.
    quick = os.environ | {"HATCH_BUILD_NO_HOOKS": "true"}
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=quick)
    (wheel,) = tmp_path.glob("hrformer-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        about = f"hrformer-{hrformer.__version__}.dist-info"
        metadata = archive.read(f"{about}/METADATA").decode()
        scripts = archive.read(f"{about}/entry_points.txt").decode()
    weights = (SOURCE / "hrformer" / "weights").glob("hrformer_tiny_*")
    others = [SOURCE / "hrformer" / name for name in ("py.typed", "checkpoints/published.toml")]
    pages = [*(SOURCE / "hrformer" / "train").glob("summary.*"), *(SOURCE / "hrformer" / "data").glob("classes/*.txt")]
    wanted = {str(path.relative_to(SOURCE)) for path in [*FILES, *weights, *pages, *others]}
    assert wanted <= held
    assert {name.split("/")[0] for name in held} == {"hrformer", "hrformer_main.py", about}
    assert f"{about}/licenses/LICENSE" in held
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: <3.15,>=3.11" in metadata
    assert "hrformer = hrformer_main:main" in scripts
