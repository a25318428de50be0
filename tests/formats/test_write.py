"""One function for all forms: its errors, and packages that are not there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrformer.formats.write import ResultsFormat, write_results
from hrformer.predict.tracks import read_tracks
from random_tracks import two_people


def test_an_unknown_form_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of coco, coco-tracks, .*, c3d, got 'bvh'"):
        write_results(two_people(), tmp_path / "out", to="bvh")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("to", "name", "package"),
    [
        ("csv", "out.csv", "pyarrow.csv"),
        ("deeplabcut", "out.csv", "pyarrow.csv"),
        ("deeplabcut", "out.h5", "tables"),
        ("c3d", "out", "ezc3d"),
    ],
)
def test_a_package_that_is_absent_is_named_with_its_extra(
    to: ResultsFormat, name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'hrformer\[formats\]'"):
        write_results(two_people(), tmp_path / name, to=to)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("csv", "clip.parquet"),
        ("coco", "clip.csv"),
        ("coco-tracks", "clip"),
        ("trc", "clip.c3d"),
        ("openpose", "clip.mp4"),
    ],
)
def test_files_of_another_kind_are_not_written_over(to: ResultsFormat, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{to} is written to .*, not to .*{name}"):
        write_results(two_people(), tmp_path / name, to=to)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("to", "name"), [("coco", "a.json"), ("coco-tracks", "b.json"), ("openpose", "op")])
def test_an_error_on_the_way_leaves_nothing(to: ResultsFormat, name: str, tmp_path: Path) -> None:
    """JSON has no NaN."""
    tracks = two_people()
    joints = tracks.keypoints.copy()
    joints[-1, 0] = (np.nan, 1, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_results(replace(tracks, keypoints=joints), tmp_path / name, to=to)
    assert not [*tmp_path.iterdir()]


def test_the_file_of_tracks_gives_the_same(tmp_path: Path) -> None:
    two_people().save(tmp_path / "clip.parquet")
    for tracks, name in ((two_people(), "a"), (read_tracks(tmp_path / "clip.parquet"), "b")):
        write_results(tracks, tmp_path / name, to="trc")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
