"""Sets in the layouts of Hugging Face ``datasets``: saved sets, parquet or arrow files, names on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_lists import class_list, classes_of_ids
from hrformer.data.images import decode, load_image
from hrformer.data.mask_reading import decode_mask, read_mask
from hrformer.data.mask_sets import part_name
from hrformer.data.part_patterns import part_files
from hrformer.data.set_types import ClassificationSet, DataError, ImageSet, SegmentationSet
from hrformer.data.source_config import ClassificationSource, SegmentationSource, Split


def open_table(root: Path, part: str, pictures: Sequence[str]) -> Any:
    """Rows of one part as a ``datasets.Dataset`` whose pictures stay encoded.

    Looked for in this order: a set saved by ``save_to_disk`` in ``root / part``; part ``part`` of several saved
    together in ``root``; arrow or parquet files, see :func:`~hrformer.data.part_patterns.part_files`; and where no
    folder ``root`` exists, the set of that name on the hub. Saved sets and arrow files are mapped, not read;
    parquet files and the hub's are first converted into ``datasets``' own cache (``HF_HOME``), once.

    Args:
        root: folder, or name on the hub such as "uoft-cs/cifar10".
        part: as above; "." for ``root`` itself.
        pictures: columns of pictures or masks; a cell becomes ``{"bytes": contents or None, "path": of the file}``.

    Raises:
        DataError: there is no such set, part or column, or a column holds no pictures.
        ImportError: ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("reading Hugging Face data sets needs their package: pip install datasets") from error
    where = f"{root}, part {part!r}"
    try:
        table = _load(datasets, root, part)
    except DataError:
        raise
    except Exception as error:
        # The package raises some twenty types here, from connection errors to pyarrow's.
        raise DataError(f"{where}: {type(error).__name__}: {error}") from error
    for column in pictures:
        _require_column(table, column, where)
        try:
            table = table.cast_column(column, datasets.Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise DataError(f"{where}: column {column!r} holds no pictures but {table.features[column]}") from error
    return table


def _load(datasets: Any, root: Path, part: str) -> Any:
    if (root / part / "state.json").is_file():
        return datasets.load_from_disk(str(root / part))
    if (root / "dataset_dict.json").is_file():
        raise DataError(f"{root}: has no part {part!r}; it has {sorted(p.name for p in root.iterdir() if p.is_dir())}")
    if (root / "state.json").is_file():
        raise DataError(f"{root}: is one saved set without parts; name it by the part '.', or give the other's root")
    if root.is_dir():
        files = part_files(root, part, (".parquet", ".arrow"))
        if all(path.suffix == ".arrow" for path in files):
            return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
        names = {"train": [str(path) for path in files if path.suffix == ".parquet"]}
        return datasets.load_dataset("parquet", data_files=names, split="train")
    if root.is_absolute() or len(root.parts) > 2:
        raise DataError(f"{root}: no such folder")
    return datasets.load_dataset(root.as_posix(), split=part)


def _require_column(table: Any, column: str, where: str) -> None:
    if column not in table.column_names:
        raise DataError(f"{where}: has no column {column!r}; it has {', '.join(map(repr, table.column_names))}")


def cell_pixels(cell: dict[str, Any] | None, name: str) -> NDArray[np.uint8]:
    """Picture of a cell of :func:`open_table`, (H, W, 3) uint8 RGB; ``name`` is for messages."""
    if cell and cell["bytes"] is not None:
        return decode(cell["bytes"], name)
    if cell and cell["path"]:
        return load_image(cell["path"]).pixels
    raise DataError(f"{name}: the row has no picture")


class _Rows(ImageSet):
    """Rows of a table; ``pictures`` are in a column of their own, so that reading one fetches nothing else."""

    def _take(self, table: Any, root: Path, part: str, column: str) -> None:
        self.name = root.resolve().name if root.is_dir() else root.as_posix()
        self._where, self._column = f"{root}::{part}", column
        self._pictures = table.select_columns([column])

    def __len__(self) -> int:
        return len(self._pictures)

    def file(self, index: int) -> str:
        """``<root>::<part>[<row>]``."""
        return f"{self._where}[{index}]"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        return cell_pixels(self._pictures[index][self._column], self.file(index))


class HuggingFaceClassification(_Rows, ClassificationSet):
    """Rows with a picture and a label: a number, with or without a name, or a text that is among ``classes``.

    ``classes`` are names where the set has none; where it has, the same. For ``root`` and ``part`` see
    :func:`open_table`, the columns are those of ``source``.

    Raises:
        DataError: it cannot be opened, a row has no label, or the names contradict each other.
    """

    def __init__(self, root: Path, part: str, source: ClassificationSource, classes: Sequence[str]) -> None:
        table = open_table(root, part, (source.image_column,))
        self._take(table, root, part, source.image_column)
        _require_column(table, source.label_column, self._where)
        self._labels, self.classes = _labels(table, source.label_column, classes, self._where)


def _labels(table: Any, column: str, given: Sequence[str], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(N,) class ids, and the names of the classes."""
    cells = table.select_columns([column])[:][column]
    if None in cells:
        raise DataError(f"{where}: row {cells.index(None)} has no label")
    own = tuple(getattr(table.features[column], "names", ()))
    if own and given and own != tuple(given):
        raise DataError(
            f"{where}: the classes are {own[:10]}, but {tuple(given)[:10]} were given; leave "
            "ClassificationSource.classes empty"
        )
    names = own or tuple(given)
    if cells and isinstance(cells[0], str):
        if not names:
            raise DataError(
                f"{where}: the labels are texts such as {cells[0]!r}; list them all, in order, in "
                "ClassificationSource.classes"
            )
        numbers = {name: number for number, name in enumerate(names)}
        if unknown := next((cell for cell in cells if cell not in numbers), None):
            raise DataError(f"{where}: the label {unknown!r} is not among the classes {names[:10]}")
        cells = [numbers[cell] for cell in cells]
    elif cells and not isinstance(cells[0], int):
        raise DataError(f"{where}: column {column!r} must hold numbers or texts, got {type(cells[0]).__name__}")
    labels = np.asarray(cells, dtype=np.int64)
    return labels, classes_of_ids(labels, names, where)


class HuggingFaceSegmentation(_Rows, SegmentationSet):
    """Rows with a picture and a mask, both stored as picture files; a test part may be without masks.

    Masks hold ids, or with ``palette_masks`` the colours of the classes file. For root and part see :func:`open_table`.

    Raises:
        DataError: it cannot be opened, or the classes cannot be read.
        ImportError: ``datasets`` is not installed.
    """

    def __init__(self, source: SegmentationSource, split: Split) -> None:
        part, classes = part_name(source, split), class_list(source)
        table = open_table(source.root, part, (source.image_column,))
        self.labelled = split != "test" or source.mask_column in table.column_names
        if self.labelled:
            table = open_table(source.root, part, (source.image_column, source.mask_column))
        if not len(table):
            raise DataError(f"{source.root}, part {part!r}: has no rows")
        self._take(table, source.root, part, source.image_column)
        self.classes, self.palette = classes.names, classes.palette
        self._table, self._mask_column = classes.table(source.palette_masks), source.mask_column
        self._masks = table.select_columns([source.mask_column]) if self.labelled else None

    def mask(self, index: int) -> NDArray[np.uint8]:
        if self._masks is None:
            raise DataError(f"{self.file(index)}: this part of {self.name} has no masks")
        cell: dict[str, Any] | None = self._masks[index][self._mask_column]
        if cell and cell["bytes"] is not None:
            return decode_mask(cell["bytes"], self.mask_file(index), self._table)
        if cell and cell["path"]:
            return read_mask(Path(cell["path"]), self._table)
        raise DataError(f"{self.mask_file(index)}: the row has no mask")

    def mask_file(self, index: int) -> str:
        """``<root>::<part>[<row>].<column>``."""
        return f"{self.file(index)}.{self._mask_column}" if self.labelled else self.file(index)
