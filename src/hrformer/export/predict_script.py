"""Answers of an exported model on pictures; needs numpy, pillow and the runtime of the model file beside it.

    python predict.py PICTURE...                        keypoints, masks or classes, one line of JSON for each
    python predict.py PICTURE --boxes 10,20,200,300     pose: people as x,y,width,height in pixels; the whole without
    python predict.py PICTURE --out FOLDER              also draws the answers

The runtime is onnxruntime for model.onnx, openvino for model.xml, and torch for model.pt2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

Array = np.ndarray[Any, Any]
HERE = Path(__file__).resolve().parent
KEY = "hrformer"


def open_model(path: Path) -> tuple[dict[str, Any], Callable[[dict[str, Array]], Array]]:
    """What a model file says about itself, and the function from its inputs by name to its answer."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Sizes change with every picture: memory planned for each would only grow.
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        return about, lambda inputs: np.asarray(session.run(about["outputs"], inputs)[0])
    if path.suffix == ".xml":
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        about = json.loads(model.get_rt_info(KEY).astype(str))
        # Otherwise some processors compute in bfloat16.
        hint = "bf16" if about["precision"] == "bf16" else "f32"
        program = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return about, lambda inputs: np.array(program(inputs)[about["outputs"][0]])
    import torch

    extra = {f"{KEY}.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra[f"{KEY}.json"])
    return about, lambda inputs: module(*(torch.from_numpy(inputs[name]) for name in about["inputs"])).numpy()


def read_picture(path: str, channels: int) -> Array:
    """(H, W, 3 or 4) uint8 RGB, upright."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return np.array(upright.convert("RGBA" if channels == 4 else "RGB"))


def name_of(about: dict[str, Any], number: int) -> str:
    """Name of a class or a joint, or its number where it has none."""
    return str(about["names"][number]) if about["names"] else str(number)


def described(about: dict[str, Any], answer: Array) -> list[dict[str, Any]]:
    """An answer as JSON: people with their joints, classes with their share of the pixels, or the five best classes."""
    if about["task"] == "pose":
        return [
            {name_of(about, k): [round(float(v), 3) for v in joint] for k, joint in enumerate(person)}
            for person in answer
        ]
    if about["task"] == "segmentation":
        counts = np.bincount(answer[0].ravel())
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return [{"class": name_of(about, i), "share": round(float(counts[i] / answer[0].size), 4)} for i in order]
    best = np.argsort(-answer[0], kind="stable")[:5]
    return [{"class": name_of(about, int(i)), "probability": round(float(answer[0][i]), 4)} for i in best]


def drawn(about: dict[str, Any], pixels: Array, answer: Array) -> Image.Image:
    """The picture with its answer on it."""
    image = Image.fromarray(pixels[..., :3])
    if about["task"] == "segmentation":
        colours = about["palette"] or [
            [37 * i % 256, 91 * i % 256, 173 * i % 256] for i in range(int(answer.max()) + 1)
        ]
        return Image.blend(image, Image.fromarray(np.array(colours, np.uint8)[answer[0]]), 0.5)
    pen = ImageDraw.Draw(image)
    if about["task"] == "classification":
        pen.text(
            (4, 4), "\n".join(f"{one['class']} {one['probability']:.0%}" for one in described(about, answer)), "red"
        )
        return image
    radius = max(2, max(image.size) // 150)
    for person in answer:
        for first, second in about["skeleton"]:
            if min(person[first][2], person[second][2]) > 0.2:
                pen.line([tuple(person[first][:2]), tuple(person[second][:2])], "lime", radius)
        for x, y, score in person:
            if score > 0.2:
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], "red")
    return image


def main() -> int:
    """Answer on the pictures of the command line; 1 if one could not be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--model", type=Path, help="default: the model file beside this script")
    parser.add_argument(
        "--boxes", action="append", default=[], metavar="X,Y,W,H", help="pose: a person; may be repeated"
    )
    parser.add_argument("--out", type=Path, help="folder for pictures with the answers drawn on them")
    given = parser.parse_args()
    path = given.model or next(one for end in ("onnx", "xml", "pt2") if (one := HERE / f"model.{end}").is_file())
    about, run = open_model(path)
    if about["graph"] != "pipeline":
        parser.error(f"{path} is a bare network, which takes normalised tensors; export it with --graph pipeline")
    failed = 0
    for name in given.pictures:
        try:
            pixels = read_picture(name, len(about["input_spec"]["mean"]))
        except OSError as error:
            sys.stderr.write(f"{name}: {error}\n")
            failed = 1
            continue
        if about["task"] == "pose":
            whole = [[0, 0, pixels.shape[1], pixels.shape[0]]]
            boxes = np.array([box.split(",") for box in given.boxes] or whole, dtype=np.float32)
            answer = run({"image": pixels, "boxes": boxes})
        else:
            answer = run({"images": pixels[None]})
        sys.stdout.write(json.dumps({"file": name, "answer": described(about, answer)}, ensure_ascii=False) + "\n")
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            drawn(about, pixels, answer).save(given.out / f"{Path(name).stem}.png")
    return failed


if __name__ == "__main__":
    sys.exit(main())
