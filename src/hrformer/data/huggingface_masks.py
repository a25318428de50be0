"""Segmentation sets in the layouts of Hugging Face ``datasets``: a column of pictures and a column of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrformer.data.class_lists import class_list
from hrformer.data.huggingface import cell_pixels, open_table
from hrformer.data.mask_files import part_name
from hrformer.data.masks import decode_mask, read_mask
from hrformer.data.sets import DataError, SegmentationSet
from hrformer.data.sources import SegmentationSource, Split


class HuggingFaceSegmentation(SegmentationSet):
    """Rows with a picture and a mask, both stored as picture files.

    Args:
        source: ``root`` and the part as in :func:`~hrformer.data.huggingface.open_table`; masks hold ids, or with
            ``palette_masks`` the colours of the classes file.
        split: to open; a test part may be without the column of masks.

    Raises:
        DataError: it cannot be opened, or the classes cannot be read.
        ImportError: ``datasets`` is not installed.
    """

    def __init__(self, source: SegmentationSource, split: Split) -> None:
        part = part_name(source, split)
        classes = class_list(source)
        table = open_table(source.root, part, (source.image_column,))
        self.labelled = split != "test" or source.mask_column in table.column_names
        columns = (source.image_column, source.mask_column) if self.labelled else (source.image_column,)
        table = open_table(source.root, part, columns)
        if not len(table):
            raise DataError(f"{source.root}, part {part!r}: has no rows")
        self.name = source.root.resolve().name if source.root.is_dir() else source.root.as_posix()
        self.classes, self.palette = classes.names, classes.palette
        self._table = classes.table(source.palette_masks)
        # Apart, so that reading one does not fetch the other.
        self._pictures = table.select_columns([source.image_column])
        self._masks = table.select_columns([source.mask_column]) if self.labelled else None
        self._columns = source.image_column, source.mask_column
        self._where = f"{source.root}::{part}"

    def __len__(self) -> int:
        return len(self._pictures)

    def file(self, index: int) -> str:
        """``<root>::<part>[<row>]``."""
        return f"{self._where}[{index}]"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return cell_pixels(self._pictures[index][self._columns[0]], self.file(index))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) uint8 class numbers."""
        if self._masks is None:
            raise DataError(f"{self.file(index)}: this part of {self.name} has no masks")
        cell: dict[str, Any] | None = self._masks[index][self._columns[1]]
        if cell and cell["bytes"] is not None:
            return decode_mask(cell["bytes"], self.mask_file(index), self._table)
        if cell and cell["path"]:
            return read_mask(Path(cell["path"]), self._table)
        raise DataError(f"{self.mask_file(index)}: the row has no mask")

    def mask_file(self, index: int) -> str:
        """``<root>::<part>[<row>].<column>``."""
        return f"{self.file(index)}.{self._columns[1]}" if self.labelled else self.file(index)
