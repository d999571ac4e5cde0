"""Both frozen models of an extraction: their files, and the fingerprints of their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lens_cache.config.extract import ExtractConfig
from lens_cache.encoders import llava_checkpoint as llava_weights
from lens_cache.encoders import sam_checkpoint
from lens_cache.encoders.checkpoints import (
    pinned_revision,
    resolve_file,
    resolve_folder,
    weights_digest,
)
from lens_cache.encoders.llava import MAX_TEXT_TOKENS
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.errors import ConfigError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.sam_architecture import SamArchitecture

# Increase it when a change to this package changes the bytes of a group for the same models.
EXTRACTION_VERSION = {"hidden_states": 3, "image_embeddings": 2}


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The two frozen models of an extraction, without their weights.

    Attributes:
        llava: Folder of the Hugging Face LLaVA.
        sam: A segment-anything ``.pth``.
        prompt: LLaVA's prompt.
        text_config: LLaVA's text configuration, as plain JSON values.
        sam_architecture: Sizes of the SAM.
        fingerprints: By feature group, everything that determines its bytes.
    """

    llava: Path
    sam: Path
    prompt: LlavaPrompt
    text_config: dict[str, Any]
    sam_architecture: SamArchitecture
    fingerprints: dict[str, dict[str, Any]]

    @property
    def side(self) -> int:
        """Side of the square frame in pixels: that of SAM's input."""
        return self.sam_architecture.image_size

    def frozen_parts(self, layers: Sequence[int]) -> FrozenParts:
        """Read the weights that a LENS model starts from or uses.

        Args:
            layers: Tapped layers whose decoder layers are included, to warm-start a head.

        Raises:
            CheckpointError: If a file or a weight is missing.
        """
        return FrozenParts(
            text_config=self.text_config,
            grid=self.prompt.grid,
            sam_architecture=self.sam_architecture,
            decoder_layers=llava_weights.decoder_layer_weights(self.llava, layers),
            sam=sam_checkpoint.prompt_and_decoder_weights(self.sam),
        )

    def pinned(self, config: ExtractConfig) -> ExtractConfig:
        """Return the settings with the commits of the hub that the checkpoints were resolved to."""
        encoders = config.encoders
        llava, sam, root = encoders.llava, encoders.sam, encoders.root
        of_llava = pinned_revision(llava.checkpoint, root, self.llava) or llava.revision
        of_sam = pinned_revision(sam.checkpoint, root, self.sam) or sam.revision
        return replace(
            config,
            encoders=replace(
                encoders,
                llava=replace(llava, revision=of_llava),
                sam=replace(sam, revision=of_sam),
            ),
        )

    @classmethod
    def resolve(cls, config: ExtractConfig) -> Encoders:
        """Find both checkpoints and compute the fingerprints; loads no model.

        Raises:
            CheckpointError: If a checkpoint is missing, corrupt or of another kind.
            ConfigError: If a tapped layer does not exist.
        """
        root = config.encoders.root
        folder = resolve_folder(
            config.encoders.llava.checkpoint, root, config.encoders.llava.revision
        )
        file = resolve_file(config.encoders.sam.checkpoint, root, config.encoders.sam.revision)
        prompt = LlavaPrompt.from_folder(folder)
        architecture = sam_checkpoint.architecture(file)
        text_config = llava_weights.text_config(folder)
        layers = list(config.encoders.llava.layers)
        depth = int(text_config["num_hidden_layers"])
        if not layers or max(layers) > depth or len(set(layers)) != len(layers):
            raise ConfigError(
                f"encoders.llava.layers: expected distinct layers from 1 to {depth}, got {layers}"
            )
        fingerprints = {
            "hidden_states": {
                "weights": weights_digest(folder),
                "layers": layers,
                "prompt": prompt.text("{question}"),
                "packed_tokens": MAX_TEXT_TOKENS,
                "side": architecture.image_size,
                "dtype": config.encoders.llava.dtype,
                "attention": llava_weights.ATTENTION,
                "extraction_version": EXTRACTION_VERSION["hidden_states"],
            },
            "image_embeddings": {
                "weights": weights_digest(file),
                "side": architecture.image_size,
                "dtype": config.encoders.sam.dtype,
                "extraction_version": EXTRACTION_VERSION["image_embeddings"],
            },
        }
        return cls(
            llava=folder,
            sam=file,
            prompt=prompt,
            text_config=text_config,
            sam_architecture=architecture,
            fingerprints=fingerprints,
        )
