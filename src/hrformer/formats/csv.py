"""CSV in long form: the rows of our Parquet file of tracks as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrformer.files import replacing
from hrformer.predict.tracks import Tracks, as_table

AT_ONCE = 1 << 14  # Frames that are text at the same time


def write_csv(tracks: Tracks, path: Path) -> None:
    """Write the columns frame, time (s), track, joint (its name), x, y (pixels, y down) and score, a row per joint.

    A frame without people is one row whose other cells are empty. Numbers are the shortest that read back the same.
    ImportError without pyarrow, OSError where the file cannot be written.
    """
    csv = pyarrow_csv()
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    with replacing(path) as part, part.open("wb") as file:
        file.write(b"frame,time,track,joint,x,y,score\n")
        for some in tracks.parts(AT_ONCE):
            table = as_table(some)
            names = table["joint"].cast("string")
            csv.write_csv(table.set_column(3, "joint", names), file, options)


def pyarrow_csv() -> Any:
    """``pyarrow.csv``, which writes tables of numbers as fast as a disk takes them; ImportError without pyarrow."""
    try:
        import pyarrow.csv
    except ImportError as error:
        raise ImportError("CSV files are written by pyarrow: pip install 'hrformer[formats]'") from error
    return pyarrow.csv
