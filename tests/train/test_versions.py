from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

import hrformer
from hrformer.fast.x86.library import find_library
from hrformer.train import versions as module
from hrformer.train.versions import versions, write_versions


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["hrformer"] == hrformer.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"] == np.__version__
    assert {"torchvision", "timm", "opencv", "platform"} <= found.keys()
    assert found["cpu"]
    assert found["cores"] >= 1
    library, reason = find_library()
    assert found["kernels"] == (library.instruction_set if library else reason)
    assert len(found["gpus"]) == torch.cuda.device_count()
    age = datetime.now(UTC) - datetime.fromisoformat(found["date"])
    assert timedelta(seconds=-1) <= age < timedelta(minutes=1)


def test_written_file_is_what_was_returned(tmp_path: Path) -> None:
    found = write_versions(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "versions.json").read_text()) == found
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["versions.json"]


def test_absent_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", {"torch": ("torch",), "nothing": ("no-such-package-anywhere",)})
    found = versions()
    assert "torch" in found
    assert "nothing" not in found


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_that_of_the_checkout_and_says_whether_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    folder = tmp_path / "package" / "train"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    git("init", "-q")
    assert module._commit(folder) is None  # lies in a checkout that does not track it
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = module._commit(folder)
    assert commit == git("rev-parse", "HEAD")
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    (tmp_path / "package" / "new.py").touch()
    assert module._commit(folder) == f"{commit} with changes"


def test_no_git_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions()["commit"] is None
