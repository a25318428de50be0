from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrformer.train.config import ClassificationRun
from hrformer.train.lock import LOCK, RunLock
from hrformer.train.loop import train
from training import longer

HOLDS = """
import sys
from pathlib import Path
from hrformer.train.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(
    classification_run: ClassificationRun, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", longer(classification_run, 3)
    first = subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    for resume in (False, True):
        with pytest.raises(ValueError, match=rf"run: another run is at work in this folder \(process {first.pid} on "):
            train(config, out, resume=resume)
    # However it ends, the next run begins at once.
    first.kill()
    first.communicate()
    assert (out / LOCK).exists()
    assert train(config, out).update == 3
    assert not (out / LOCK).exists()


def test_a_folder_that_stays_empty_is_gone_again(tmp_path: Path) -> None:
    with RunLock(tmp_path / "made"):
        assert (tmp_path / "made" / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "made").exists()
    with RunLock(tmp_path):
        pass
    assert tmp_path.exists()


def test_file_systems_without_locks_go_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("hrformer.train.lock.fcntl.lockf", refuse)
    with RunLock(tmp_path):
        pass
