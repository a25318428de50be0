"""Learning from a teacher: what it is asked, what is kept, and what the run makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hrformer.checkpoints.checkpoint import load_model, save_checkpoint
from hrformer.data.transforms.settings import ClassificationAugment
from hrformer.losses import distillation_loss
from hrformer.train.config import ClassificationRun, Distillation, check
from hrformer.train.loop import train
from hrformer.train.tasks import task_for
from hrformer.train.teacher import ANSWERS
from hrformer.zoo import create_model

PLAIN = ClassificationAugment(size=(32, 32), mixup=0, cutmix=0, erasing=0, auto_augment="")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A classifier of three classes that was never trained, at another input size and with other pixel statistics."""
    torch.manual_seed(3)
    model = create_model("hrformer_nano", "classification", num_classes=3, head_planes=8, head_width=32)
    spec = replace(model.info.input_spec, size=(48, 48), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_ratio=1.0)
    model.info = replace(model.info, input_spec=spec)
    return save_checkpoint(model.eval(), tmp_path / "teacher.safetensors")


def run_with(run: ClassificationRun, teacher: Path, whole: bool, **distill: object) -> ClassificationRun:
    return replace(run, augment=PLAIN, distill=Distillation(teacher=str(teacher), whole=whole, **distill))


def test_loss_is_that_of_the_papers() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(
        4 * (p * (p / q).log()).sum(1).mean().item()
    )
    hard = distillation_loss(student, teacher, 2.0, hard=True)
    assert hard.item() == pytest.approx(F.cross_entropy(student, teacher.argmax(1)).item())
    assert distillation_loss(student, student.detach()).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"both be \(B, C\)"):
        distillation_loss(student, teacher[:, :4])


@pytest.mark.parametrize("whole", [True, False])
def test_the_teacher_sees_what_it_would_in_a_test(
    classification_run: ClassificationRun, teacher: Path, tmp_path: Path, whole: bool
) -> None:
    task = task_for(run_with(classification_run, teacher, whole))
    task.meet_teacher(tmp_path / "run", torch.device("cpu"), 0)
    own, spec = load_model(teacher)[0], create_model("hrformer_nano", "classification", num_classes=3).info.input_spec
    task.config = replace(task.config, augment=replace(PLAIN, flip=0))
    pixels = torch.from_numpy(task.train_set.pixels(4)).permute(2, 0, 1)[None]
    batch = {"image": pixels, "label": torch.tensor([task.train_set.label(4)]), "index": torch.tensor([4])}
    asked = task.prepare(dict(batch), spec)["teacher"]
    x = F.interpolate(pixels.float() / 255, (48, 48), mode="bicubic" if whole else "bilinear") * 2 - 1
    with torch.inference_mode():
        expected = own(x)
    # The loader resizes bytes, and rounds.
    torch.testing.assert_close(asked, expected, atol=0.05 * float(expected.std()), rtol=0)
    assert not asked.requires_grad


def test_a_run_learns_from_both_and_goes_on_with_the_same_answers(
    classification_run: ClassificationRun, teacher: Path, tmp_path: Path
) -> None:
    config = run_with(classification_run, teacher, True, weight=0.25)
    out = tmp_path / "run"
    train(config, out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "distillation" in row]
    assert len(losses) == 6
    for row in losses:
        assert row["loss"] == pytest.approx(0.75 * row["labels"] + 0.25 * row["distillation"], rel=1e-4)
    kept = load_file(out / ANSWERS)["logits"]
    assert kept.shape == (30, 3)
    # What is kept is used again, not asked for again.
    (out / ANSWERS).touch()
    before = (out / ANSWERS).stat().st_mtime_ns
    task = task_for(config)
    task.meet_teacher(out, torch.device("cpu"), 0)
    assert (out / ANSWERS).stat().st_mtime_ns == before
    torch.testing.assert_close(task.teacher.answers, kept, rtol=0, atol=0)


def test_a_teacher_that_does_not_fit(classification_run: ClassificationRun, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"distill\.whole: the teacher sees no mixed pictures"):
        check(replace(run_with(classification_run, teacher, True), augment=replace(PLAIN, mixup=0.8)))
    check(replace(run_with(classification_run, teacher, False), augment=replace(PLAIN, mixup=0.8)))
    other = create_model("hrformer_nano", "classification", num_classes=4, head_planes=8, head_width=32)
    file = save_checkpoint(other.eval(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"distill.teacher .*other.safetensors: the model has 4 classes"):
        task_for(run_with(classification_run, file, True)).meet_teacher(tmp_path, torch.device("cpu"), 0)
    pose = create_model("hrformer_nano", "pose", num_keypoints=3)
    file = save_checkpoint(pose.eval(), tmp_path / "pose.safetensors")
    with pytest.raises(ValueError, match=r"distill\.teacher must be a classifier"):
        task_for(run_with(classification_run, file, True)).meet_teacher(tmp_path, torch.device("cpu"), 0)
    with pytest.raises(FileNotFoundError, match="no weight file"):
        task_for(run_with(classification_run, tmp_path / "none.pt", True)).meet_teacher(
            tmp_path, torch.device("cpu"), 0
        )
