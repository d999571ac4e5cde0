"""LENS: head, keypoints, descriptor and prompted decoder in one (paper figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from lens_cache.config.train import ModelConfig
from lens_cache.errors import CheckpointError, ConfigError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.types import Features, Segmentation
from lens_cache.images.geometry import grid_to_normalised
from lens_cache.models.decoder import PromptedDecoder
from lens_cache.models.descriptor import DescriptorModel
from lens_cache.models.head import SegmentationHead
from lens_cache.models.keypoints import refine_keypoints, sample_neighbourhood, select_keypoints


class LensModel(nn.Module):
    """The trainable modules and the frozen decoder that they prompt.

    Weights are float32; run it under ``torch.autocast`` for mixed precision. Only what is trained
    requires a gradient.

    Args:
        config: The settings; the ablations of Table 2 are among them.
        frozen: What the store keeps of the frozen models.

    Attributes:
        layer: The cached layer that the head reads.

    Raises:
        ConfigError: If settings contradict each other or the frozen models.
        CheckpointError: If frozen weights are missing or do not fit.
    """

    def __init__(self, config: ModelConfig, frozen: FrozenParts) -> None:
        super().__init__()
        if not (config.use_keypoints or config.use_global):
            raise ConfigError(
                "building LENS: model.use_keypoints and model.use_global are both off, so nothing "
                "would prompt SAM; switch one on"
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
    ) -> Segmentation:
        """Answer every question of a batch.

        Args:
            features: B images with Q questions in all.
            generator: Draws which questions see only the global description, in training (S1.4);
                PyTorch's own if not given.

        Returns:
            Masks over the square, grounding maps and keypoints, question by question.
        """
        head = self.head(features)
        cells, keypoint_mask = self._find_keypoints(head.grounding_map)
        neighbourhoods = sample_neighbourhood(
            head.image_features.unflatten(1, self.grid),
            cells,
            head.image,
            self.config.neighbourhood,
        )
        descriptions, global_description = self.descriptor(
            head.start_of_answer, neighbourhoods, keypoint_mask
        )
        # A step of Newton may leave the grid by a cell; a point outside the square means nothing.
        keypoints = grid_to_normalised(cells, self.grid, self.config.coordinates).clamp(0, 1)
        low_res_logits = self.decoder(
            descriptions,
            global_description,
            keypoints,
            self._token_mask(keypoint_mask, generator),
            features.image_embeddings,
            head.image,
        )
        return Segmentation(
            low_res_logits=low_res_logits,
            grounding_map=head.grounding_map,
            keypoints=keypoints,
            keypoint_mask=keypoint_mask,
        )

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of the head's layers and of the decoder for the backward pass.

        What they compute is computed there again.
        """
        modules: list[Any] = [*self.head.network.layers, self.decoder]
        for module in modules:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)

    def compile_parts(self) -> None:
        """Let torch.compile make kernels; the first batches of each form then take longer."""
        self.head.compile_layers()
        self.descriptor.compile(dynamic=True)
        self.decoder.compile(dynamic=True)

    def shard(self, mesh: DeviceMesh) -> None:
        """Let each of several devices hold a part of every weight, gradient and optimizer state.

        Args:
            mesh: The devices, in one dimension.
        """
        for module in (*self.head.network.layers, self.descriptor, self):
            fully_shard(module, mesh=mesh)

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return only what is trained: everything else stands in ``FrozenParts``."""
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load_trainable_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Load what ``trainable_state_dict`` returned.

        Raises:
            CheckpointError: If a weight is missing, unknown or of the wrong shape.
        """
        doing = "loading trained LENS weights"
        own = self.trainable_state_dict()
        if own.keys() != weights.keys():
            missing, unknown = (
                sorted(own.keys() - weights.keys()),
                sorted(weights.keys() - own.keys()),
            )
            raise CheckpointError(
                f"{doing}: expected {len(own)} weights, found {len(weights)}; missing: "
                f"{_shorten(missing)}; unknown: {_shorten(unknown)}; was it trained with the same "
                "model settings?"
            )
        for name, weight in weights.items():
            if weight.shape != own[name].shape:
                raise CheckpointError(
                    f"{doing}: {name} should have shape {tuple(own[name].shape)}, found "
                    f"{tuple(weight.shape)}; was it trained on the same MLLM?"
                )
        self.load_state_dict(dict(weights), strict=False)

    def _find_keypoints(self, grounding_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return sub-pixel (x, y) in cells, shape (Q, m, 2), and which exist, shape (Q, m)."""
        heatmap = grounding_map.detach()
        cells, keypoint_mask = select_keypoints(
            heatmap,
            max_keypoints=self.config.max_keypoints,
            radius=self.config.nms_radius,
            threshold=self.config.keypoint_threshold,
        )
        return refine_keypoints(heatmap, cells), keypoint_mask

    def _token_mask(self, keypoint_mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return which of the m keypoints and the global description prompt SAM, (Q, m + 1)."""
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
        ConfigError: If the settings name none and the store does not hold exactly one.
    """
    if config.layer is not None:
        return config.layer
    choices = sorted(frozen.decoder_layers)
    if len(choices) != 1:
        raise ConfigError(
            f"building LENS: the store holds weights of layers {choices}; choose one by model.layer"
        )
    return choices[0]


def _shorten(names: list[str], limit: int = 3) -> str:
    return (", ".join(names[:limit]) + (", ..." if len(names) > limit else "")) or "none"
