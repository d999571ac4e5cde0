"""Settings of a training: model, losses, optimizer, batches, trainer."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lens_cache.config.fields import Fraction, NonNegative, Positive, Weight, _strict

Strategy = Literal["auto", "ddp", "fsdp", "deepspeed_stage_2"]


@dataclass(frozen=True, kw_only=True, config=_strict)
class ModelConfig:
    """The trainable LENS modules. The ablations of Table 2 are switches here.

    Attributes:
        layer: Which cached layer the head reads; empty if the store holds only one.
        warm_start: Start the head's two layers from the MLLM's layers L and L+1.
        attention_rows: Text rows averaged into the grounding map: ``mean`` (eq. 1) or ``last``.
        attention_normalisation: ``peak`` divides the grounding map by ``peak_headroom`` times its
            own (detached) peak, ``sum`` makes it sum to 1, ``none`` leaves the softmax values.
        peak_headroom: Keeps the peak below 1, so that a wrong peak still gets a gradient.
        max_keypoints: Upper limit m on keypoints (16).
        nms_radius: Cells within this Euclidean distance of a keypoint are suppressed (4).
        keypoint_threshold: Keypoints weaker than this share of the peak are dropped; 0 keeps all.
            Not in the paper's text, but in the released code.
        neighbourhood: Side p of the p x p neighbourhood that describes a keypoint (3).
        coordinates: Where a grid cell lies in the square; see ``geometry``.
        num_descriptor_heads: Attention heads of the descriptor; empty means as many as the MLLM.
        use_keypoints: Off: only the global description prompts SAM ("w/o keypoint description").
        use_global: Off: only keypoints prompt SAM ("w/o global description").
        global_only_probability: Share of training samples that see only the global description
            (S1.4).
        train_mask_decoder: Also train SAM's mask decoder.
    """

    layer: Positive | None = None
    warm_start: bool = True
    attention_rows: Literal["mean", "last"] = "mean"
    attention_normalisation: Literal["peak", "sum", "none"] = "peak"
    peak_headroom: Annotated[float, Field(ge=1)] = 1.05
    max_keypoints: Positive = 16
    nms_radius: Weight = 4.0
    keypoint_threshold: Fraction = 0.4
    neighbourhood: Positive = 3
    coordinates: Literal["centre", "corner"] = "centre"
    num_descriptor_heads: Positive | None = None
    use_keypoints: bool = True
    use_global: bool = True
    global_only_probability: Fraction = 0.5
    train_mask_decoder: bool = False


@dataclass(frozen=True, kw_only=True, config=_strict)
class LossConfig:
    """Weights of eq. 6 and 7.

    Attributes:
        dice: Weight of the dice loss.
        bce: Weight of the binary cross-entropy.
        attention: Weight of the attention loss, eq. 5; 0 is the ablation "w/o L_attn".
        attention_size: Side of the square in which grounding map and mask are compared.
        mask_size: Side of the square in which masks are compared; empty means at the resolution
            of each image, as LISA does.
    """

    dice: Weight = 2.0
    bce: Weight = 4.0
    attention: Weight = 1.0
    attention_size: Positive = 128
    mask_size: Positive | None = None


@dataclass(frozen=True, kw_only=True, config=_strict)
class OptimizerConfig:
    """AdamW with LISA's schedule: linear warm-up, then linear decay to zero or constant.

    Attributes:
        lr: Highest learning rate.
        betas: Decay rates of AdamW's two moments.
        weight_decay: AdamW's, decoupled.
        warmup_steps: Optimizer steps from 0 up to ``lr``.
        decay: ``linear`` to 0 at ``trainer.max_steps``, or ``constant``.
        gradient_clip: Highest norm of all gradients together; 0 clips nothing.
        states: Precision of AdamW's moments. ``8bit`` keeps those of weights with 4096 values or
            more in a quarter of the memory; it needs bitsandbytes.
    """

    lr: Annotated[float, Field(gt=0)] = 5.0e-5
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Weight = 0.0
    warmup_steps: NonNegative = 100
    decay: Literal["linear", "constant"] = "linear"
    gradient_clip: Weight = 1.0
    states: Literal["float32", "8bit"] = "float32"


@dataclass(frozen=True, kw_only=True, config=_strict)
class MixtureConfig:
    """Datasets that share a rate evenly; only the ratios of rates matter."""

    rate: Annotated[float, Field(gt=0)]
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=_strict)
class BatchConfig:
    """What a step sees.

    Attributes:
        split: Train on queries of this split; empty means every query of the store. ``train`` is
            that of every dataset, ``ade20k|train`` that of one.
        mixture: Draw from datasets at these rates; empty draws every image equally often.
        window: With ``random``: mix the images of so many shards at a time, which suits storage
            behind a network; all if empty.
        limit_images: Use only the first images of the split; all if empty.
        validation_split: Measure gIoU on this split, such as ``reason_seg|val``; empty means no
            validation.
        limit_validation_images: Validate on the first images only; all if empty.
        images: Images per device and step.
        queries_per_image: Instructions drawn for an image (3 in LISA).
        accumulate: Batches of an optimizer step on each device; the step's loss is the mean over
            the questions of all of them.
        loader_workers: Processes that read ahead.
        order: ``random`` reads any image at any time; ``stream`` reads the tars of a webdataset
            store from end to end, which suits storage behind a network; ``draws`` replays the
            draws of LISA's sampler that the plan holds (``data.lisa.draws``), which also say how
            many instructions come with an image.
        shuffle_buffer: With ``stream``: images that each loader process holds to draw from.
        incomplete_store: ``refuse`` a store whose extraction has not finished, or ``use`` the
            shards that were complete when the training began.
    """

    split: str | None = None
    mixture: tuple[MixtureConfig, ...] = ()
    window: Positive | None = None
    limit_images: Positive | None = None
    validation_split: str | None = None
    limit_validation_images: Positive | None = None
    images: Positive = 2
    queries_per_image: Positive = 3
    accumulate: Positive = 10
    loader_workers: NonNegative = 2
    order: Literal["random", "stream", "draws"] = "random"
    shuffle_buffer: Positive = 64
    incomplete_store: Literal["refuse", "use"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=_strict)
class TrainerConfig:
    """How long and where a training runs.

    Attributes:
        max_steps: Optimizer steps.
        validate_every: Optimizer steps between validations; also when ``last.ckpt`` is written.
        precision: Lightning's precision; weights and optimizer states are float32 in all of them.
        accelerator: Lightning's accelerator.
        devices: Number of devices; empty means all.
        strategy: How several devices share the work: each holds everything (``ddp``), or a part of
            weights, gradients and optimizer states (``fsdp``), or of gradients and optimizer states
            (``deepspeed_stage_2``); ``auto`` is one device, or ``ddp``.
        threads: CPU threads of a process; empty leaves PyTorch's choice.
        seed: Seeds initialisation, the order of images and the drawing of queries.
        checkpoint_activations: Compute activations of the head and of SAM's mask decoder again in
            the backward pass instead of keeping them: less memory, more time, the same gradients.
        compile: Let torch.compile make the model's kernels; pays on long runs only.
        log_every: Optimizer steps between lines of the log.
        logger: Where the log goes; always into the run's ``metrics.csv``, and to ``tensorboard`` or
            ``wandb`` too.
        pictures: Answers that are drawn at every validation.
    """

    max_steps: Positive = 5000
    validate_every: Positive = 500
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    accelerator: str = "auto"
    devices: Positive | None = None
    strategy: Strategy = "auto"
    threads: Positive | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoint_activations: bool = False
    compile: bool = False
    log_every: Positive = 10
    logger: Literal["csv", "tensorboard", "wandb"] = "csv"
    pictures: NonNegative = 4


@dataclass(frozen=True, kw_only=True, config=_strict)
class TrainConfig:
    """Phase 2: fit the LENS modules from a store.

    ``preset`` names the base that the other settings depart from: ``paper`` is what the paper
    states, ``released`` what the authors' released code does, ``shapes`` what learns in minutes on
    a CPU with the trained models of the world of shapes, ``tiny`` what learns something with the
    tiny random checkpoints (see ``PRESETS``).

    ``paper`` takes from the paper m = 16, the 3 x 3 neighbourhood, radius 4, lr 5e-5, dice 2 and
    BCE 4, p = 0.5; from LISA, to which it refers, AdamW (0.9, 0.95) without decay, 100 steps of
    warm-up and linear decay, clipping at 1, 5,000 steps, up to 3 questions an image, masks compared
    at image resolution, threshold 0.5; from the authors' code the weight 1 and the 128 x 128
    square of the attention loss. What differs from them:

    - A step has 2 x 10 images on each device; LISA's 160 are those of 8 devices
      (``batch.accumulate`` of 80 / N on N).
    - The mean is over the questions of a whole step, not the mean of the batches' means.
    - ``batch.mixture`` is empty, since only a store knows its datasets; LISA's is 9 : 3 : 1.
    - Images are drawn in passes over them, LISA's with replacement.
    - Weak keypoints are dropped (``model.keypoint_threshold``): in the code, not in the paper.
    - SAM's mask decoder stays frozen; the paper's figure does not say, the code trains it.
    - Pixels to be ignored cost nothing; in LISA they count as background.
    - The peak of the grounding map stays below 1 (``model.peak_headroom``), where the code's clamp
      lets no gradient through, and no gradient goes through the place of a keypoint.
    - Weights, optimizer states and coordinates are float32 (the code: bfloat16).

    ``released`` is what the authors' code does, but for the mean over questions, the passes,
    ignored pixels, the peak, and float32, all as above. Its mixture is 3 : 1 : 1, its step 8 x 4
    images on each of 8 devices. An epoch of it has 100 steps, and it names the tenth: 1,000 steps.
    """

    preset: Literal["paper", "released", "shapes", "tiny"] = "paper"
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    # Logits above log(p / (1 - p)) are foreground; 0.5 in LISA and the paper, 0.6 in the release.
    mask_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
