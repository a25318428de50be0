"""Models pushed to a stand-in for the Hugging Face Hub and loaded back; every refusal is one clear line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml

import hrformer
from hrformer.__main__ import main
from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.checkpoints.download import DownloadError, resolve_weights
from hrformer.checkpoints.hub import HubFile
from hrformer.checkpoints.registry import bundled_folder, find_weights
from hrformer.train.config import ModelConfig
from hrformer.train.start_weights import find_start
from hrformer.zoo import create_model
from hub_server import READER, WRITER, HubServer, Repository
from weight_server import allow_local_network, closed_port, point_hub_to

POSE = "hrformer_tiny_people17"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub; the token of "me" is set."""
    allow_local_network(monkeypatch)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_login"))
    server = HubServer()
    point_hub_to(server.url, tmp_path / "hub", monkeypatch)
    yield server
    server.close()


@pytest.fixture(scope="module")
def weights() -> bytes:
    return (bundled_folder() / f"{POSE}.safetensors").read_bytes()


def front_matter(card: bytes) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return content


@pytest.mark.parametrize("name", [POSE, "hrformer_tiny_petspeople", "hrformer_tiny_things"])
def test_bundled_model_there_and_back(hub: HubServer, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", name, "me/first", "--message", "A model"]) == 0
    assert capsys.readouterr().out == f'pushed to {hub.url}/me/first\nhrformer.load("hf://me/first")\n'
    repository = hub.repositories["me/first"]
    assert (repository.messages, repository.private) == (["A model"], False)
    (files,) = repository.commits.values()
    assert set(files) == {"model.safetensors", "README.md", "config.json"}

    card, config = files["README.md"], json.loads(files["config.json"])
    fields, model = front_matter(card), hrformer.load(name, "cpu").model
    pipelines = {"pose": "keypoint-detection", "segmentation": "image-segmentation"}
    assert fields["pipeline_tag"] == pipelines.get(str(model.task), "image-classification")
    assert (fields["library_name"], fields["name"]) == ("hrformer", name)
    assert "license" not in fields  # research terms of many sources: no licence with a name
    assert set(fields["tags"]) >= {"hrformer", "hrformer_tiny", model.task}
    own = (bundled_folder() / f"{name}.md").read_text(encoding="utf-8")
    assert card.decode().endswith(own.split("---\n")[2])
    assert (config["model"], config["task"], config["num_outputs"]) == (
        "hrformer_tiny",
        model.task,
        len(config["outputs"]),
    )
    assert config["info"]["input_spec"] == model.info.input_spec.to_dict()

    again = hrformer.load("hf://me/first", "cpu").model
    assert again.info == model.info
    for (key, value), (other, its) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert key == other
        assert value.equal(its)


def test_file_of_another_layout_is_converted_and_gets_a_card(hub: HubServer, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = create_model("hrformer_nano", "pose", num_keypoints=14)
    save_checkpoint(model, tmp_path / "own.safetensors")
    assert main(["convert", str(tmp_path / "own.safetensors"), str(tmp_path / "p.pth"), "--to", "mmpose"]) == 0
    assert main(["push", str(tmp_path / "p.pth"), "me/converted"]) == 0
    ((_, files),) = hub.repositories["me/converted"].commits.items()
    card = files["README.md"].decode()
    assert 'hrformer.load("hf://me/converted")("picture.jpg")' in card
    assert "- Joints: 14" in card
    assert "license" not in front_matter(files["README.md"])
    assert "- Terms" not in card
    back, report = load_model(resolve_weights("hf://me/converted")[0])
    assert report.format == "hrformer"
    for value, its in zip(model.state_dict().values(), back.state_dict().values(), strict=True):
        assert value.equal(its)


def test_run_folder_card_and_private(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["push", str(tmp_path), "me/run"]) == 2
    assert "holds no best.safetensors" in capsys.readouterr().err
    model = create_model("hrformer_nano", "classification", num_classes=2)
    save_checkpoint(model, run / "best.safetensors", metadata={"score": "top-1 12 % on val", "licence": "MIT"})
    assert main(["push", str(run), "me/run", "--private"]) == 0
    assert hub.repositories["me/run"].private
    ((_, files),) = hub.repositories["me/run"].commits.items()
    assert front_matter(files["README.md"])["license"] == "mit"
    assert "- Score: top-1 12 % on val" in files["README.md"].decode()

    card = tmp_path / "card.md"
    card.write_text("---\nlicense: bsd-3-clause\nlanguage:\n- en\n---\n# Mine\n", encoding="utf-8")
    assert main(["push", str(run), "me/run", "--card", str(card)]) == 0
    newest = hub.repositories["me/run"].at("main")
    assert newest is not None
    fields = front_matter(newest[1]["README.md"])
    assert (fields["license"], fields["language"], fields["library_name"]) == ("bsd-3-clause", ["en"], "hrformer")
    assert newest[1]["README.md"].endswith(b"---\n\n# Mine\n")
    assert hrformer.load("hf://me/run", "cpu").task == "classification"


def test_predict_takes_a_reference(hub: HubServer, weights: bytes, tmp_path: Path, noise: np.ndarray) -> None:
    hub.add("you/net", {"model.safetensors": weights})
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    out = tmp_path / "out"
    line = ["predict", "pose", str(tmp_path / "a.png"), "--detector", "picture", "--out", str(out), "--weights"]
    assert main([*line, "hf://you/net"]) == 0
    assert len(json.loads((out / "predictions.json").read_text())) == 1
    assert main([*line, "hf://you/nit"]) == 2


def test_bare_backbone_is_a_start_for_training(hub: HubServer, tmp_path: Path, capsys) -> None:
    file = save_checkpoint(create_model("hrformer_nano"), tmp_path / "bare.safetensors")
    assert main(["push", str(file), "me/bare"]) == 0
    assert "hrformer train RECIPE --model.init hf://me/bare" in capsys.readouterr().out
    start = find_start(ModelConfig(name="", init="hf://me/bare"), "pose", gpu=False)
    assert start.model.name == "hrformer_nano"


@pytest.mark.parametrize(
    ("weights", "repository", "token", "words"),
    [
        (POSE, "me/x", None, "there is no token for the Hub; set HF_TOKEN or run `hf auth login`"),
        (POSE, "me/x", READER, "cannot push to me/x: your token may not write there; .*"),
        (POSE, "you/x", WRITER, "cannot push to you/x: your token may not write there; .*"),
        (POSE, "me/x", "hf_wrong", "cannot push to me/x: the token is not accepted; .*"),
        (POSE, "model", WRITER, "expected OWNER/REPO, such as me/my-model, got 'model'"),
        (POSE, "me/a/b", WRITER, "no repository can be called 'me/a/b': .*"),
        (POSE, "me/-a", WRITER, "no repository can be called 'me/-a': .*"),
        ("hrformer_nano_lspe", "me/x", WRITER, "no weights are called 'hrformer_nano_lspe'.*"),
        ("absent.pth", "me/x", WRITER, "no weight file absent.pth.*"),
    ],
)
def test_refused_push(
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    weights: str,
    repository: str,
    token: str | None,
    words: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", weights, repository]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.fullmatch(f"error: {words}", line), line
    assert not hub.repositories


def test_push_without_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    point_hub_to(f"http://127.0.0.1:{closed_port()}", tmp_path, monkeypatch)
    assert main(["push", POSE, "me/x"]) == 2
    assert "cannot push to me/x: no connection (" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["push", POSE, "me/x"]) == 2
    assert capsys.readouterr().err == "error: cannot push to me/x: HF_HUB_OFFLINE is set, so the network is not used.\n"


def test_public_repository_does_not_become_private_unnoticed(hub: HubServer, capsys) -> None:
    hub.repositories["me/open"] = Repository()
    assert main(["push", POSE, "me/open", "--private"]) == 2
    assert "me/open is there already and public" in capsys.readouterr().err
    assert not hub.repositories["me/open"].commits


def test_card_that_is_no_yaml_is_refused(hub: HubServer, capsys, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("---\n[a: b\n---\ntext\n", encoding="utf-8")
    assert main(["push", POSE, "me/x", "--card", str(tmp_path / "card.md")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("error: cannot push to me/x: Invalid metadata in README.md[.] - while scanning", line)


def test_revisions_files_and_newer_ones(hub: HubServer, weights: bytes, tmp_path: Path) -> None:
    first = hub.add("you/net", {"model.safetensors": weights, "more/late.safetensors": weights})
    path, entry = resolve_weights("hf://you/net")
    assert (path.read_bytes(), entry) == (weights, None)
    assert path.is_relative_to(tmp_path / "hub" / "models--you--net")
    assert resolve_weights("hf://you/net/more/late.safetensors")[0].read_bytes() == weights
    gets = sum(one.startswith("GET") for one in hub.requests)
    assert resolve_weights("hf://you/net")[0] == path
    assert sum(one.startswith("GET") for one in hub.requests) == gets, "an unchanged file is not sent again"
    other = (bundled_folder() / "hrformer_tiny_things.safetensors").read_bytes()
    hub.add("you/net", {"model.safetensors": other})
    assert resolve_weights("hf://you/net")[0].read_bytes() == other
    assert resolve_weights(f"hf://you/net@{first}/model.safetensors")[0].read_bytes() == weights
    assert hrformer.load(f"hf://you/net@{first}", "cpu").task == "pose"


def test_offline_takes_the_cache(hub: HubServer, weights: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    hub.add("you/net", {"model.safetensors": weights})
    path, _ = resolve_weights("hf://you/net")
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_weights("hf://you/net")[0] == path
    said = "HF_HUB_OFFLINE is set, so the network is not used, and the file is not in the cache"
    with pytest.raises(DownloadError, match=f"^cannot load hf://you/other: {said}[.]$"):
        resolve_weights("hf://you/other")
    assert len(hub.requests) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.close()
    assert resolve_weights("hf://you/net")[0] == path
    with pytest.raises(DownloadError, match=r"^cannot load hf://you/other: no connection \(.*not in the cache[.]$"):
        resolve_weights("hf://you/other")


@pytest.mark.parametrize(
    ("reference", "token", "words"),
    [
        ("hf://you/none", WRITER, "there is no repository you/none, or it is private and your token may not read it"),
        ("hf://you/none", None, "there is no repository you/none, or it is private and needs a token: set HF_TOKEN .*"),
        (
            "hf://me/secret",
            None,
            "there is no repository me/secret, or it is private and needs a token: set HF_TOKEN .*",
        ),
        ("hf://me/secret", READER, "there is no .*or it is private and your token may not read it"),
        ("hf://you/gated", WRITER, "you/gated is gated: ask for access on its page, then .*"),
        ("hf://you/net@v2", WRITER, "you/net has no revision 'v2'"),
        ("hf://you/net/a/b.pth", WRITER, "you/net has no file a/b.pth at revision 'main'"),
        ("hf://you/net", "hf_wrong", "the token is not accepted; set HF_TOKEN or run `hf auth login`"),
    ],
)
def test_refused_load(
    hub: HubServer, weights: bytes, monkeypatch: pytest.MonkeyPatch, reference: str, token: str | None, words: str
) -> None:
    for name in ("you/net", "you/gated", "me/secret"):
        hub.add(name, {"model.safetensors": weights})
    hub.repositories["me/secret"].private = hub.repositories["you/gated"].gated = True
    assert resolve_weights("hf://me/secret")[0].read_bytes() == weights
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", f"{huggingface_hub.constants.HF_HUB_CACHE}/empty")
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match=f"^cannot load {reference}: {words}[.]$") as caught:
        resolve_weights(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hf://a/b", ("a/b", "model.safetensors", "main")),
        ("hf://a/b/", ("a/b", "model.safetensors", "main")),
        ("hf://a/b.c@v1", ("a/b.c", "model.safetensors", "v1")),
        ("hf://a/b@x%2Fy/c/d.pth", ("a/b", "c/d.pth", "x/y")),
        ("hf://a/b@refs/pr/3/c.safetensors", ("a/b", "c.safetensors", "refs/pr/3")),
    ],
)
def test_references(reference: str, expected: tuple[str, str, str]) -> None:
    file = HubFile.parse(reference)
    assert (file.repository, file.filename, file.revision) == expected


@pytest.mark.parametrize(
    "reference",
    ["hf://", "hf://a", "hf://a/b@", "hf://a/b/../c", "hf://a b/c", "hf://a//b", "hf://a/b@..%2Fc", "hf://a/-b"],
)
def test_other_forms_are_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"expected hf://OWNER/REPO, |no repository can be called"):
        resolve_weights(reference)


def test_published_entries_are_hub_files_too() -> None:
    entry = find_weights("hrnet_w18_ms_in1k")
    file = HubFile.parse(entry.url)
    assert (file.repository, file.filename) == entry.hub_location


def test_endpoint_of_the_environment(hub: HubServer, tmp_path: Path) -> None:
    """As users set it, in a process of its own."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
    command = [sys.executable, "-m", "hrformer", "push", POSE, "me/by-hand"]
    finished = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f'pushed to {hub.url}/me/by-hand\nhrformer.load("hf://me/by-hand")\n'
    assert "me/by-hand" in hub.repositories
