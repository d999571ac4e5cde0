"""Settings of phase 1, the extraction.

Paths of stores and runs are not settings: they are arguments of the commands.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lens_cache.config.data import DataConfig
from lens_cache.config.fields import (
    Checkpoint,
    Dtype,
    Folder,
    Positive,
    Precision,
    StoreFormat,
    strict,
)


@dataclass(frozen=True, kw_only=True, config=strict)
class LlavaConfig:
    """The frozen multimodal LLM."""

    checkpoint: Checkpoint = "llava-hf/llava-1.5-7b-hf"
    """A Hugging Face hub id or a local folder (relative to `encoders.root` if that is set)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    layers: tuple[Positive, ...] = (14,)
    """Cached layers: layer L is `hidden_states[L]`, the input of decoder layer L."""
    dtype: Dtype = "bfloat16"
    """Precision of the forward pass, and of the stored hidden states unless `store.precision`
    changes it."""


@dataclass(frozen=True, kw_only=True, config=strict)
class SamConfig:
    """The frozen Segment Anything model."""

    checkpoint: Checkpoint = "ybelkada/segment-anything/checkpoints/sam_vit_h_4b8939.pth"
    """A `.pth` file, a folder with exactly one, or a hub id `owner/name[/file.pth]` (files are
    relative to `encoders.root` if that is set)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Dtype = "bfloat16"
    """Precision of the forward pass, and of the stored image embeddings unless `store.precision`
    changes it."""


@dataclass(frozen=True, kw_only=True, config=strict)
class EncodersConfig:
    """The two frozen models."""

    root: Folder | None = None
    """Folder with the checkpoints of both models."""
    llava: LlavaConfig = field(default_factory=LlavaConfig)
    """The multimodal LLM."""
    sam: SamConfig = field(default_factory=SamConfig)
    """Segment Anything."""


@dataclass(frozen=True, kw_only=True, config=strict)
class PrecisionConfig:
    """How each group of features is stored.

    `model` keeps the precision of the forward pass; `fp8` and `int8` take about half the bytes.
    Both have a scale per token; `int8` stores the strongest channels separately.
    """

    hidden_states: Precision = "model"
    """Precision of the hidden states of the multimodal LLM."""
    image_embeddings: Precision = "model"
    """Precision of SAM's image embeddings."""


@dataclass(frozen=True, kw_only=True, config=strict)
class StoreConfig:
    """Layout of a store."""

    shard_size: Positive = 256
    """Images in one shard, the unit of work and of commit."""
    format: StoreFormat = "zarr"
    """`zarr` for arrays, `webdataset` for tar files that can be streamed."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """Precision of the stored features."""


@dataclass(frozen=True, kw_only=True, config=strict)
class WorkersConfig:
    """How an extraction runs. These settings change features by rounding at most."""

    count: Positive | None = None
    """Worker processes. Empty: one per GPU, or as many as CPU cores and memory allow, and more when
    the cluster grows. N: an autoscaling cluster grows until it has room for N."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`cuda` or `cpu`; `auto` uses GPUs if the cluster has one at the start."""
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """Share of a GPU that a worker uses on a GPU."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    """CPU cores that a worker uses. Empty: `threads_per_worker`, or one core for a worker on a
    GPU."""
    memory_gb_per_worker: Annotated[float, Field(gt=0)] | None = None
    """Memory in GB (1e9 bytes) that is reserved for a worker; none if empty."""
    threads_per_worker: Positive = 1
    """CPU threads of a worker's model."""
    decode_threads: Positive | None = None
    """Threads of a worker that read and resize images ahead of the model. Empty: its share of the
    cores of its machine, at most 8."""
    images_per_batch: Positive | None = None
    """Images that a model processes at once; 4 on a GPU and 1 on CPUs if empty. Rounding depends on
    it: the same bytes need the same value."""
    compile: bool = False
    """Compile the models with torch.compile: on an H100 a third faster, after a minute in which
    every worker compiles. Rounding depends on it."""
    deterministic: bool = False
    """Use only kernels that give the same bits in every run on the same kind of device, and end
    with an error where PyTorch has none. Recorded with every shard."""
    mixed_devices: Literal["refuse", "allow"] = "refuse"
    """Whether a store may have shards of several kinds of devices, whose features differ by
    rounding."""
    max_consecutive_failures: Positive = 20
    """Stop after N images in a row that failed."""


@dataclass(frozen=True, kw_only=True, config=strict)
class ExtractConfig:
    """Settings of `lens-cache extract`: which data, which models, which layout."""

    presets: ClassVar[str] = "extract"

    data: DataConfig = field(default_factory=DataConfig)
    """Which images and instructions go into the store."""
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    """The two frozen models."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Layout of the store."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """How the extraction runs."""
