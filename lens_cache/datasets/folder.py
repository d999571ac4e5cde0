"""Images and masks in folders, without any list.

    root/images/NAME.jpg  and  root/masks/NAME.png              the instruction is data.instruction
    root/images/NAME.jpg  and  root/masks/INSTRUCTION/NAME.png  one folder for each instruction
    root/SPLIT/images/NAME.jpg  and  root/SPLIT/masks/...       the same in splits

A mask belongs to the image with its name; both forms may be mixed. An underscore in the name of an
instruction's folder is a space. Without folders of splits the split is ``train``. Images are sorted
by split and name. An image without a mask is not part of the dataset and does not count towards
``limit``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import (
    ImageRecord,
    QueryRecord,
    Rejected,
    SegmentationDataset,
    dataset_root,
)
from lens_cache.datasets.mask_parsing import check_not_empty, mask_from_file
from lens_cache.datasets.questions import is_long
from lens_cache.errors import ConfigError, DatasetError, one_line
from lens_cache.images.files import IMAGE_SUFFIXES, files_in

IMAGES, MASKS = "images", "masks"
_MASK_SUFFIXES = {".png", ".bmp", ".tif", ".tiff"}


class FolderDataset(SegmentationDataset):
    """The images of a folder that have masks; see the module docstring.

    Raises:
        ConfigError: If the split does not exist, or masks need an instruction and none is set.
        DatasetError: If there are no folders of images and masks.
    """

    name = "folder"
    source = PurePosixPath(".")

    def __init__(self, config: DataConfig) -> None:
        self._root = dataset_root(config)
        self._instruction = config.instruction
        self._splits = _splits(self._root, config.split)
        images: list[tuple[str, PurePosixPath, list[tuple[str, PurePosixPath]]]] = []
        rejected: list[Rejected] = []
        for split, folder in self._splits.items():
            masks = self._masks(folder)
            for stem, path in self._images(folder, rejected).items():
                if stem in masks:
                    images.append((split, path, masks.pop(stem)))
            rejected += [
                Rejected(f"mask {mask}", f"no image in {folder / IMAGES} has its name")
                for left in masks.values()
                for _, mask in left
            ]
        self._records = images[: config.limit]
        self.rejected = tuple(rejected)

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The folders whose subfolders are the instructions."""
        return tuple(folder / MASKS for folder in self._splits.values())

    @property
    def mask_files(self) -> Iterator[PurePosixPath]:
        """The files of masks."""
        return (mask for _, _, masks in self._records for _, mask in masks)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> ImageRecord:
        split, path, masks = self._records[index]
        queries: list[QueryRecord] = []
        rejected: list[Rejected] = []
        for instruction, mask in masks:
            try:
                target = mask_from_file(self._root / mask)
                check_not_empty(target)
            except ValueError as error:
                rejected.append(Rejected(f"mask {mask}", one_line(error)))
                continue
            queries.append(
                QueryRecord(
                    instruction=instruction,
                    kind="referring",
                    length="long" if is_long(instruction) else "short",
                    split=split,
                    target=target,
                    ignore=None,
                )
            )
        return ImageRecord(path, self.name, tuple(queries), tuple(rejected))

    def _images(self, folder: PurePosixPath, rejected: list[Rejected]) -> dict[str, PurePosixPath]:
        """Return the images of a split by their name without suffix, sorted."""
        found: dict[str, PurePosixPath] = {}
        for name in files_in(self._root / folder / IMAGES, IMAGE_SUFFIXES):
            path = folder / IMAGES / name
            other = found.setdefault(path.stem, path)
            if other != path:
                rejected.append(Rejected(f"image {path}", f"{other.name} has the same name"))
        return found

    def _masks(self, folder: PurePosixPath) -> dict[str, list[tuple[str, PurePosixPath]]]:
        """Return the masks of a split by name without suffix, each with its instruction."""
        found: dict[str, list[tuple[str, PurePosixPath]]] = {}
        masks = self._root / folder / MASKS
        for name in files_in(masks, _MASK_SUFFIXES):
            if self._instruction is None:
                raise ConfigError(
                    f"opening the folder dataset {self._root}: {folder / MASKS / name} is in no "
                    "folder that names its instruction; set data.instruction, or put it into "
                    f"{MASKS}/INSTRUCTION/"
                )
            path = folder / MASKS / name
            found.setdefault(path.stem, []).append((self._instruction, path))
        for entry in sorted(path for path in masks.iterdir() if path.is_dir()):
            for name in files_in(entry, _MASK_SUFFIXES):
                path = folder / MASKS / entry.name / name
                instruction = entry.name.replace("_", " ").strip()
                found.setdefault(path.stem, []).append((instruction, path))
        return found


def _splits(root: Path, wanted: str | None) -> dict[str, PurePosixPath]:
    """Return the splits of a root and their folders, relative to it."""
    if _is_pair(root):
        found = {"train": PurePosixPath(".")}
    else:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        found = {path.name: PurePosixPath(path.name) for path in folders if _is_pair(path)}
    if not found:
        raise DatasetError(
            f"opening the folder dataset {root}: expected the folders {IMAGES} and {MASKS}, or "
            f"SPLIT/{IMAGES} and SPLIT/{MASKS}, found neither"
        )
    if wanted is None:
        return found
    if wanted not in found:
        raise ConfigError(
            f"opening the folder dataset {root}: data.split={wanted} is not a split; splits found: "
            f"{', '.join(found)}"
        )
    return {wanted: found[wanted]}


def _is_pair(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()
