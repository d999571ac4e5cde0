"""The dataset adapters by the value of ``data.kind``."""

from __future__ import annotations

from collections.abc import Callable

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import SegmentationDataset, dataset_root
from lens_cache.datasets.coco import open_coco
from lens_cache.datasets.folder import FolderDataset
from lens_cache.datasets.huggingface import HuggingfaceDataset
from lens_cache.datasets.jsonl import JsonlDataset
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.refcoco_m import RefcocoMDataset
from lens_cache.errors import DatasetError

DATASETS: dict[str, Callable[[DataConfig], SegmentationDataset]] = {
    "coco": open_coco,
    "folder": FolderDataset,
    "huggingface": HuggingfaceDataset,
    "jsonl": JsonlDataset,
    "lisa": LisaDataset,
    "refcoco_m": RefcocoMDataset,
}


def open_dataset(config: DataConfig) -> SegmentationDataset:
    """Open the dataset of a configuration.

    Raises:
        ConfigError: If a setting does not fit the dataset, such as an unknown category.
        DatasetError: If the root is missing, or the dataset cannot be read or is empty.
    """
    dataset_root(config)
    dataset = DATASETS[config.kind](config)
    if not len(dataset):
        raise DatasetError(
            f"opening the {config.kind} dataset {config.root}: {dataset.source} has no image with "
            "a usable annotation"
        )
    return dataset
