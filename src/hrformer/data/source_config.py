"""Where a data set lies and in which layout: plain configuration, opened by the ``open_*`` functions of the readers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from hrformer.geometry.skeletons import Skeleton

Split = Literal["train", "val", "test"]
"""Which part of a set; each source says what its parts are called on disk."""

Exif = Literal["auto", "apply", "ignore"]
"""What to do about pictures that an EXIF orientation turns; each source says what the words mean for its labels."""

ClassificationFormat = Literal["folders", "huggingface", "webdataset"]
SegmentationFormat = Literal[
    "folders",
    "voc",
    "coco",
    "official",
    "cityscapes",
    "pascal_context",
    "coco_stuff_10k",
    "coco_stuff_164k",
    "ade20k",
    "huggingface",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What every data set has.

    Attributes:
        name: of the set in results and cards; empty takes the folder's.
        root: folder of the set.
        more_roots: folders of further sets of the same classes or joints, in the same layout; they are joined to one in
            which each weighs by its size. On the command line all folders stand behind ``--data.root``.
        skip_broken: leave out pictures and masks that are missing or cannot be read, instead of stopping at them. In
            training another item takes the place of such a one, so that the order of all others stays.
        val_share: above 0 there is no validation part of its own: about this share of the training part's pictures, in
            [0, 1), is kept for validation. The names of the pictures decide which, so that it is the same in every run.
    """

    name: str = ""
    root: Path = Path()
    more_roots: tuple[Path, ...] = ()
    skip_broken: bool = False
    val_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise ValueError(
                f"{type(self).__name__}.val_share must be in [0, 1), a share of the pictures such as 0.2, "
                f"got {self.val_share}"
            )

    def untouched(self, *names: str) -> bool:
        """Whether these fields are left at their defaults."""
        defaults = {one.name: one.default for one in fields(self)}
        return all(getattr(self, name) == defaults[name] for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationSource(Source):
    """Pictures with one class each.

    Attributes:
        format: "folders" (``train/CLASS/*.jpg``, also ImageNet's), "huggingface" (``datasets``: saved sets, parquet or
            arrow files, or with ``root`` a name on the hub), "webdataset" (tar shards).
        train: folder, split or pattern of files of the training part, relative to ``root``.
        val: of the validation part.
        test: of the test part; empty where there is none.
        classes: names in the order of their ids, where the files do not tell.
        image_column: "huggingface": column of the pictures.
        label_column: "huggingface": column of the labels; "webdataset": ending of the label members beside ``.cls``, or
            key in the ``.json`` members.
        val_root: where the validation part lies, if not under ``root``.
        val_format: its layout, if another one.
    """

    format: ClassificationFormat = "folders"
    train: str = "train"
    val: str = "val"
    test: str = ""
    classes: tuple[str, ...] = ()
    image_column: str = "image"
    label_column: str = "label"
    val_root: Path | None = None
    val_format: ClassificationFormat | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseSource(Source):
    """Pictures with people, labelled in COCO's keypoint format. ``{split}`` in a path becomes train, val or test.

    Attributes:
        train_annotations: file of the training part, relative to ``root``; where it is empty, or left as it is and
            not there, any file in COCO's format is taken whose name or folder speaks of the part.
        val_annotations: of the validation part.
        test_annotations: of the test part, or its list of pictures without labels.
        train_images: folder of the pictures of the training part; several candidates may be given, the first that
            exists is taken (COCO: ``train2017`` and HRNet's ``images/train2017``).
        val_images: of the validation part.
        test_images: of the test part.
        detections: file of person boxes in COCO's results format, for evaluation with detected boxes.
        clip: how labelled boxes are clipped: "official" (HRNet, HRFormer), "mmpose", or "none".
        flip_pairs: pairs of joint names that change places in a mirror image, where the names do not tell.
        sigmas: one per joint, where they are not known.
        skeleton: overrides all that the file says about joints.
        category: name or id of the one category to take, where the file has several with joints; empty takes all that
            have joints, which must then be the same.
        exif: pictures whose EXIF orientation says that they are to be turned. "auto": labels on the stored pixels, told
            by the width and height in the file, are turned upright with the picture. "apply": labels lie on the
            stored pixels also where the size cannot tell, as in squares. "ignore": pictures are read as they are
            stored, labels taken as they stand.
    """

    train_annotations: str = "annotations/person_keypoints_train2017.json"
    val_annotations: str = "annotations/person_keypoints_val2017.json"
    test_annotations: str = ""
    train_images: tuple[str, ...] = ("train2017", "images/train2017", "images/train")
    val_images: tuple[str, ...] = ("val2017", "images/val2017", "images/val")
    test_images: tuple[str, ...] = ("test2017", "images/test2017", "images/test")
    detections: Path | None = None
    clip: Literal["official", "mmpose", "none"] = "official"
    flip_pairs: tuple[tuple[str, str], ...] = ()
    sigmas: tuple[float, ...] = ()
    skeleton: Skeleton | None = None
    category: str = ""
    exif: Exif = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationSource(Source):
    """Pictures with a class per pixel.

    Attributes:
        format: layout, see the reader of that name. "folders" takes COCO's instances files too, where there is no
            folder of masks. "official" is ``{train,val}/{image,label}`` of the HRFormer
            repository, whose ids are read by the rules of ``dataset``. For "huggingface" ``root`` may be a name on the
            hub.
        train: what the training part is called.
        val: what the validation part is called.
        test: what the test part is called; empty where there is none.
        images: "folders", "voc", "coco": folder of the pictures, ``{split}`` standing for the part.
        masks: "folders", "voc": folder of the masks; "coco": file of the annotations, looked for where this is left as
            it is.
        lists: "voc": file with one name per line.
        classes: names in the order of their ids, or a file with ``id name [R G B]`` per line relative to ``root``.
        ignore: ids in the files that belong to no class, beside 255; "none" where every id is that of a class, 255 too.
        palette_masks: whether masks are colours to look up in the classes file rather than ids.
        dataset: "official": cityscapes, pascal_context, coco_stuff_10k or ade20k.
        image_column: "huggingface": column of the pictures.
        mask_column: "huggingface": column of the masks.
        exif: "folders", "voc", "coco": pictures whose EXIF orientation says that they are to be turned. "auto": masks
            on the stored pixels, told by their size, are turned upright with the picture. "apply": masks lie on the
            stored pixels also where the size cannot tell, as in squares. "ignore": pictures are read as they are
            stored, masks taken as they stand.
    """

    format: SegmentationFormat = "folders"
    train: str = "train"
    val: str = "val"
    test: str = ""
    images: str = "images/{split}"
    masks: str = "labels/{split}"
    lists: str = "ImageSets/Segmentation/{split}.txt"
    classes: str | tuple[str, ...] = "classes.txt"
    ignore: Literal["none"] | tuple[int, ...] = ()
    palette_masks: bool = False
    dataset: Literal["cityscapes", "pascal_context", "coco_stuff_10k", "ade20k"] = "cityscapes"
    image_column: str = "image"
    mask_column: str = "annotation"
    exif: Exif = "auto"
