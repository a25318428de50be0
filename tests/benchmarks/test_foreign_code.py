"""Foreign files run by themselves and leave no trace among this process's modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from foreign_code import foreign_module, rearrange


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package that needs something absent, and whose ``__init__`` cannot be run."""
    parts = tmp_path / "json" / "parts"
    parts.mkdir(parents=True)
    (tmp_path / "json" / "__init__.py").write_text("raise RuntimeError('not to be run')")
    (parts / "net.py").write_text(
        "import warnings\nfrom absent_package.things import double\nfrom json.parts.other import THREE\n"
        "from .other import Kind\nwarnings.warn('old')\n"
        "def answer():\n    from json.parts.late import LATE\n    return double(THREE) + LATE\n"
    )
    (parts / "other.py").write_text("THREE = 3\nclass Kind: ...\n")
    (parts / "late.py").write_text("LATE = 100\n")
    return tmp_path


REPLACED = {"absent_package": {}, "absent_package.things": {"double": lambda value: 2 * value}}


def test_module_runs_with_its_replacements(checkout: Path, recwarn: pytest.WarningsRecorder) -> None:
    import json

    before = dict(sys.modules)
    with foreign_module(checkout, "json.parts.net", REPLACED, "foreign_test") as found:
        assert found.answer() == 106
        kind = found.Kind
    assert not recwarn.list
    # The standard library's json stood behind the foreign one of the same name.
    assert sys.modules["json"] is json
    assert {name: module for name, module in sys.modules.items() if not name.startswith("foreign_test.")} == before
    assert sys.modules["foreign_test.json.parts.net"].__name__ == "foreign_test.json.parts.net"
    assert kind.__module__ == "foreign_test.json.parts.other"
    assert not list(checkout.rglob("__pycache__"))


def test_nothing_stays_after_an_error(checkout: Path) -> None:
    before = dict(sys.modules)
    with (
        pytest.raises(ModuleNotFoundError, match="absent_package"),
        foreign_module(checkout, "json.parts.net", {}, "x"),
    ):
        pass
    assert {name: module for name, module in sys.modules.items() if not name.startswith("x.")} == before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"), foreign_module(tmp_path, "a.nowhere", {}, "x"):
        pass


def test_rearrange_cuts_windows_and_puts_them_back() -> None:
    x = torch.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    lengths = {"n": 2, "qh": 2, "ph": 2, "qw": 2, "pw": 3, "c": 3}
    windows = rearrange(x, "n (qh ph) (qw pw) c -> (ph pw) (n qh qw) c", **lengths)
    assert windows.shape == (6, 8, 3)
    # Second window of the first picture: rows 0 and 1, columns 3 to 5.
    assert torch.equal(windows[:, 1], x[0, :2, 3:].reshape(6, 3))
    assert torch.equal(rearrange(windows, "(ph pw) (n qh qw) c -> n (qh ph) (qw pw) c", **lengths), x)
