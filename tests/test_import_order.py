"""Imports in ``src/hrformer`` point down the rows only, never sideways or in a circle; lazy ones count too."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"

# Highest first. A module may import from its own package and from the rows below.
ROWS = (
    ("cli",),
    ("serve", "cluster"),
    ("recipes", "export", "formats"),
    ("train", "predict"),
    ("evaluate", "video"),
    ("checkpoints", "timm_api"),
    ("zoo",),
    ("fast", "timm_backbones"),
    ("data", "metrics", "losses", "models"),
    ("geometry",),
    ("files", "wording"),
)
ROW_OF = {part: number for number, row in enumerate(ROWS) for part in row}
# Above all rows: these two may import anything, and nothing imports them.
TOP = ("hrformer", "hrformer.__main__")

# Import name -> name on the package index. Always installed, hence imported at the top of a file.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface-hub",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "tyro": "tyro",
    "rich": "rich",
    "yaml": "pyyaml",
}
# Required, but slow to import: may be loaded where something needs them.
SLOW = frozenset({"timm", "torchvision", "torch.fx.experimental.symbolic_shapes", "pydantic", "huggingface_hub"})
# Perhaps absent, hence imported where they are used, or at the top inside ``try``.
OPTIONAL = frozenset(
    {
        "accelerate",
        "av",
        "datasets",
        "ezc3d",
        "fastapi",
        "fastapi_offline",
        "faster_coco_eval",
        "fsspec",
        "gradio",
        "jinja2",
        "litserve",
        "matplotlib",
        "mlflow",
        "nncf",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
        "pandas",
        "prometheus_client",
        "pyarrow",
        "pycocotools",
        "ray",
        "scipy",
        "skimage",
        "sklearn",
        "starlette",
        "supervision",
        "tables",
        "tensorboard",
        "torchmetrics",
        "transformers",
        "triton",
        "uvicorn",
        "wandb",
        "webdataset",
    }
)
# Rooms that are an extra as a whole, with what they may import at the top; others import such a room inside ``try``.
EXTRAS = {"serve": frozenset({"fastapi", "fastapi_offline", "prometheus_client", "starlette", "uvicorn"})}
# Copied beside exported files, where this package and its requirements are absent.
SCRIPTS = ("hrformer.export.predict_script",)
# Packages that keep to a few third-party names, so that anything may build on them.
RESTRICTED = {"geometry": {"numpy", "torch"}, "models": {"torch"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported module; ``name`` is what ``from target import name`` takes from it."""

    target: str
    line: int
    name: str | None = None
    lazy: bool = False
    guarded: bool = False


class ImportCollector(ast.NodeVisitor):
    """Every import of one module, at any depth, with relative ones resolved to full names."""

    def __init__(self, module: str, modules: set[str]) -> None:
        is_package = any(other.startswith(f"{module}.") for other in modules)
        self.package = module if is_package else module.rpartition(".")[0]
        self.modules = modules
        self.found: list[Import] = []
        self._functions = 0
        self._guards = 0

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Try(self, node: ast.Try) -> None:
        self._guards += 1
        self.generic_visit(node)
        self._guards -= 1

    def visit_If(self, node: ast.If) -> None:
        guard = "TYPE_CHECKING" in ast.unparse(node.test)
        self._guards += guard
        self.generic_visit(node)
        self._guards -= guard

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            if submodule in self.modules:
                self._add(node, submodule)
            else:
                self._add(node, base, alias.name)

    def visit_Call(self, node: ast.Call) -> None:
        if re.fullmatch(r"(importlib\.)?import_module|__import__", ast.unparse(node.func)):
            literal = node.args and isinstance(node.args[0], ast.Constant)
            self._add(node, str(node.args[0].value) if literal else "?")
        self.generic_visit(node)

    def _add(self, node: ast.AST, target: str, name: str | None = None) -> None:
        lazy, guarded = self._functions > 0, self._guards > 0
        self.found.append(Import(target=target, name=name, line=node.lineno, lazy=lazy, guarded=guarded))


def find_problems(sources: dict[str, str]) -> list[str]:
    """Check a package given as full module name -> source text; one line of text for each broken rule."""
    trees = {module: ast.parse(text) for module, text in sources.items()}
    imported_names = {module: _names_bound_by_imports(tree) for module, tree in trees.items()}
    graph: dict[str, set[str]] = {}
    problems = []
    for module, tree in trees.items():
        collector = ImportCollector(module, set(sources))
        collector.visit(tree)
        graph[module] = {found.target for found in collector.found if found.target in sources}
        for found in collector.found:
            own = found.target.split(".")[0] == "hrformer"
            if module in SCRIPTS:
                rules = iter(["imports this package"] if own else [])
            else:
                rules = _own_problems(module, found, imported_names) if own else _third_party_problems(module, found)
            problems += [f"{module}:{found.line} {rule}" for rule in rules]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append(f"cycle: {' -> '.join(reversed(error.args[1]))}")
    return problems


def _own_problems(module: str, found: Import, imported_names: dict[str, set[str]]) -> Iterator[str]:
    target = found.target
    if found.lazy and module not in TOP:
        yield f"imports {target} inside a function; only optional third-party packages may be lazy"
    if target not in imported_names:
        yield f"imports {target}, which does not exist"
        return
    if module in TOP:
        return
    if target in TOP:
        yield f"imports upward: {target}"
        return
    here, there = module.split(".")[1], target.split(".")[1]
    if unknown := [part for part in (here, there) if part not in ROW_OF]:
        yield f"{unknown[0]} stands in no row of the import order"
    elif ROW_OF[there] < ROW_OF[here]:
        yield f"imports upward: {target}"
    elif ROW_OF[there] == ROW_OF[here] and there != here:
        yield f"imports sideways: {target}"
    if there in EXTRAS and there != here and not found.guarded:
        yield f"imports {target}, which is an extra, without try"
    if any(other.startswith(f"{target}.") for other in imported_names):
        yield f"imports from the package {target}; name the defining module"
    elif found.name in imported_names[target]:
        yield f"imports {found.name} from {target}, which itself imports it; name the defining module"


def _third_party_problems(module: str, found: Import) -> Iterator[str]:
    root = found.target.split(".")[0]
    if root == "?":
        yield "imports a module whose name is computed; write the import out"
        return
    if found.lazy and not {root, found.target} & (OPTIONAL | SLOW):
        yield f"imports {root} inside a function; only optional third-party packages may be lazy"
    if root in sys.stdlib_module_names:
        return
    if root not in REQUIRED and root not in OPTIONAL:
        yield f"imports {root}, which is neither a required nor an optional dependency"
    part = module.partition(".")[2].split(".")[0]
    if root in OPTIONAL - EXTRAS.get(part, frozenset()) and not (found.lazy or found.guarded):
        yield f"imports the optional {root} at the top; import it where it is used"
    if root not in RESTRICTED.get(part, {root}):
        yield f"imports {root}; {part} uses {' and '.join(sorted(RESTRICTED[part]))} only"


def _names_bound_by_imports(tree: ast.Module) -> set[str]:
    """Names that the module's top level owes to its own ``from x import name`` lines."""
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in lines for alias in node.names}


def _package_sources() -> dict[str, str]:
    sources = {}
    for path in sorted((SOURCE / "hrformer").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


def test_package_keeps_the_import_order() -> None:
    sources = _package_sources()
    assert "hrformer.geometry.input_spec" in sources
    assert find_problems(sources) == []


def test_required_packages_are_those_in_pyproject() -> None:
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
    assert set(REQUIRED.values()) == declared


LAWFUL = {
    "hrformer": "from hrformer.models.zoo import create\nfrom hrformer.cli import main",
    "hrformer.__main__": "from hrformer.cli import main",
    "hrformer.cli.serve": "try:\n    from hrformer.serve.app import Service\nexcept ImportError:\n    Service = None",
    "hrformer.serve.app": "import fastapi\nclass Service: ...",
    "hrformer.cli": "import json\nimport tyro\nfrom hrformer.predict.draw import paint\ndef main(): import onnx",
    "hrformer.predict": "",
    "hrformer.predict.draw": "import cv2\nfrom ..models import zoo\nfrom ..models.zoo import create",
    "hrformer.models": "",
    "hrformer.models.zoo": "import torch\nfrom .trunk import Trunk\ndef create(): ...",
    "hrformer.models.trunk": "import torch\nclass Trunk: ...",
    "hrformer.fast": "",
    "hrformer.fast.launch": "try:\n    import triton\nexcept ImportError:\n    triton = None",
    "hrformer.data.coco": "from hrformer.geometry.boxes import clip",
    "hrformer.geometry.boxes": "import numpy\ndef clip(): ...",
}


def test_checker_accepts_a_lawful_package() -> None:
    assert find_problems(LAWFUL) == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("geometry.boxes", "from hrformer.models.zoo import create", "upward: hrformer.models.zoo"),
        ("geometry.boxes", "def f():\n    from hrformer.models.zoo import create", "upward: hrformer.models.zoo"),
        ("geometry.boxes", "def f():\n    from hrformer.models.zoo import create", "inside a function"),
        ("geometry.boxes", "if TYPE_CHECKING:\n    from hrformer.models.zoo import create", "upward"),
        ("geometry.boxes", "from ..models.zoo import create", "upward: hrformer.models.zoo"),
        ("geometry.boxes", "import importlib\nimportlib.import_module('hrformer.models.zoo')", "upward"),
        ("geometry.boxes", "import importlib\nimportlib.import_module(name)", "computed"),
        ("geometry.boxes", "from hrformer import create", "upward: hrformer"),
        ("geometry.boxes", "import cv2", "geometry uses numpy and torch only"),
        ("models.trunk", "from hrformer.data.coco import clip", "sideways: hrformer.data.coco"),
        ("models.trunk", "from hrformer.models.zoo import create", "cycle: hrformer.models."),
        ("models.trunk", "class A:\n    def f(self):\n        from . import zoo", "cycle: hrformer.models."),
        ("models.trunk", "import sklearn", "optional sklearn at the top"),
        ("models.trunk", "import uvicorn", "optional uvicorn at the top"),
        ("serve.app", "import ray", "optional ray at the top"),
        ("cli.serve", "from hrformer.serve.app import Service", "an extra, without try"),
        ("models.trunk", "import mmcv", "neither a required nor an optional"),
        ("models.trunk", "def f(): import torch", "imports torch inside a function"),
        ("models.trunk", "from hrformer.geometry.absent import x", "does not exist"),
        ("data.coco", "from hrformer.geometry import boxes\nfrom hrformer.odd import x", "does not exist"),
        ("odd", "from hrformer.geometry.boxes import clip", "odd stands in no row"),
        ("predict.draw", "from hrformer.models import create", "from the package hrformer.models"),
        ("predict.draw", "from hrformer.models.zoo import Trunk", "which itself imports it"),
    ],
)
def test_checker_reports(module: str, source: str, expected: str) -> None:
    problems = find_problems({**LAWFUL, f"hrformer.{module}": source})
    assert any(expected in problem for problem in problems), problems
