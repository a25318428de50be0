"""Pictures that fail among others that do not."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from hrformer.data.images import LoadedImage, load_image
from hrformer.predict.classify import ClassificationPredictor
from hrformer.predict.outcomes import Outcome, predict_each
from hrformer.predict.predictors import load
from training import WEIGHTS


@pytest.fixture(scope="module")
def predictor() -> ClassificationPredictor:
    found = load(WEIGHTS / "hrformer_nano_cifar10.safetensors", "cpu")
    assert isinstance(found, ClassificationPredictor)
    return found


@pytest.fixture
def files(data_dir: Path, tmp_path: Path) -> list[str]:
    """Seven pictures, of which the second and the last cannot be read."""
    found = [str(path) for path in sorted((data_dir / "cifar10" / "val").rglob("*.jpg"))[::100][:5]]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(found[0]).read_bytes()[:200])
    return [found[0], str(broken), *found[1:], str(tmp_path / "absent.jpg")]


def outcomes(predictor: ClassificationPredictor, files: list[str]) -> dict[str, Outcome]:
    told: list[Outcome] = []
    predict_each(predictor, [(name, partial(load_image, name)) for name in files], {"batch_size": 3}, told.append)
    assert sorted(one.name for one in told) == sorted(files)
    return {one.name: one for one in told}


def test_unreadable_pictures_cost_no_other_its_result(predictor: ClassificationPredictor, files: list[str]) -> None:
    found = outcomes(predictor, files)
    wrong = {name for name, one in found.items() if one.result is None}
    assert wrong == {files[1], files[-1]}
    assert all(found[name].unreadable and found[name].error for name in wrong)
    assert found[files[-1]].error == "no such file"
    readable = [name for name in files if name not in wrong]
    for name, expected in zip(readable, predictor(readable, batch_size=3), strict=True):
        assert found[name].result.class_ids == expected.class_ids


def test_a_picture_that_the_network_fails_on_is_found_out(
    predictor: ClassificationPredictor, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    prepare = predictor.prepare

    def failing(image: LoadedImage, options):
        calls[str(image.path)] += 1
        if image.path == files[3]:
            raise RuntimeError("out of memory")
        return prepare(image, options)

    monkeypatch.setattr(predictor, "prepare", failing)
    found = outcomes(predictor, files)
    assert (found[files[3]].error, found[files[3]].unreadable) == ("out of memory", False)
    assert sum(one.result is not None for one in found.values()) == 4
    assert max(calls.values()) == 2


def test_an_error_of_the_machine_ends_it(
    predictor: ClassificationPredictor, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object):
        raise OSError("disk full")

    monkeypatch.setattr(predictor, "finish", failing)
    with pytest.raises(OSError, match="disk full"):
        outcomes(predictor, files)
