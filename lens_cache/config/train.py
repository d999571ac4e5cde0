"""Settings of phase 2, the training: model, losses, optimizer, batches, trainer."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lens_cache.config.fields import Fraction, NonNegative, Positive, Seed, Weight, strict

Strategy = Literal["auto", "ddp", "fsdp", "deepspeed_stage_2"]


@dataclass(frozen=True, kw_only=True, config=strict)
class ModelConfig:
    """The trainable LENS modules. The ablations of table 2 are switches here."""

    layer: Positive | None = None
    """Cached layer that the head reads; may be empty if the store has only one."""
    warm_start: bool = True
    """Initialise the head's two layers with the weights of the MLLM's layers L and L+1."""
    attention_rows: Literal["mean", "last"] = "mean"
    """Text rows of the attention that make the grounding map: their `mean` (eq. 1) or the `last`
    one."""
    attention_normalisation: Literal["peak", "sum", "none"] = "peak"
    """`peak` divides the grounding map by `peak_headroom` times its own (detached) peak, `sum`
    makes it sum to 1, `none` keeps the softmax values."""
    peak_headroom: Annotated[float, Field(ge=1)] = 1.05
    """Keeps the peak below 1, so that a wrong peak still gets a gradient. In eq. 5 that gradient is
    1 / (headroom - 1) times the one of other cells."""
    max_keypoints: Positive = 16
    """Upper limit m on the number of keypoints (16 in the paper)."""
    nms_radius: Weight = 4.0
    """Cells within this Euclidean distance of a keypoint are suppressed (4 in the paper)."""
    keypoint_threshold: Fraction = 0.4
    """Keypoints below this share of the peak are skipped; 0 keeps all. In the released code, not in
    the text of the paper."""
    neighbourhood: Positive = 3
    """Side p of the p x p neighbourhood that describes a keypoint (3 in the paper)."""
    coordinates: Literal["centre", "corner"] = "centre"
    """Where cell i of G is, for keypoints and the attention loss: its `centre` at (i + 0.5) / G, or
    the released code's `corner`, which puts the outer cells' centres on the edges of the square."""
    num_descriptor_heads: Positive | None = None
    """Attention heads of the descriptor; as many as the MLLM has if empty."""
    use_keypoints: bool = True
    """If false, only the global description prompts SAM ("w/o keypoint description")."""
    use_global: bool = True
    """If false, only keypoints prompt SAM ("w/o global description")."""
    global_only_probability: Fraction = 0.5
    """Share of training samples that see only the global description (S1.4)."""
    train_mask_decoder: bool = False
    """Also train SAM's mask decoder."""


@dataclass(frozen=True, kw_only=True, config=strict)
class LossConfig:
    """Weights of eq. 6 and 7."""

    dice: Weight = 2.0
    """Weight of the dice loss."""
    bce: Weight = 4.0
    """Weight of the binary cross-entropy."""
    attention: Weight = 1.0
    """Weight of the attention loss, eq. 5; 0 is the ablation "w/o L_attn"."""
    attention_size: Positive = 128
    """Side of the square in which grounding map and mask are compared; 128 in the released code."""
    mask_size: Positive | None = None
    """Side of the square in which masks are compared. Empty: at the resolution of each image, as in
    LISA."""


@dataclass(frozen=True, kw_only=True, config=strict)
class OptimizerConfig:
    """AdamW with LISA's schedule: linear warm-up, then linear decay to zero or constant."""

    lr: Annotated[float, Field(gt=0)] = 5.0e-5
    """Highest learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    weight_decay: Weight = 0.0
    """Decoupled weight decay of AdamW."""
    warmup_steps: NonNegative = 100
    """Optimizer steps in which the learning rate rises from 0 to `lr`."""
    decay: Literal["linear", "constant"] = "linear"
    """`linear` to 0 at `trainer.max_steps`, or `constant`."""
    gradient_clip: Weight = 1.0
    """Highest norm of all gradients together; 0 does not clip."""
    states: Literal["float32", "8bit"] = "float32"
    """Precision of AdamW's moments. `8bit` stores the moments of weights with 4096 values or more
    in a quarter of the memory; it needs bitsandbytes."""


@dataclass(frozen=True, kw_only=True, config=strict)
class MixtureConfig:
    """One part of a mixture: datasets that share a rate evenly."""

    rate: Annotated[float, Field(gt=0)]
    """How often an image comes from these datasets; only the ratios of rates matter."""
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of datasets."""


@dataclass(frozen=True, kw_only=True, config=strict)
class BatchConfig:
    """The images and queries of a step."""

    split: str | None = None
    """Train on the queries of this split: `train` of every dataset, `ade20k|train` of one. Empty:
    `train`, or the store's only split that starts with `train`, or its only split."""
    mixture: tuple[MixtureConfig, ...] = ()
    """Draw from datasets at these rates. Empty: draw every image equally often."""
    window: Positive | None = None
    """With `order: random`: shuffle the images of N shards at a time, which suits network storage;
    all shards if empty."""
    limit_images: Positive | None = None
    """Train on the first N images of the split; all if empty."""
    validation_split: str | None = None
    """Measure gIoU on this split, such as `reason_seg|val`. Empty: `val` if the store has it,
    otherwise no validation."""
    contamination: Literal["refuse", "allow"] = "refuse"
    """`refuse` to train on images of the validation split and on splits that a benchmark evaluates,
    or `allow` it."""
    limit_validation_images: Positive | None = None
    """Validate on the first N images; all if empty."""
    images: Positive = 2
    """Images per device and batch."""
    queries_per_image: Positive = 3
    """Queries drawn for each image (3 in LISA)."""
    accumulate: Positive = 10
    """Batches per optimizer step on each device. The loss of a step is the mean over the queries of
    all its batches."""
    fit_memory: bool = True
    """On a GPU of a single machine, divide the images of a step, `images` times `accumulate`, into
    as few batches as its memory allows: the mean gradient is the same. `false` keeps both."""
    loader_workers: NonNegative = 2
    """Processes that read batches ahead."""
    order: Literal["random", "stream", "draws"] = "random"
    """`random` reads any image at any time. `stream` reads the tar files of a webdataset store from
    start to end, which suits network storage. `draws` replays the draws of LISA's sampler in the
    plan (`data.lisa.draws`), which also fix the number of queries per image."""
    shuffle_buffer: Positive = 64
    """With `order: stream`: images that each loader process buffers to draw from."""
    incomplete_store: Literal["refuse", "use"] = "refuse"
    """`refuse` a store with an unfinished extraction, or `use` the shards that are complete when
    the training starts."""


@dataclass(frozen=True, kw_only=True, config=strict)
class TrainerConfig:
    """How long and where a training runs."""

    max_steps: Positive = 5000
    """Optimizer steps."""
    validate_every: Positive = 500
    """Optimizer steps between validations. `last.ckpt` is written at the same steps."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    """Lightning's precision; weights and optimizer states are float32 in all of them."""
    accelerator: str = "auto"
    """Lightning's accelerator."""
    devices: Positive | None = None
    """Number of devices of each machine; all if empty."""
    num_nodes: Positive = 1
    """Number of machines. `torchrun` or `srun` starts the processes: one per device."""
    strategy: Strategy = "auto"
    """What each of several devices holds: everything (`ddp`); a part of weights, gradients and
    optimizer states (`fsdp`); a part of gradients and optimizer states (`deepspeed_stage_2`).
    `auto` is a single device, or `ddp`."""
    threads: Positive | None = None
    """CPU threads of a process; PyTorch's default if empty."""
    seed: Seed = 0
    """Seed of the initialisation, the order of images and the choice of queries."""
    checkpoint_activations: bool = False
    """Recompute activations of the head and of SAM's mask decoder in the backward pass: less
    memory, more time, the same gradients."""
    compile: bool = False
    """Compile the model with torch.compile; worthwhile for long runs only."""
    log_every: Positive = 10
    """Optimizer steps between lines of the log."""
    logger: Literal["csv", "tensorboard", "wandb"] = "csv"
    """Where the log goes: always to the run's `metrics.csv`, and also to `tensorboard` or
    `wandb`."""
    pictures: NonNegative = 4
    """Panels of answers that are drawn at every validation."""


@dataclass(frozen=True, kw_only=True, config=strict)
class TrainConfig:
    """Settings of `lens-cache train`: fit the LENS modules from a store."""

    presets: ClassVar[str] = "train"

    preset: Literal["paper", "released", "shapes", "tiny"] = "paper"
    """The base that the other settings change. `paper` is what the paper states, `released` what
    the authors' released code does, `shapes` trains in minutes on a CPU with the trained models of
    the world of shapes, `tiny` trains with the tiny random checkpoints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The trainable LENS modules."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the losses."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and schedule."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """The images and queries of a step."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How long and where the training runs."""
    mask_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability above which a pixel is foreground: 0.5 in LISA and the paper, 0.6 in the released
    code."""
