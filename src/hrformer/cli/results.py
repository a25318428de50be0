"""``hrformer convert-results``: the joints of a video or of pictures in the form of another program."""

from __future__ import annotations

import numpy as np

from hrformer.cli.arguments import ConvertResultsArguments
from hrformer.cli.messages import say
from hrformer.formats.pictures import read_pictures
from hrformer.formats.write import write_results
from hrformer.predict.tracks import read_tracks
from hrformer.wording import counted


def run_convert_results(arguments: ConvertResultsArguments) -> int:
    """Read, write, and say what was written; returns 0."""
    if arguments.source.is_dir():
        tracks = read_pictures(arguments.source, **({} if arguments.rate is None else {"rate": arguments.rate}))
    elif arguments.rate is not None:
        raise ValueError(f"--rate is for a folder of pictures; {arguments.source} has times of its own")
    else:
        tracks = read_tracks(arguments.source)
    write_results(tracks, arguments.destination, to=arguments.to, scale=arguments.scale)
    frames, people = counted(len(tracks.numbers), "frame"), counted(len(np.unique(tracks.tracks)), "track")
    say(
        f"{frames}, {people} of {counted(len(tracks.source.names), 'joint')} as {arguments.to}: {arguments.destination}"
    )
    return 0
