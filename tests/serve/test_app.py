"""The API: answers are the predictor's own, and whatever is wrong gets its status and one sentence."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from hrformer.models.heads import ClassificationHead
from hrformer.predict.predictors import load
from hrformer.serve.app import Service
from hrformer.serve.options import ServeOptions
from hrformer.serve.server import load_service
from small_service import NANO, PICTURES, nano_service

ASTRONAUT = (PICTURES / "astronaut.jpg").read_bytes()
CAT = (PICTURES / "cat.jpg").read_bytes()


def post(client: TestClient, model: str, *pictures: bytes, accept: str = "*/*", **fields: Any) -> Any:
    files = [("image", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]
    return client.post(f"/v1/models/{model}:predict", files=files, data=fields, headers={"Accept": accept})


def as_json(client: TestClient, model: str, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    return client.post(f"/v1/models/{model}:predict", content=content, headers=headers)


def direct(name: str, data: bytes, **options: Any) -> Any:
    return load(NANO[name], "cpu", fast=True)(data, **options)


def near(found: Any, expected: Any) -> bool:
    """Equal beyond the rounding of a sum in another batch."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(near, found, expected))
    return found == (pytest.approx(expected, abs=2e-3) if isinstance(expected, float) else expected)


def png(width: int, height: int) -> bytes:
    return bytes(cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes())


@pytest.mark.parametrize(
    ("name", "sent", "options"),
    [
        ("cifar10", {}, {}),
        ("cifar10", {"top_k": "2", "flip": "true"}, {"top_k": 2, "flip": True}),
        ("camvid", {"short_side": "96", "scales": "[1, 0.75]"}, {"short_side": 96, "scales": (1.0, 0.75)}),
        ("lspet", {}, {"detector": "picture"}),
        ("lspet", {"flip": "no", "boxes": "[[50, 40, 200, 300], [0, 0, 90, 90.5]]"},
         {"flip": False, "boxes": [[50, 40, 200, 300], [0, 0, 90, 90.5]]}),
        ("lspet", {"boxes": "[[9, 9, 50, 60]]", "box_scores": "[0.5]"},
         {"boxes": [[9, 9, 50, 60]], "box_scores": [0.5]}),
        ("lspet", {"boxes": "[]"}, {"boxes": []}),
        ("lspet", {"detector": "picture"}, {"detector": "picture"}),
    ],
)  # fmt: skip
def test_answers_are_the_predictors(client: TestClient, name: str, sent: Any, options: Any) -> None:
    response = post(client, name, ASTRONAUT, **sent)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == name
    expected = direct(name, ASTRONAUT, **options).to_dict() | {"file_name": "0.jpg"}
    assert near(response.json()["results"], [json.loads(json.dumps(expected))])


def test_json_and_form_give_the_same(client: TestClient) -> None:
    body = {"image": base64.b64encode(ASTRONAUT).decode(), "boxes": [[50, 40, 200, 300]], "flip": False}
    found = as_json(client, "lspet", body)
    assert found.status_code == 200, found.text
    form = post(client, "lspet", ASTRONAUT, boxes="[[50, 40, 200, 300]]", flip="false").json()
    form["results"][0]["file_name"] = None
    assert near(found.json(), form)


def test_a_mask_comes_as_run_lengths_and_as_png(client: TestClient) -> None:
    expected = direct("camvid", CAT).mask
    found = post(client, "camvid", CAT, mask="true").json()["results"][0]
    runs = found["mask"]
    mask = np.repeat(runs["class_ids"], runs["lengths"]).reshape(found["height"], found["width"])
    assert np.mean(mask != expected) < 1e-4
    assert all(a != b for a, b in zip(runs["class_ids"], runs["class_ids"][1:], strict=False))
    response = post(client, "camvid", CAT, accept="image/png", picture="mask")
    assert response.headers["content-type"] == "image/png"
    assert np.mean(np.asarray(Image.open(io.BytesIO(response.content))) != expected) < 1e-4


@pytest.mark.parametrize("name", ["cifar10", "lspet", "camvid"])
def test_a_png_is_the_drawn_picture(client: TestClient, name: str) -> None:
    response = post(client, name, ASTRONAUT, accept="image/png, application/json;q=0.5")
    options = {"detector": "picture"} if name == "lspet" else {}
    drawn = np.asarray(Image.open(io.BytesIO(response.content)))
    expected = direct(name, ASTRONAUT, **options).draw()
    assert drawn.shape == expected.shape
    assert np.mean(np.abs(drawn.astype(int) - expected) > 8) < 1e-3


def test_several_pictures_and_one_that_fails_alone(client: TestClient) -> None:
    """Also one cut short, whose header is right."""
    response = post(client, "cifar10", CAT, b"no picture", ASTRONAUT[:9000])
    assert response.status_code == 200
    results = response.json()["results"]
    assert near(results[0], json.loads(json.dumps(direct("cifar10", CAT).to_dict())) | {"file_name": "0.jpg"})
    assert [row["error"]["status"] for row in results[1:]] == [422, 422]
    assert [row["file_name"] for row in results[1:]] == ["1.jpg", "2.jpg"]
    assert "not a picture" in results[1]["error"]["detail"]


def test_boxes_of_several_pictures(client: TestClient) -> None:
    boxes = [[[50, 40, 200, 300]], None]
    found = post(client, "lspet", ASTRONAUT, CAT, boxes=json.dumps(boxes)).json()["results"]
    assert near(found[0]["people"], direct("lspet", ASTRONAUT, boxes=boxes[0]).to_dict()["people"])
    assert near(found[1]["people"], direct("lspet", CAT, detector="picture").to_dict()["people"])


def inflating(side: int, size: int) -> bytes:
    """A PNG of few pixels whose data go on after them for so many bytes."""
    whole = png(side, side)
    data = zlib.compress(bytes(size))
    start, end = whole.index(b"IDAT") - 4, whole.index(b"IEND") - 4
    chunk = b"IDAT" + data
    return whole[:start] + struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[end:]


BOMB = png(1100, 1000)
"""More pixels than the limit of these tests; a few kilobytes."""


@pytest.mark.parametrize(
    ("model", "pictures", "fields", "status", "words"),
    [
        ("cifar", [CAT], {}, 404, "no model is called 'cifar' here; there are: cifar10, lspet, camvid"),
        ("cifar10", [], {"flip": "true"}, 422, "1 to 3 pictures, got 0"),
        ("cifar10", [CAT] * 4, {}, 422, "more than 3 pictures"),
        ("cifar10", [CAT], {"flp": "true"}, 422, "unknown field 'flp'; known: image, flip, top_k"),
        ("cifar10", [CAT], {"flip": "perhaps"}, 422, "field 'flip'"),
        ("cifar10", [CAT], {"top_k": "0"}, 422, "top_k must be at least 1, got 0"),
        ("cifar10", [CAT], {"batch_size": "4"}, 422, "unknown field 'batch_size'"),
        ("cifar10", [CAT], {"url": "http://example.org/a.jpg"}, 422, "unknown field 'url'"),
        ("cifar10", [CAT], {"image": "/etc/passwd"}, 422, "'image' must be a file"),
        ("cifar10", [b"no picture"], {}, 422, "not a picture that can be read here"),
        ("cifar10", [b""], {}, 422, "not a picture that can be read here"),
        ("cifar10", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"], {}, 422, "not a picture"),
        ("cifar10", [ASTRONAUT[:9000]], {}, 422, "truncated"),
        ("cifar10", [inflating(10, 3_000_000)], {}, 422, "far more data than a picture of its size"),
        ("cifar10", [CAT[:-2] + b"\xff\xda\x00\x02" * 300 + CAT[-2:]], {}, 422, "far more data"),
        ("cifar10", [BOMB], {}, 413, "1100 x 1000 pixels, at most 1000000"),
        ("cifar10", [bytes(2**20)], {}, 413, "more than 1 MiB"),
        ("camvid", [CAT], {"short_side": "5000"}, 422, "at most 1000000 are taken"),
        ("camvid", [CAT], {"scales": "[9, 9]"}, 422, "at most 1000000 are taken"),
        ("camvid", [CAT], {"scales": "[1e-9]"}, 422, ""),
        ("camvid", [CAT], {"scales": json.dumps([0.1] * 17)}, 422, "a list of more than 16 entries"),
        ("camvid", [CAT], {"scales": "[1e300]"}, 422, "at most 1000000 are taken"),
        ("camvid", [CAT], {"scales": json.dumps([1] * 150_000)}, 422, "more than 100000 values"),
        ("camvid", [CAT], {"scales": "[1"}, 422, "field 'scales' is not JSON"),
        ("camvid", [CAT], {"short_side": "0"}, 422, "short_side must be None or at least 1"),
        ("lspet", [CAT], {"boxes": "[[0, 0, 5]]"}, 422, "field 'boxes'"),
        ("lspet", [CAT], {"boxes": "here"}, 422, "field 'boxes'"),
        ("lspet", [CAT], {"boxes": "[[0, 0, 5, 0]]"}, 422, "width and height above 0"),
        ("lspet", [CAT], {"boxes": "[[10, 10, 1e-12, 1e-12]]"}, 422, "width and height above 0"),
        ("lspet", [CAT], {"boxes": "[[1e300, 0, 5, 5]]"}, 422, "a box must be"),
        ("lspet", [CAT], {"boxes": "[[NaN, 0, 5, 5]]"}, 422, "field 'boxes'"),
        ("lspet", [CAT], {"boxes": json.dumps([[0, 0, 5, 5]] * 6)}, 422, "a list of more than 5 entries"),
        ("lspet", [CAT, CAT], {"boxes": "[[0, 0, 5, 5]]"}, 422, "one list for each of the 2 pictures, got 1"),
        ("lspet", [CAT], {"boxes": "[[0, 0, 5, 5]]", "box_scores": "[1, 1]"}, 422, "as many box_scores"),
        ("lspet", [CAT], {"box_scores": "[1]"}, 422, "box_scores need boxes"),
        ("lspet", [CAT], {"boxes": "[[0, 0, 5, 5]]", "detector": "picture"}, 422, "not both"),
        ("lspet", [CAT], {"nms": "maybe"}, 422, "field 'nms'"),
        ("lspet", [CAT], {"detector": "http://example.org"}, 422, "field 'detector'"),
    ],
)
def test_what_is_refused(
    client: TestClient, model: str, pictures: list[bytes], fields: Any, status: int, words: str
) -> None:
    if pictures:
        response = post(client, model, *pictures, **fields)
    else:
        response = client.post(f"/v1/models/{model}:predict", files={"flip": (None, "true")})
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert words in detail
    assert "\n" not in detail
    assert post(client, "cifar10", CAT).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"[]", 422, "field 'body'"),
        ({}, 422, "field 'image'"),
        ({"image": "?"}, 422, "image 0 is not base64"),
        ({"image": ["", "file:///etc/passwd"]}, 422, "image 1 is not base64"),
        ({"image": "", "top_k": 1.5}, 422, "field 'top_k'"),
        ({"image": "", "top_k": 10**30}, 422, ""),
        ({"image": 5}, 422, "field 'image'"),
        ({"image": ["", "", "", ""]}, 422, "a list of more than 3 entries"),
        (b'{"image": "", "top_k": [' + b"[]," * 99_000 + b"1]}", 422, "field 'top_k'"),
        (b'{"image": "", "top_k": [' + b"[]," * 150_000 + b"1]}", 422, "the body holds more than 100000 values"),
    ],
)
def test_json_that_is_refused(client: TestClient, body: Any, status: int, words: str) -> None:
    response = as_json(client, "cifar10", body)
    assert response.status_code == status, response.text
    assert words in response.json()["detail"]


def test_other_kinds_of_requests(client: TestClient) -> None:
    path = "/v1/models/cifar10:predict"
    assert client.post(path, content=b"x", headers={"Content-Type": "image/jpeg"}).status_code == 415
    assert client.post(path, content=b"x").status_code == 415
    assert client.post(path, files={"image": CAT}, headers={"Accept": "text/html"}).status_code == 406
    assert client.post(f"{path}?flip=true", files={"image": CAT}).status_code == 422
    assert client.get(path).status_code == 405
    assert client.get("/v1/model").status_code == 404
    broken = client.post(path, content=b"--x\r\n", headers={"Content-Type": "multipart/form-data; boundary=y"})
    assert broken.status_code in (400, 422)
    assert post(client, "cifar10", CAT, CAT, accept="image/png").status_code == 422


def test_models_are_described(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    models = {model["name"]: model for model in found["models"]}
    assert list(models) == ["cifar10", "lspet", "camvid"]
    assert [row["label"] for row in models["cifar10"]["classes"]][3] == "cat"
    assert models["cifar10"]["options"] == {"flip": False, "top_k": 5}
    assert models["cifar10"]["precision"] == "fp32"
    assert models["camvid"]["classes"][0]["color"] == list(load(NANO["camvid"], "cpu").info.palette[0])
    joints = models["lspet"]["keypoints"]
    assert "right_ankle" in joints["names"]
    assert all("left" in joints["names"][i] for i in joints["left"])
    assert models["lspet"]["detector"] == "picture"
    assert found["limits"]["network_pixels"] == 1_000_000
    assert found["limits"]["pictures"] == 3


def test_page_documentation_and_health(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert client.get("/page/style.css").headers["content-type"].startswith("text/css")
    assert client.head("/").status_code == client.head("/readyz").status_code == 200
    for name in ("a" * 300 + ".js", "..%2fapp.py", "__init__.py", "nothing.js", "%2e%2e/app.py"):
        assert client.get(f"/page/{name}").status_code == 404
    docs = client.get("/docs").text
    assert "https://" not in docs
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/models/lspet:predict" in paths
    schema = paths["/v1/models/lspet:predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["properties"]["flip"]["default"] is True


def test_forms_of_the_documentation_page_are_taken(client: TestClient) -> None:
    """It sends every field that has a default."""
    for name in ("cifar10", "lspet", "camvid"):
        operation = client.get("/openapi.json").json()["paths"][f"/v1/models/{name}:predict"]["post"]
        properties = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        fields = {key: str(row["default"]) for key, row in properties.items() if key != "image"}
        response = post(client, name, CAT, **fields)
        assert response.status_code == 200, response.text
        plain = post(client, name, CAT).json()
        assert near(response.json(), plain)


def test_pictures_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """More pixels and people in a request than are held at a time."""
    service = nano_service("lspet", pixels=451 * 300)
    model = service.models["lspet"]
    model._pixels.most = 451 * 300 + 1
    model._people_places.most = 3
    with TestClient(service.guard) as client:
        boxes = json.dumps([[[0, 0, 90, 90]] * 2] * 5)
        found = post(client, "lspet", *[CAT] * 5, boxes=boxes)
        assert found.status_code == 200, found.text
        assert [len(row["people"]) for row in found.json()["results"]] == [2] * 5
    assert model._pixels.used == model._people_places.used == 0
    service.batcher.close()


def test_metrics_count(client: TestClient) -> None:
    def count(line: str) -> float:
        rows = client.get("/metrics").text.splitlines()
        return sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(line))

    before = count('hrformer_pictures_total{model="cifar10"}')
    bad = count('hrformer_requests_total{model="cifar10",status="422"}')
    post(client, "cifar10", CAT, ASTRONAUT)
    post(client, "cifar10", b"")
    assert count('hrformer_pictures_total{model="cifar10"}') == before + 2
    assert count('hrformer_requests_total{model="cifar10",status="422"}') == bad + 1
    assert count('hrformer_batch_size_count{model="cifar10"}') >= 1
    assert count("hrformer_waiting") == 0


def test_a_token_is_wanted() -> None:
    service = nano_service("cifar10", token="secret")
    with TestClient(service.guard) as client:
        assert client.get("/").status_code == 200
        assert client.get("/healthz").status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            response = client.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        assert "the token is wrong" in client.get("/v1/models", headers={"Authorization": "Bearer x"}).json()["detail"]
        assert client.get("/openapi.json").json()["components"]["securitySchemes"]
        right = {"Authorization": "bearer secret"}
        assert 'status="401"} 5.0' in client.get("/metrics", headers=right).text
        assert client.get("/v1/models", headers=right).status_code == 200
        body = {"image": ("a.jpg", CAT)}
        assert client.post("/v1/models/cifar10:predict", files=body, headers=right).status_code == 200
        assert client.post("/v1/models/cifar10:predict", files=body).status_code == 401
    service.batcher.close()


class Held:
    """A network that answers only when it may."""

    def __init__(self, service: Service, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.entered = threading.Event(), threading.Event()
        predictor: Any = service.models[name].predictor
        plain = predictor.run

        def run(pixels: Any, options: Any) -> Any:
            self.entered.set()
            assert self.free.wait(20)
            return plain(pixels, options)

        monkeypatch.setattr(predictor, "run", run)


def in_background(count: int, work: Callable[[], Any]) -> tuple[list[Any], list[threading.Thread]]:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return found, threads


def test_a_full_queue_a_deadline_and_shutting_down(monkeypatch: pytest.MonkeyPatch) -> None:
    service = nano_service("cifar10", queue=2, deadline=1.0)
    held = Held(service, "cifar10", monkeypatch)
    with TestClient(service.guard) as client:
        late, threads = in_background(2, lambda: post(client, "cifar10", CAT))
        assert held.entered.wait(10)
        while service.models["cifar10"].places.used < 2:
            time.sleep(0.01)
        full = post(client, "cifar10", CAT)
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join(20)
        assert [response.status_code for response in late] == [504, 504]
        assert "1 seconds" in late[0].json()["detail"]
        held.free.set()
        assert post(client, "cifar10", CAT).status_code == 200
        assert service.models["cifar10"].places.used == 0
        service.guard.stopping = True
        stopping = post(client, "cifar10", CAT)
        assert stopping.status_code == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
    service.batcher.close()


def test_a_runtime_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    service = nano_service("cifar10")
    predictor: Any = service.models["cifar10"].predictor

    def broken(*_: Any) -> Any:
        raise RuntimeError("device lost")

    monkeypatch.setattr(predictor, "run", broken)
    with TestClient(service.guard) as client:
        assert client.get("/readyz").status_code == 200
        assert post(client, "cifar10", CAT).status_code == 503
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "device lost" in ready.json()["status"]
        assert post(client, "cifar10", CAT).status_code == 503


def test_weights_that_answer_nan_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ClassificationHead.forward
    monkeypatch.setattr(ClassificationHead, "forward", lambda self, *maps: plain(self, *maps) * torch.nan)
    with pytest.raises(ValueError, match="cifar10 answers a grey picture with NaN"):
        load_service([f"cifar10={NANO['cifar10']}"], ServeOptions(), device="cpu", fast=False)
