"""Model cards and readable headers: what a page on the Hugging Face Hub says about a set of weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrformer.checkpoints.registry import WeightEntry
from hrformer.checkpoints.weight_files import header_of
from hrformer.models.model import ModelInfo

PIPELINES = {
    "classification": "image-classification",
    "pose": "keypoint-detection",
    "segmentation": "image-segmentation",
    None: "image-feature-extraction",
}
"""Task -> what the Hub calls it."""

# Beginning of the terms, in small letters without hyphens -> the Hub's licence name. The longer ones come first.
_LICENCES = {
    "apache 2.0": "apache-2.0",
    "apache license 2.0": "apache-2.0",
    "mit": "mit",
    "bsd 3 clause": "bsd-3-clause",
    "cc0": "cc0-1.0",
    "cc by nc sa 4.0": "cc-by-nc-sa-4.0",
    "cc by nc 4.0": "cc-by-nc-4.0",
    "cc by sa 4.0": "cc-by-sa-4.0",
    "cc by 4.0": "cc-by-4.0",
}
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)??---[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"([A-Za-z_][\w-]*):(?:[ \t]+(.*))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What is known about a set of weights; empty texts where it is not."""

    info: ModelInfo
    data: str = ""  # trained on
    licence: str = ""  # terms
    score: str = ""  # result with its protocol
    source: str = ""  # where the weights come from

    @classmethod
    def of(cls, info: ModelInfo, metadata: Mapping[str, str], published: WeightEntry | None = None) -> CardFacts:
        """From the header of a file and, where that is silent, from the registry's entry of it."""
        known = {"data": info.dataset, "source": info.source}
        known |= {name: metadata.get(name, "") for name in ("licence", "score")}
        if published is not None and published.origin != "bundled":  # whose entry was read from the header
            known |= {"data": published.dataset, "source": published.source}
            known |= {"licence": published.licence, "score": published.score}
        return cls(info=info, **known)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the classes or joints in the order of the network's outputs; empty where unknown."""
        return self.info.skeleton.keypoints if self.info.skeleton is not None else self.info.class_names


def licence_name(terms: str) -> str:
    """The Hub's name for a licence that the terms begin with, such as "cc-by-nc-4.0"; empty if none is known."""
    words = terms.lower().replace("-", " ").strip()
    return next((name for start, name in _LICENCES.items() if re.match(rf"{re.escape(start)}\b", words)), "")


def config_text(facts: CardFacts) -> str:
    """``config.json``: the header of the weights as readable JSON. The weights do not need it."""
    header = header_of(facts.info, facts.info.options)
    content: dict[str, Any] = {
        "library_name": "hrformer",
        "model": facts.info.name,
        "task": facts.info.task,
        "num_outputs": facts.info.num_classes,
        "outputs": list(facts.outputs),
        "options": json.loads(header["options"]),
        "info": json.loads(header["info"]),
    }
    content |= {name: value for name in ("licence", "score") if (value := getattr(facts, name))}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def loading_line(repository: str, task: str | None) -> str:
    """How to use a repository: Python for a predictor, an option of a training for a bare backbone."""
    if task is None:
        return f"hrformer train RECIPE --model.init hf://{repository}"
    return f'hrformer.load("hf://{repository}")'


def write_card(facts: CardFacts, repository: str, card: str | None = None) -> str:
    """A card with the Hub's front matter: the given one, whose own fields stay, or one written from the facts."""
    own = (card if card is not None else _written(facts, repository)).replace("\r\n", "\n").removeprefix("\ufeff")
    found = _FRONT_MATTER.match(own)
    lines = [_as_yaml(line) for line in (found[1] or "").splitlines()] if found else []
    fields = {name[1] for line in lines if (name := _FIELD.fullmatch(line))}
    front = [line for name, line in _front_matter(facts) if name not in fields]
    body = own[found.end() :] if found else own
    return "\n".join(["---", *front, *lines, "---", "", body.lstrip("\n")])


def _front_matter(facts: CardFacts) -> list[tuple[str, str]]:
    """Names of fields, each with its lines."""
    info = facts.info
    tags = list(dict.fromkeys(filter(None, ("hrformer", info.name, info.task, "pytorch"))))
    fields = [
        ("library_name", "library_name: hrformer"),
        ("pipeline_tag", f"pipeline_tag: {PIPELINES[info.task]}"),
        ("tags", "\n".join(["tags:", *(f"- {json.dumps(tag)}" for tag in tags)])),
    ]
    licence = licence_name(facts.licence)
    return [*fields, ("license", f"license: {licence}")] if licence else fields


def _as_yaml(line: str) -> str:
    """A line of a front matter that people wrote as ``name: text``, quoted where YAML would read the text otherwise."""
    found = _FIELD.fullmatch(line)
    if found is None or not found[2] or found[2][0] in "\"'[{|>&*!" or not re.search(r": | #|:$", found[2]):
        return line
    return f"{found[1]}: {json.dumps(found[2].strip(), ensure_ascii=False)}"


def _written(facts: CardFacts, repository: str) -> str:
    """A short card that says what the header does, and no more."""
    info = facts.info
    (height, width), kind = info.input_spec.size, "joints" if info.task == "pose" else "classes"
    title = repository.split("/")[1]
    rows = {
        "Model": f"`{info.name}`",
        "Task": info.task or "none: a bare backbone",
        "Input": f"{height} x {width} pixels (height x width), {info.input_spec.channel_order}",
        kind.capitalize(): f"{info.num_classes}: {', '.join(facts.outputs)}" if facts.outputs else info.num_classes,
        "Trained on": facts.data,
        "Score": facts.score,
        "Terms": facts.licence,
        "Source": facts.source,
    }
    lines = [f"- {name}: {value}" for name, value in rows.items() if value]
    language = "sh" if info.task is None else "python"
    code = loading_line(repository, info.task)
    if info.task is not None:
        code = f'import hrformer\n\nresult = {code}("picture.jpg")'
    return "\n".join([f"# {title}", "", *lines, "", f"```{language}", code, "```", ""])
