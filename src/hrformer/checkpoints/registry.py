"""Published and bundled weights: where each file is, what it expects, what it scored, under which terms.

Nothing here touches the network; ``hrformer.checkpoints.download`` fetches what an entry names. Published weights stand
in ``published.toml`` beside this file; those in the package are not listed by hand: their headers are read.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from safetensors import safe_open

from hrformer.checkpoints.weight_files import FORMAT, read_header
from hrformer.geometry.heatmaps import Decoder
from hrformer.geometry.input_spec import InputSpec

Origin = Literal["mmpose", "timm", "torchvision", "bundled", "official"]
Task = Literal["classification", "pose", "segmentation", "detection"]

_AUTHORS_FILES = (
    "The HRFormer authors' own files (ImageNet, COCO pose, segmentation) are behind OneDrive links, which only a "
    "browser can follow: download one from https://github.com/HRNet/HRFormer and pass the path of the local file."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightEntry:
    """One set of weights."""

    name: str  # What users type; unique
    model: str  # Name of the architecture: ours, timm's without its tag, or torchvision's builder for detectors
    task: Task | None = None  # None for a backbone without a head. "detection" only for torchvision's person detectors
    # ``https://`` address, ``hf://owner/repository/file`` on the Hugging Face hub, or ``package://weights/file`` in the
    # installed package
    url: str
    # Leading hex digits of the file's sha256 as its publisher gives them; None: not published
    sha256_prefix: str | None = None
    num_classes: int = 0  # Classes, or keypoints for pose; 0 without a head. Detectors count the background
    input_spec: InputSpec = field(default_factory=InputSpec)  # What the network expects
    # HRFormer only: whether the relative position bias takes part. None: the question does not arise
    position_bias: bool | None = None
    decoder: Decoder = "official"  # Pose only: border rule of the published test code (see ``geometry.heatmaps``)
    dataset: str  # Training data
    licence: str  # Terms of the file, and of the data where these may limit its use
    source: str  # Paper and repository
    score: str  # Published result with its protocol
    origin: Origin  # Who serves the file, which tells its layout

    @property
    def filename(self) -> str:
        """Name of the file in the cache. Files of a hub all share one name there, so they take the entry's."""
        name = Path(urlsplit(self.url).path).name
        return self.name + Path(name).suffix if self.hub_location else name

    @property
    def hub_location(self) -> tuple[str, str] | None:
        """(repository, file) for entries on the Hugging Face hub, else None."""
        match = re.fullmatch(r"hf://([^/]+/[^/]+)/(.+)", self.url)
        return (match[1], match[2]) if match else None


@cache
def list_published() -> tuple[WeightEntry, ...]:
    """Entries of ``published.toml``, each with what its group says; the group's texts name its fields in braces."""
    content = tomllib.loads(files("hrformer").joinpath("checkpoints/published.toml").read_text(encoding="utf-8"))
    entries = []
    for group in content["group"]:
        for own in group["weights"]:
            shared = {name: value.format_map(own) if isinstance(value, str) else value for name, value in group.items()}
            spec = InputSpec.from_dict(group.get("input_spec", {}) | own.get("input_spec", {}))
            values: dict[str, Any] = shared | own | {"input_spec": spec}
            known = [field.name for field in fields(WeightEntry) if field.name in values]
            entries.append(WeightEntry(**{name: values[name] for name in known}))
    return tuple(entries)


def bundled_folder() -> Path:
    """Folder of the weights inside the installed package."""
    return Path(str(files("hrformer").joinpath("weights")))


def list_bundled(folder: Path | None = None) -> list[WeightEntry]:
    """Weights of the package, or of ``folder``, by name, as their headers say; ValueError if a file is not ours."""
    return [_bundled_entry(path) for path in sorted((folder or bundled_folder()).glob("*.safetensors"))]


def _bundled_entry(path: Path) -> WeightEntry:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} has no hrformer metadata; expected format='hrformer', got {metadata.get('format')!r}")
    info = read_header(metadata, path.name)
    return WeightEntry(
        name=path.stem,
        model=info.name,
        task=info.task,
        url=f"package://weights/{path.name}",
        num_classes=info.num_classes,
        input_spec=info.input_spec,
        position_bias=info.options.get("position_bias"),
        decoder=info.decoder,
        dataset=info.dataset or "not recorded",
        licence=metadata.get("licence") or f"see {path.stem}.md beside the file",
        source=info.source or "hrformer",
        score=metadata.get("score") or f"see {path.stem}.md beside the file",
        origin="bundled",
    )


def list_weights() -> list[WeightEntry]:
    """Every entry: the bundled ones first, then the published ones."""
    return [*list_bundled(), *list_published()]


def find_weights(name: str) -> WeightEntry:
    """Entry called ``name``; ValueError with close matches and, for files no program can download, how to use them."""
    entries = {entry.name: entry for entry in list_weights()}
    if name in entries:
        return entries[name]
    close = [known for known in entries if name and known.startswith(name)]
    close += [known for known in difflib.get_close_matches(name, entries, n=5, cutoff=0.6) if known not in close]
    message = f"no weights are called {name!r}."
    if close:
        message += f" Close matches: {', '.join(close[:8])}."
    message += " `hrformer models` lists all names; the path of a local file is accepted too."
    if re.search(r"hrformer|^hrt|onedrive|1drv\.ms", name.lower()):
        message += f" {_AUTHORS_FILES}"
    raise ValueError(message)
