"""Runs in an environment with ``trackers``: scenes of boxes and scores in, numbers and boxes of each out, as JSON.

Arguments: the file with the scenes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
import trackers

TRACKERS: dict[str, dict[str, Any]] = {
    "SORTTracker": {},
    "ByteTrackTracker": {},
    "OCSORTTracker": {},
    "BoTSORTTracker": {"enable_cmc": False},  # there are no pictures whose camera could move
    "CBIoUTracker": {},
}
RATE, MEMORY = 25.0, 2.0
"""Frames per second, and the seconds for which ours remembers people, too."""


def run(name: str, scene: list[list[list[float]]]) -> list[list[list[float]]]:
    """(number, x, y, width, height) of those who have a track, of each frame; rows come in with the score last."""
    tracker = getattr(trackers, name)(frame_rate=RATE, lost_track_buffer=round(RATE * MEMORY), **TRACKERS[name])
    frames = []
    for rows in scene:
        values = np.array(rows, np.float32).reshape(-1, 5)
        corners = np.hstack([values[:, :2], values[:, :2] + values[:, 2:4]])
        found = sv.Detections(xyxy=corners, confidence=values[:, 4], class_id=np.zeros(len(values), int))
        answer = tracker.update(found)
        numbers = np.full(len(answer), -1) if answer.tracker_id is None else answer.tracker_id
        boxes = np.hstack([answer.xyxy[:, :2], answer.xyxy[:, 2:] - answer.xyxy[:, :2]])
        kept = numbers >= 0
        frames.append(np.column_stack([numbers[kept] + 1, boxes[kept]]).tolist())
    return frames


if __name__ == "__main__":
    scenes = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({name: {key: run(name, scene) for key, scene in scenes.items()} for name in TRACKERS}))
