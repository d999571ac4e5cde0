"""Every setting, with the paper's values as defaults.

A YAML file lists departures from these defaults; ``config_file.load_config`` reads it. Paths of
stores and runs are not settings: they stand on the command line.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lens_cache.config.data import DataConfig
from lens_cache.config.fields import Dtype, Positive, Precision, StoreFormat, _strict


@dataclass(frozen=True, kw_only=True, config=_strict)
class LlavaConfig:
    """The frozen multimodal LLM.

    Attributes:
        checkpoint: A Hugging Face hub id or a local folder (relative to ``encoders.root`` if set).
        revision: Branch, tag or commit of a hub id.
        layers: Tapped layers: ``hidden_states[layer]``, the input of decoder layer ``layer``.
        dtype: Precision of the forward pass, and of the stored states unless ``store.precision``
            says otherwise.
    """

    checkpoint: str = "llava-hf/llava-1.5-7b-hf"
    revision: str | None = None
    layers: tuple[Positive, ...] = (14,)
    dtype: Dtype = "bfloat16"


@dataclass(frozen=True, kw_only=True, config=_strict)
class SamConfig:
    """The frozen Segment Anything model.

    Attributes:
        checkpoint: A ``.pth`` file, a folder that holds exactly one, or a hub id
            ``owner/name[/file.pth]`` (files relative to ``encoders.root`` if set).
        revision: Branch, tag or commit of a hub id.
        dtype: Precision of the forward pass, and of the stored embeddings unless
            ``store.precision`` says otherwise.
    """

    checkpoint: str = "ybelkada/segment-anything/checkpoints/sam_vit_h_4b8939.pth"
    revision: str | None = None
    dtype: Dtype = "bfloat16"


@dataclass(frozen=True, kw_only=True, config=_strict)
class EncodersConfig:
    """The two frozen models; ``root`` is a folder that holds their checkpoints."""

    root: Path | None = None
    llava: LlavaConfig = field(default_factory=LlavaConfig)
    sam: SamConfig = field(default_factory=SamConfig)


@dataclass(frozen=True, kw_only=True, config=_strict)
class PrecisionConfig:
    """How each group of features is stored: ``model`` as the model gives it, or in half the bytes.

    ``fp8`` and ``int8`` have a scale per token; ``int8`` keeps the strongest channels apart.
    """

    hidden_states: Precision = "model"
    image_embeddings: Precision = "model"


@dataclass(frozen=True, kw_only=True, config=_strict)
class StoreConfig:
    """Layout of a store.

    Attributes:
        shard_size: Images in one shard, the unit of work and commit.
        format: ``zarr`` for arrays, ``webdataset`` for tars that can be streamed.
        precision: Of the stored features.
    """

    shard_size: Positive = 256
    format: StoreFormat = "zarr"
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)


@dataclass(frozen=True, kw_only=True, config=_strict)
class WorkersConfig:
    """How an extraction runs; no feature depends on it but for rounding in its last bits.

    Attributes:
        count: Worker processes; empty means one per GPU, or as many as CPU cores and memory allow,
            and more as the cluster grows. A number is what an autoscaling cluster grows towards.
        device: ``cuda`` or ``cpu``; ``auto`` takes GPUs if the cluster has one at the start.
        gpus_per_worker: Share of a GPU that a worker takes, where there is a GPU.
        cpus_per_worker: CPU cores that a worker takes; empty means ``threads_per_worker``, or one
            beside a GPU.
        memory_gb_per_worker: Memory in GB (1e9 bytes) that a worker takes; empty reserves none.
        threads_per_worker: CPU threads of a worker's model.
        decode_threads: Threads that read and resize images ahead of the model.
        images_per_batch: Images that a model runs at once; empty means 4 on a GPU and 1 on CPUs.
            Rounding depends on it: give the same again to extract the same bytes.
        compile: Let torch.compile make the models' kernels; pays on long runs only. Rounding
            depends on it too.
        max_consecutive_failures: Stop after so many images failed one after another.
    """

    count: Positive | None = None
    device: Literal["auto", "cuda", "cpu"] = "auto"
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    memory_gb_per_worker: Annotated[float, Field(gt=0)] | None = None
    threads_per_worker: Positive = 1
    decode_threads: Positive = 2
    images_per_batch: Positive | None = None
    compile: bool = False
    max_consecutive_failures: Positive = 20


@dataclass(frozen=True, kw_only=True, config=_strict)
class ExtractConfig:
    """Phase 1: what is extracted, with which models, into which layout."""

    data: DataConfig = field(default_factory=DataConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
