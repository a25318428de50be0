"""Open the files of a folder with the libraries that users have, and print what they find as JSON.

Runs in an environment of its own (``tests/readers_environment.py``), without our package. NaN becomes null.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import ezc3d
import numpy as np
import pandas as pd
import sleap_io


def plain(value: Any) -> Any:
    """Lists and numbers that JSON has."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def table(frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "index": frame.index.tolist(),
        "levels": list(frame.columns.names),
        "columns": [list(column) for column in frame.columns],
        "values": plain(frame.to_numpy(float)),
    }


def coco(file: Path) -> dict[str, Any]:
    labels = sleap_io.load_coco(str(file))
    people = [
        [frame.frame_idx, person.track.name, plain(person.numpy())] for frame in labels for person in frame.instances
    ]
    return {"people": people, "joints": labels.skeleton.node_names, "limbs": plain(labels.skeleton.edge_inds)}


def c3d(file: Path) -> dict[str, Any]:
    opened = ezc3d.c3d(str(file))
    points = opened["parameters"]["POINT"]
    return {
        "labels": list(points["LABELS"]["value"]),
        "units": points["UNITS"]["value"][0],
        "rate": float(points["RATE"]["value"][0]),
        "points": plain(opened["data"]["points"][:3].transpose(2, 1, 0)),
        "residuals": plain(opened["data"]["meta_points"]["residuals"][0].T),
    }


def trc(file: Path) -> dict[str, Any] | None:
    try:
        import opensim
    except ImportError:  # no wheel for this Python yet
        return None
    opened = opensim.TimeSeriesTableVec3(str(file))
    rows = [opened.getRowAtIndex(row) for row in range(opened.getNumRows())]
    return {
        "labels": list(opened.getColumnLabels()),
        "units": opened.getTableMetaDataString("Units"),
        "rate": float(opened.getTableMetaDataString("DataRate")),
        "times": list(opened.getIndependentColumn()),
        "points": [[[plain(row[i][axis]) for axis in range(3)] for i in range(row.size())] for row in rows],
        "older reader": opensim.MarkerData(str(file)).getUnits().getAbbreviation(),
    }


def main(folder: Path) -> dict[str, Any]:
    animals = sleap_io.load_dlc(str(folder / "dlc.csv"))
    return {
        "csv": plain(pd.read_csv(folder / "long.csv").to_numpy(object)),
        "dlc csv": table(pd.read_csv(folder / "dlc.csv", header=[0, 1, 2, 3], index_col=0)),
        "dlc h5": table(pd.read_hdf(folder / "dlc.h5")),
        "dlc one": table(pd.read_hdf(folder / "one.h5")),
        "dlc names": [animals.skeleton.node_names, [track.name for track in animals.tracks]],
        "coco": coco(folder / "tracks.json"),
        "c3d": [c3d(file) for file in sorted((folder / "c3d").iterdir())],
        "trc": [trc(file) for file in sorted((folder / "trc").iterdir())],
    }


if __name__ == "__main__":
    # OpenSim tells on standard output what it reads.
    with contextlib.redirect_stdout(sys.stderr):
        found = main(Path(sys.argv[1]))
    sys.stdout.write("\n" + json.dumps(found) + "\n")
