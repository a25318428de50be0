"""Any set laid out as a folder of pictures and a folder of masks per part."""

from __future__ import annotations

from pathlib import Path

from hrformer.data.class_lists import class_list
from hrformer.data.mask_files import MaskFiles, find_folder, masks_below, paired, part_name, pictures_below
from hrformer.data.sources import SegmentationSource, Split


def open_folders(source: SegmentationSource, split: Split) -> MaskFiles:
    """Open ``images/{split}/NAME.jpg`` and ``labels/{split}/NAME.png``, or whatever the source calls these folders.

    Pictures and masks are paired by name without the ending, in folders below too. Masks hold ids, or with
    ``palette_masks`` the colours of the classes file. A test part may be without masks.

    Raises:
        DataError: a folder or file is missing, or the classes cannot be read.
    """
    part = part_name(source, split)
    pictures_at, masks_at = (text.replace("{split}", part) for text in (source.images, source.masks))
    layout = f"{pictures_at}/NAME.jpg and {masks_at}/NAME.png (SegmentationSource.images, SegmentationSource.masks)"
    classes = class_list(source)
    pictures_in = find_folder(source.root, [pictures_at], "pictures", layout)
    pictures = pictures_below(pictures_in)
    files, masks = list(pictures.values()), None
    if split != "test" or (source.root / masks_at).is_dir():
        masks_in = find_folder(source.root, [masks_at], "masks", layout)
        files, masks = paired(pictures, masks_below(masks_in), (pictures_in, masks_in))
    return MaskFiles(
        name=set_name(source.root),
        classes=classes.names,
        pictures=files,
        masks=masks,
        table=classes.table(source.palette_masks),
        palette=classes.palette,
    )


def set_name(root: Path) -> str:
    """Name of the folder, whichever way it was given."""
    return root.expanduser().resolve().name
