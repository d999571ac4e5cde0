"""The frozen parts: weights of the frozen models that training needs, as safetensors in the store.

They make a store self-contained: a head can be built, warm-started and trained on a machine
without the multimodal LLM and without SAM's image encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lens_cache.errors import LensCacheError, StoreError, one_line
from lens_cache.features.sam_architecture import SamArchitecture

CONFIG_FILE = "config.json"
SAM_FILE = "sam.safetensors"
_READ = methodcaller("read_bytes")
# The end of an error message about frozen weights that do not fit.
REWRITE_FROZEN_PARTS = (
    "delete the folder frozen/ of the store and run `lens-cache extract` on the store again"
)


@dataclass(frozen=True, kw_only=True)
class FrozenParts:
    """The frozen weights that a LENS model starts from or uses unchanged.

    Attributes:
        text_config: The MLLM's text configuration, as in its ``config.json``.
        grid: (rows, columns) of the image tokens.
        sam_architecture: Sizes of the SAM.
        decoder_layers: For each tapped layer L the weights of the MLLM's decoder layers L and L+1,
            named ``0.<name in the layer>`` and ``1.<name in the layer>``. L has no entry if the
            MLLM has no layer L+1.
        sam: Weights of SAM's prompt encoder and mask decoder, named as in a SAM checkpoint.
    """

    text_config: dict[str, Any]
    grid: tuple[int, int]
    sam_architecture: SamArchitecture
    decoder_layers: Mapping[int, Mapping[str, Tensor]]
    sam: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write into a folder, which is created if missing; the configuration is written last."""
        folder.mkdir(parents=True, exist_ok=True)
        for layer, weights in self.decoder_layers.items():
            (folder / _layer_file(layer)).write_bytes(save(_contiguous(weights)))
        (folder / SAM_FILE).write_bytes(save(_contiguous(self.sam)))
        config = {
            "text_config": self.text_config,
            "grid": list(self.grid),
            "sam_architecture": asdict(self.sam_architecture),
            "layers": sorted(self.decoder_layers),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, read: Callable[[Path], bytes] = _READ) -> FrozenParts:
        """Read a folder written by ``save``.

        Args:
            folder: The folder.
            read: Returns the bytes of a file; a store checks them.

        Raises:
            StoreError: If the folder or one of its files is missing or damaged.
        """
        try:
            config = json.loads(read(folder / CONFIG_FILE))
            architecture = config["sam_architecture"]
            architecture["global_blocks"] = tuple(architecture["global_blocks"])
            return cls(
                text_config=config["text_config"],
                grid=(config["grid"][0], config["grid"][1]),
                sam_architecture=SamArchitecture(**architecture),
                decoder_layers={n: load(read(folder / _layer_file(n))) for n in config["layers"]},
                sam=load(read(folder / SAM_FILE)),
            )
        except FileNotFoundError as error:
            raise StoreError(
                f"reading the frozen weights of a store: {error.filename or folder} is missing; "
                f"{REWRITE_FROZEN_PARTS}"
            ) from None
        except LensCacheError:
            raise
        except (SafetensorError, ValueError, TypeError, LookupError) as error:
            raise StoreError(
                f"reading the frozen weights of a store: {folder} is damaged ({one_line(error)}); "
                f"{REWRITE_FROZEN_PARTS}"
            ) from None


def _layer_file(layer: int) -> str:
    return f"decoder_layers_{layer}.safetensors"


def _contiguous(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that share no memory, as safetensors requires."""
    return {name: weight.detach().cpu().contiguous().clone() for name, weight in weights.items()}
