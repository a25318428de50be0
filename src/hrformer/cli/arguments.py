"""The command line as typed dataclasses: every option, its default and its help, which is the comment at the field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from hrformer.data.source_config import Split
from hrformer.export.export import Graph
from hrformer.export.files import Format
from hrformer.export.files import Precision as ExportPrecision
from hrformer.fast.choice import Precision
from hrformer.formats.write import ResultsFormat
from hrformer.geometry.heatmaps import Decoder
from hrformer.geometry.input_spec import ChannelOrder
from hrformer.models.fusion import UpsampleMode
from hrformer.predict.pose import PoseOptions, Suppression
from hrformer.predict.video import EVERY
from hrformer.video.writing import Codec


@dataclass(frozen=True, kw_only=True)
class General:
    """Options of every command."""

    debug: bool = False  # Show Python's traceback on errors; so does HRFORMER_DEBUG=1.


@dataclass(frozen=True, kw_only=True)
class PredictArguments(General):
    """Options of all three tasks."""

    # Picture files, folders (searched with their subfolders), glob patterns in quotes, http(s) URLs, addresses such as
    # s3://BUCKET/FOLDER/, or manifests: .parquet files with a column "path" or "uri". Or videos, and cameras by number.
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="INPUT...", help_behavior_hint="(required)")] = ()
    weights: str  # Name from `hrformer models`, weight file, or hf://OWNER/REPO.
    # Folder for results; made if absent. Results of an earlier run are replaced, unless --resume is given.
    out: Path = Path("predictions")
    device: str | None = None  # Where to run, such as cpu or cuda:0. Default: the GPU if there is one.
    batch_size: int = 8  # How many pictures, or people for pose, go through the network at once.
    # Run through `hrformer.optimize`: fused kernels on a GPU and, for HRFormer, on x86 processors, else OpenVINO or
    # ONNX Runtime, which compile for some seconds. Results differ by rounding.
    fast: bool = False
    # Of the network's products. bf16 is less exact, and made for --fast on processors with AVX512-BF16 or AMX; auto
    # takes it with --fast where our kernels have it for this processor, else fp32.
    precision: Precision = "fp32"
    resume: bool = False  # Skip pictures whose results are in --out already.
    pictures: bool = True  # Write pictures with the results drawn on them.
    draw: bool = False  # Videos: also write the video with the results drawn on it, and its own sound.
    codec: Codec = "h264"  # Videos: how the drawn video is packed.
    # What runs it: this process, or workers of Ray, here or on a cluster, for lists of any size. Results are Parquet
    # files in --out, without drawn pictures; a run that was stopped in any way goes on with --resume.
    engine: Literal["plain", "ray"] = "plain"
    ray_address: str | None = None  # Of a Ray cluster. Default: RAY_ADDRESS, else Ray is started on this machine.


@dataclass(frozen=True, kw_only=True)
class PoseArguments(PredictArguments):
    """Keypoints of people: annotated pictures, and predictions.json in COCO's results format.

    People are found first, by the bundled segmentation model unless --detections or --detector say otherwise.
    """

    weights: str = "hrformer_tiny_people17"  # Name from `hrformer models`, weight file, or hf://OWNER/REPO.
    # JSON file with person boxes in COCO's results format, matched by file name or COCO image number.
    detections: Path | None = None
    # How to find people: "segmentation" takes the regions of a segmentation model's class "person", those who touch
    # being one; "picture" takes each picture for one person who fills it; one of torchvision's detectors, such as
    # fasterrcnn_resnet50_fpn_v2, is downloaded once. Default: segmentation, and picture for animals and things.
    detector: str | None = None
    detector_weights: Path | None = None  # Local file with the detector's weights, instead of the bundled or published.
    # People whom the detector scores below this are left out. Default: 0.6 for segmentation, 0.5 for torchvision's.
    detector_threshold: float | None = None
    box_threshold: float = 0.0  # With --detections: boxes scored below this are left out.
    joint_threshold: float = PoseOptions().joint_threshold  # Joints must score above this to count in a person's score.
    flip: bool = True  # Average with the mirror image, as published figures do; off is twice as fast.
    # What to do with several boxes on one person: keep the best (hard), damp the others (soft), keep all (off). auto:
    # hard with --detections and a detector, else off.
    nms: Suppression = "auto"
    # Cut people out on the device instead of by OpenCV; differs by a grey level here and there.
    fast_crop: bool = False
    # Videos: people are looked for in every so many frames; in between, boxes move in straight lines.
    every: int = EVERY
    # Videos: joints without their tremble. "one-euro" filters as frames come, "zero-phase" forwards and backwards, so
    # that nothing is delayed.
    smooth: Literal["off", "one-euro", "zero-phase"] = "off"
    cutoff: float = 6.0  # Videos: cut-off of zero-phase in Hz; what changes faster is taken for tremble.


@dataclass(frozen=True, kw_only=True)
class SegmentArguments(PredictArguments):
    """A class for every pixel: PNG masks of class ids, coloured pictures, and the classes' shares as JSON."""

    weights: str = "hrformer_tiny_petspeople"  # Name from `hrformer models`, weight file, or hf://OWNER/REPO.
    batch_size: int = 1  # How many neighbouring pictures of equal size go through the network at once.
    # Bring the short side to this many pixels first; 0 keeps the pictures' sizes. Default: what the weights were tested
    # with.
    short_side: int | None = None
    # Factors on the network input, whose results are added up; published multi-scale figures use 0.75 1 1.25 with
    # --flip.
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False  # Add the mirror image's result.
    # Height and width of windows over the network input, blended where they overlap. Default: pictures go whole as long
    # as --memory allows it.
    tile: tuple[int, int] | None = None
    memory: float | None = None  # GB that the network's pass over a picture may take. Default: half of what is free.


@dataclass(frozen=True, kw_only=True)
class ClassifyArguments(PredictArguments):
    """What is in each picture: the most probable classes, as JSON and written on the pictures."""

    weights: str = "hrformer_tiny_things"  # Name from `hrformer models`, weight file, or hf://OWNER/REPO.
    batch_size: int = 32  # How many pictures go through the network at once.
    top_k: int = 5  # How many classes to report.
    flip: bool = False  # Average with the mirror image.


@dataclass(frozen=True, kw_only=True)
class ModelsArguments(General):
    """Models with parameters and multiply-adds, and the weights there are for them."""

    names: Positional[tuple[str, ...]] = ()  # Only models and weights whose name contains one of these.
    # Count multiply-adds at this height and width instead of each task's usual input; takes a second per row.
    size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ConvertArguments(General):
    """Convert a published weight file to a safetensors file of ours, or back to mmpose's form."""

    source: Positional[Path]  # Weight file of any kind that can be loaded here.
    destination: Positional[Path]  # File to write: .safetensors, or .pth with --to mmpose.
    to: Literal["hrformer", "mmpose"] = "hrformer"  # Form to write.
    half: bool = False  # Store 16-bit numbers (ours only).
    # Whether the relative position bias takes part. Default, here and below: what the file implies.
    position_bias: bool | None = None
    upsample: UpsampleMode | None = None  # How coarse maps are enlarged.
    channel_order: ChannelOrder | None = None  # Order of the input's channels.
    input_size: tuple[int, int] | None = None  # Height and width of the input in pixels.
    # Pose: how heatmaps are decoded: a quarter cell by the official rule or mmpose's, or mmpose's DARK or UDP.
    decoder: Decoder | None = None
    # Pose: JSON file that describes the joints, such as one with a COCO category. Default: by their number.
    skeleton: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ConvertResultsArguments(General):
    """Write the joints of a video, or of a folder of pictures, in the form that another program reads."""

    # File of tracks that `hrformer predict pose` wrote of a video, or its folder of results of pictures.
    source: Annotated[Positional[Path], arg(metavar="IN")]
    # File to write; for openpose a folder. trc and c3d take a folder for a file per track, or the file's name where
    # there is one. For deeplabcut the suffix .csv or .h5 chooses.
    destination: Annotated[Positional[Path], arg(metavar="OUT")]
    to: ResultsFormat  # Form to write.
    scale: float | None = None  # Metres per pixel, for trc and c3d. Default: they hold pixels.
    rate: float | None = None  # Pictures per second, for a folder of pictures. Default: 1.


@dataclass(frozen=True, kw_only=True)
class ConvertLabelsArguments(General):
    """Write labels of CVAT, Label Studio, YOLO or labelme as files in COCO's form.

    Pictures stay where they are: the files name them as seen from OUT, so that --data.root OUT trains.
    """

    # Labels in any form that training reads: a file, or a folder with labels of one form.
    source: Annotated[Positional[Path], arg(metavar="IN")]
    # Folder for annotations/train.json, val.json and test.json; it may be IN. Other labels there are never replaced.
    out: Annotated[Positional[Path], arg(metavar="OUT")]


@dataclass(frozen=True, kw_only=True)
class PushArguments(General):
    """Upload a model to the Hugging Face Hub: weights, card and a readable header, in one commit.

    The token is that of HF_TOKEN or of `hf auth login`. Load it from there as hf://OWNER/REPO.
    """

    # Name from `hrformer models`, weight file of any kind that can be loaded here, or directory of a run.
    weights: Annotated[Positional[str], arg(metavar="WEIGHTS")]
    repository: Annotated[Positional[str], arg(metavar="OWNER/REPO")]  # Where to; made if absent.
    # Model card. Default: the .md file beside the weights, else one written from their header.
    card: Path | None = None
    private: bool = False  # Make the repository for you alone.
    message: str = ""  # Of the commit. Default: "Upload" and the model's name.


@dataclass(frozen=True, kw_only=True)
class ExportArguments(General):
    """Write a model as one file for another runtime, and prove that it answers as the model does.

    The file takes a picture as it is and answers with keypoints, a mask or probabilities; a report and a script that
    uses it, without this package, lie beside it.
    """

    # Name from `hrformer models`, weight file, or hf://OWNER/REPO.
    weights: Annotated[Positional[str], arg(metavar="WEIGHTS")] = ""
    to: Format = "onnx"  # Runtime: ONNX Runtime and others that read ONNX, OpenVINO, or torch.export.
    out: Path = Path("exported")  # Folder for the file, report.json and predict.py; an earlier export is replaced.
    # "pipeline" takes pictures (and boxes of people) as they are; "network" takes normalised tensors and gives raw
    # outputs.
    graph: Graph = "pipeline"
    precision: ExportPrecision = "fp32"  # Of the network. int8 is calibrated on --pictures.
    # Pictures that the file is tried on and calibrated with. Default: three photographs that come with the package.
    pictures: tuple[str, ...] = ()
    # Average with the mirror image, in the graph. Default: as `hrformer predict` does: for pose.
    flip: bool | None = None
    # Segmentation: bring the short side to this many pixels first; 0 keeps the pictures' sizes. Default: what the
    # weights were tested with.
    short_side: int | None = None
    data: str | None = None  # Recipe, JSON file of a run, or directory of a run: score its val part before and after.
    data_root: Path | None = None  # Where the data of --data is.
    limit: int | None = None  # Score only the first so many items.
    verify: Path | None = None  # Write nothing, but prove this file again.


@dataclass(frozen=True, kw_only=True)
class ServeArguments(General):
    """Answer over HTTP: one process with an API and, at /, a page to drop pictures on. SIGTERM or Ctrl-C ends it.

    POST pictures to /v1/models/NAME:predict; /docs describes the API.
    """

    # Names from `hrformer models`, weight files, hf://OWNER/REPO, or files that `hrformer export` wrote; NAME=FILE
    # chooses the name in addresses.
    weights: Annotated[Positional[tuple[str, ...]], arg(metavar="WEIGHTS...")] = ()
    host: str = "127.0.0.1"  # Address to listen on; 0.0.0.0 for all of this machine's.
    port: int = 8000  # Port; 0 takes a free one.
    device: str | None = None  # Where weights run, such as cpu or cuda:0. Default: the GPU if there is one.
    fast: bool = True  # Run weights through `hrformer.optimize`.
    # Of the networks' products. bf16 is less exact, and made for processors with AVX512-BF16 or AMX; auto takes it
    # where our kernels have it for this processor, else fp32.
    precision: Precision = "fp32"
    # How models of pose find people where a request has no boxes, as in `hrformer predict pose`.
    detector: str | None = None
    # File with the token that clients must send as "Authorization: Bearer". Default: HRFORMER_TOKEN, else no token.
    token_file: Path | None = None
    max_batch: int = 8  # Most pictures, or people for pose, that go through a network at once.
    max_wait: float = 0.002  # Seconds that one of them waits for company.
    queue: int = 64  # Pictures of a model in work or waiting; further ones are answered 429.
    deadline: float = 30.0  # Seconds for an answer, else 504.
    body_bytes: int = 32 * 2**20  # Most bytes of a request, else 413.
    pixels: int = 50_000_000  # Most pixels of a picture, else 413.
    # Segmentation: most pixels that the network sees of a picture, over all scales, else 422.
    network_pixels: int = 8_000_000
    people: int = 100  # Most boxes with a picture, else 422.
    stalled: float = 300.0  # Seconds after which a network that has not answered is taken for dead.


@dataclass(frozen=True, kw_only=True)
class TrainArguments(General):
    """Train a model. Without RECIPE: list the recipes; `hrformer train RECIPE --help` shows every field of the run."""

    # Recipe, JSON file of a run, or directory of a run; then fields to change, such as --data.root and --optim.lr.
    run: Annotated[Positional[str], arg(metavar="RECIPE")] = ""
    # Run directory. Default: runs/RECIPE; with --resume and a directory as RECIPE, that directory.
    out: Path | None = None
    resume: bool = False  # Go on from the last checkpoint in the run directory.
    # Do not train, but search the learning rate: draws the loss over a rising rate and suggests --optim.lr.
    find_rate: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(General):
    """Score weights, or predictions in files, on a data set. Fields of the sections data and evaluation can be changed.

    Prints the scores and writes them to scores.json, with protocol, weights' sha256, versions and date.
    """

    # Recipe, JSON file of a run, or directory of a run: which data, and how it is tested.
    run: Annotated[Positional[str], arg(metavar="RECIPE")] = ""
    # Name from `hrformer models`, weight file, or hf://OWNER/REPO. Default: best.safetensors of the run directory.
    weights: str | None = None
    # Score this instead of running a model: COCO results (JSON), a folder of masks, a table of classes (JSON or CSV),
    # or the folder of `hrformer predict`.
    predictions: Path | None = None
    split: Split = "val"  # Part of the set.
    out: Path = Path("evaluation")  # Folder for results; made if absent.
    bootstrap: int = 0  # Samples for 95 % confidence intervals, such as 1000; 0 for none.
    worst: int = 0  # List so many of the items with the lowest scores.
    limit: int | None = None  # Only the first so many items.
    # Write predictions for the set's test server instead of scoring them; the part may be without labels.
    submit: bool = False
    # With --predictions: the masks hold the ids of the set's test server instead of class numbers.
    server_ids: bool = False
    device: str | None = None  # Where to run, such as cpu or cuda:0. Default: the GPU if there is one.
    workers: int | None = None  # Processes that read pictures ahead. Default: one per core, less one.
    # Of the forward pass. auto: bf16 with --fast where our kernels have it for this processor, else fp32; fp16 is for a
    # GPU.
    precision: Precision | Literal["fp16"] = "fp32"
    # Classifiers: fit the temperature of the probabilities to this part of the set, and write the weights with it into
    # this file (.safetensors). The order of the classes stays as it is.
    calibrate: Path | None = None
    # Run through `hrformer.optimize`, so that scores are those of the fast path; on a GPU with --precision fp32.
    fast: bool = False


@dataclass(frozen=True, kw_only=True)
class InspectDataArguments(General):
    """Look through the data of a run before training on it.

    Prints numbers, and what would break training with its fix; writes report.json and contact_sheet.jpg, a picture of
    augmented samples with their labels. Exit code 1 if there are errors.
    """

    # Recipe, JSON file of a run, or directory of a run; then fields to change, such as --data.root.
    run: Annotated[Positional[str], arg(metavar="RECIPE")] = ""
    # Part of the set. With train comes val, since training needs both; val and test are looked at alone.
    split: Split = "train"
    out: Path = Path("inspection")  # Folder for results; made if absent.
    limit: int | None = None  # Look at so many pictures of each part only, spread over it.
    samples: int = 24  # Augmented samples in the picture; 0 for no picture.


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Look at the data of a run: `hrformer inspect data RECIPE --data.root FOLDER`."""

    what: Positional[Literal["data"]]  # What to look at.
    options: InspectDataArguments


PredictCommand = (
    Annotated[PoseArguments, subcommand("pose")]
    | Annotated[SegmentArguments, subcommand("segment")]
    | Annotated[ClassifyArguments, subcommand("classify")]
)


@dataclass(frozen=True, kw_only=True)
class PredictGroup:
    """Predict on pictures: pose, segment or classify."""

    task: PredictCommand


Command = (
    Annotated[PredictGroup, subcommand("predict")]
    | Annotated[ModelsArguments, subcommand("models")]
    | Annotated[ConvertArguments, subcommand("convert")]
    | Annotated[ConvertResultsArguments, subcommand("convert-results")]
    | Annotated[ConvertLabelsArguments, subcommand("convert-labels")]
    | Annotated[PushArguments, subcommand("push")]
    | Annotated[ExportArguments, subcommand("export")]
    | Annotated[ServeArguments, subcommand("serve")]
    | Annotated[TrainArguments, subcommand("train")]
    | Annotated[EvaluateArguments, subcommand("eval")]
    | Annotated[InspectArguments, subcommand("inspect")]
)
