"""Any set laid out as a folder of pictures and a folder of masks per part."""

from __future__ import annotations

from pathlib import Path

from hrformer.data.class_lists import class_list
from hrformer.data.mask_files import MaskFiles
from hrformer.data.mask_layout import find_pairs
from hrformer.data.sources import SegmentationSource, Split


def open_folders(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open ``images/{split}/NAME.jpg`` and ``labels/{split}/NAME.png``, or whatever the source calls these folders.

    Pictures and masks are paired by name without the ending, in folders below too; other layouts are found, see
    :func:`hrformer.data.mask_layout.find_pairs`. Masks hold ids, or with ``palette_masks`` the colours of the classes
    file. A test part may be without masks.

    Raises:
        DataError: a folder or file is missing, or the classes cannot be read.
    """
    files, masks = find_pairs(source, split)
    classes = class_list(source)
    return MaskFiles(
        name=set_name(source.root),
        classes=classes.names,
        pictures=files,
        masks=masks,
        table=classes.colour_table() if source.palette_masks else classes.id_table(),
        palette=classes.palette,
    )


def set_name(root: Path) -> str:
    """Name of the folder, whichever way it was given."""
    return root.expanduser().resolve().name
