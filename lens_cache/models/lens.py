"""The LENS model: head, keypoints, descriptor and prompted decoder together (paper figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from lens_cache.config.train import ModelConfig
from lens_cache.errors import ConfigError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.types import Features, LensOutput
from lens_cache.images.geometry import grid_to_normalised
from lens_cache.models.decoder import Clicks, PromptedDecoder
from lens_cache.models.descriptor import DescriptorModel
from lens_cache.models.head import SegmentationHead
from lens_cache.models.keypoints import refine_keypoints, sample_neighbourhood, select_keypoints


@dataclass(frozen=True)
class LensPrompts:
    """What LENS prompts SAM with, for Q questions.

    Attributes:
        grounding_map: See ``LensOutput``.
        keypoints: See ``LensOutput``.
        keypoint_mask: See ``LensOutput``.
        descriptions: Descriptions of the m keypoints, shape (Q, m, C).
        global_description: Shape (Q, C).
        token_mask: Which of the m keypoints and, last, the global description prompt SAM; bool,
            shape (Q, m + 1).
        image: Index of each question's image, int64, shape (Q,).
    """

    grounding_map: Tensor
    keypoints: Tensor
    keypoint_mask: Tensor
    descriptions: Tensor
    global_description: Tensor
    token_mask: Tensor
    image: Tensor


class LensModel(nn.Module):
    """The trainable modules and the frozen SAM decoder that they prompt.

    Weights are float32; use ``torch.autocast`` for mixed precision. Exactly the trainable weights
    require a gradient.

    Args:
        config: The settings, with the ablations of Table 2 among them.
        frozen: The frozen parts of a store: ``Store(path).frozen()``, or ``FrozenParts.load``.

    Attributes:
        layer: The cached layer that the head reads.

    Raises:
        ConfigError: If settings contradict each other or the frozen parts.
        CheckpointError: If frozen weights are missing or do not fit.

    Example:
        >>> store = Store("runs/demo/store")
        >>> model = LensModel(ModelConfig(), store.frozen())
        >>> features = Features.stack([store.read(0, [0], model.layer)])
        >>> logits = model(features).low_res_logits  # (1, 256, 256)
    """

    def __init__(self, config: ModelConfig, frozen: FrozenParts) -> None:
        super().__init__()
        if not (config.use_keypoints or config.use_global):
            raise ConfigError(
                "building LENS: model.use_keypoints and model.use_global are both false, so there "
                "is no prompt for SAM; set one of them to true"
            )
        self.config = config
        self.grid = frozen.grid
        self.layer = resolve_layer(config, frozen)
        self.head = SegmentationHead(config, frozen, self.layer)
        text = self.head.network.config
        self.descriptor = DescriptorModel(
            hidden_size=text.hidden_size,
            num_heads=config.num_descriptor_heads or text.num_attention_heads,
            intermediate_size=text.intermediate_size,
            prompt_dim=frozen.sam_architecture.transformer_dim,
        )
        self.decoder = PromptedDecoder(
            frozen.sam_architecture, frozen.sam, train_mask_decoder=config.train_mask_decoder
        )

    def forward(
        self, features: Features, *, generator: torch.Generator | None = None
    ) -> LensOutput:
        """Segment the answer to every question of a batch.

        Args:
            features: B images with Q questions in all.
            generator: In training mode, draws the questions that are prompted by the global
                description alone (S1.4); PyTorch's default generator if not given.

        Returns:
            Mask logits over the square, grounding maps and keypoints of each question.
        """
        prompts = self.prompts(features, generator=generator)
        return self.decode(prompts, features.image_embeddings)

    def prompts(
        self, features: Features, *, generator: torch.Generator | None = None
    ) -> LensPrompts:
        """Turn every question of a batch into prompts for SAM; arguments as for ``forward``."""
        # Segmentation head: grounding map and refined features.
        head = self.head(features)

        # Keypoints: peaks of the grounding map.
        cells, keypoint_mask = self._find_keypoints(head.grounding_map)
        # A Newton step may leave the grid by up to a cell; keypoints must be inside the square.
        keypoints = grid_to_normalised(cells, self.grid, self.config.coordinates).clamp(0, 1)

        # Descriptor: is each keypoint part of the answer?
        neighbourhoods = sample_neighbourhood(
            head.image_features.unflatten(1, self.grid),
            cells,
            head.image,
            self.config.neighbourhood,
        )
        descriptions, global_description = self.descriptor(
            head.start_of_answer, neighbourhoods, keypoint_mask
        )
        return LensPrompts(
            grounding_map=head.grounding_map,
            keypoints=keypoints,
            keypoint_mask=keypoint_mask,
            descriptions=descriptions,
            global_description=global_description,
            token_mask=self._token_mask(keypoint_mask, generator),
            image=head.image,
        )

    def decode(
        self, prompts: LensPrompts, image_embeddings: Tensor, clicks: Clicks | None = None
    ) -> LensOutput:
        """Run SAM's mask decoder, prompted by the descriptions at their keypoints.

        Args:
            prompts: The prompts of Q questions.
            image_embeddings: SAM's embeddings of the images, shape (B, C, h, w).
            clicks: Points of a user, in addition.
        """
        decoded = self.decoder(
            prompts.descriptions,
            prompts.global_description,
            prompts.keypoints,
            prompts.token_mask,
            image_embeddings,
            prompts.image,
            clicks,
        )
        return LensOutput(
            low_res_logits=decoded.low_res_logits,
            grounding_map=prompts.grounding_map,
            keypoints=prompts.keypoints,
            keypoint_mask=prompts.keypoint_mask,
            coordinates=self.config.coordinates,
            quality=decoded.quality,
        )

    def checkpoint_activations(self) -> None:
        """Recompute the head's layers and the decoder in the backward pass.

        Saves memory: only their inputs are stored between forward and backward.
        """
        modules: list[Any] = [*self.head.network.layers, self.decoder]
        for module in modules:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)

    def compile_parts(self) -> None:
        """Compile the parts with ``torch.compile``; the first batches of each shape take longer."""
        self.head.compile_layers()
        self.descriptor.compile(dynamic=True)
        self.decoder.compile(dynamic=True)

    def shard(self, mesh: DeviceMesh) -> None:
        """Shard weights, gradients and optimizer states over several devices (FSDP).

        Args:
            mesh: A one-dimensional mesh of the devices.
        """
        for module in (*self.head.network.layers, self.descriptor, self):
            fully_shard(module, mesh=mesh)

    def _find_keypoints(self, grounding_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return sub-pixel (x, y) in cells, shape (Q, m, 2), and which exist, bool, (Q, m)."""
        heatmap = grounding_map.detach()
        cells, keypoint_mask = select_keypoints(
            heatmap,
            max_keypoints=self.config.max_keypoints,
            radius=self.config.nms_radius,
            threshold=self.config.keypoint_threshold,
        )
        return refine_keypoints(heatmap, cells), keypoint_mask

    def _token_mask(self, keypoint_mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return which keypoints and, last, whether the global description prompt SAM.

        Bool, shape (Q, m + 1).
        """
        local = keypoint_mask & self.config.use_keypoints
        if self.training and self.config.use_global:
            device = keypoint_mask.device if generator is None else generator.device
            draw = torch.rand(len(local), generator=generator, device=device)
            global_only = (draw < self.config.global_only_probability).to(local.device)
            local = local & ~global_only[:, None]
        whole = torch.full_like(local[:, :1], self.config.use_global)
        return torch.cat([local, whole], dim=1)


def resolve_layer(config: ModelConfig, frozen: FrozenParts) -> int:
    """Return the cached layer that the head reads.

    Raises:
        ConfigError: If the settings name none and the frozen parts do not have exactly one.
    """
    if config.layer is not None:
        return config.layer
    choices = sorted(frozen.decoder_layers)
    if len(choices) != 1:
        raise ConfigError(
            f"building LENS: expected weights of one layer in the store, found those of layers "
            f"{choices}; set model.layer"
        )
    return choices[0]
