"""OpenPose: a JSON file for each frame, as ``--write_json`` of OpenPose 1.7 writes it (version 1.3 of the form).

Joints are those of BODY_25 where ours are COCO's 17, else ours in their own order. Pixels, y down.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrformer.files import new_folder
from hrformer.geometry.skeletons import COCO17
from hrformer.predict.tracks import Tracks

BODY_25 = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
    *("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
)
"""OpenPose's order (its doc/02_output.md), in our names."""

MIDDLES = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}
"""Joints half-way between two of COCO's, as OpenPose derives them from COCO's labels for training."""

EMPTY = (
    *("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d"),
    *("pose_keypoints_3d", "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d"),
)
AT_ONCE = 1 << 12  # Frames that are numbers and text at the same time


def write_openpose(tracks: Tracks, path: Path) -> None:
    """Write ``NAME_000000000000_keypoints.json`` and so on, a file per frame, numbered by the frame, from 0.

    ``person_id`` holds the track. Confidence is the score, cut to [0, 1]. A joint that is not there is ``0, 0, 0``, as
    OpenPose has it: the six of the feet, which COCO lacks, and those that score 0 or less. Neck and middle of the hips
    are half-way between shoulders and hips, with the lower confidence of the two, where both are there.

    Raises:
        ValueError: the folder holds files already, which would mix with the new ones.
        OSError: a file cannot be written.
    """
    stem = Path(tracks.source.name).stem
    with new_folder(path) as folder:
        for part in tracks.parts(AT_ONCE):
            people = [_person(*person) for person in zip(part.tracks.tolist(), _joints(part).tolist(), strict=True)]
            ends = np.searchsorted(part.frames, part.numbers, side="right").tolist()
            begin = 0
            for number, end in zip(part.numbers.tolist(), ends, strict=True):
                text = f'{{"version":1.3,"people":[{",".join(people[begin:end])}]}}'
                (folder / f"{stem}_{number:012d}_keypoints.json").write_text(text, encoding="ascii")
                begin = end


def body_25(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 25, 3) x, y, score in BODY_25's order, from COCO's 17 joints (N, 17, 3); zeros for what is not there."""
    found = {name: keypoints[:, place] for place, name in enumerate(COCO17.keypoints)}
    for name, parents in MIDDLES.items():
        one, other = (found[parent] for parent in parents)
        score = np.minimum(one[:, 2:], other[:, 2:])
        found[name] = np.concatenate([(one[:, :2] + other[:, :2]) / 2, score], axis=1)
    absent = np.zeros((len(keypoints), 3), np.float32)
    return np.stack([found.get(name, absent) for name in BODY_25], axis=1)


def _joints(tracks: Tracks) -> NDArray[np.float64]:
    """(N, 3 J) x, y, confidence."""
    values = tracks.keypoints
    if tracks.source.names == COCO17.keypoints:
        values = body_25(values)
    confidence = np.round(np.clip(values[..., 2:].astype(np.float64), 0, 1), 6)
    places = np.where(confidence > 0, np.round(values[..., :2].astype(np.float64), 3), 0)
    return np.concatenate([places, confidence], axis=-1).reshape(len(values), 3 * values.shape[1])


def _person(track: int, joints: list[float]) -> str:
    person = {"person_id": [track], "pose_keypoints_2d": joints} | {name: [] for name in EMPTY}
    return json.dumps(person, separators=(",", ":"), allow_nan=False)
