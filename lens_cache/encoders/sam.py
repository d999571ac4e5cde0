"""SAM's image encoder, frozen, from a segment-anything ``.pth`` of any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT, Sam
from torch import Tensor, nn

from lens_cache.encoders.sam_attention import replace_attention
from lens_cache.encoders.sam_checkpoint import GIVE_A_SAM, load_state, read_architecture
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.features.sam_modules import build_prompt_encoder_and_mask_decoder
from lens_cache.features.transfer import Transfer
from lens_cache.features.weights import load_strict
from lens_cache.images.geometry import resized_size

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
_ENCODER = "image_encoder."


def build_image_encoder(sizes: SamArchitecture) -> ImageEncoderViT:
    """Build segment-anything's image encoder of the given sizes, with random weights."""
    return ImageEncoderViT(
        depth=sizes.depth,
        embed_dim=sizes.embed_dim,
        img_size=sizes.image_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=sizes.num_heads,
        patch_size=sizes.patch_size,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=sizes.global_blocks,
        window_size=sizes.window_size,
        out_chans=sizes.transformer_dim,
    )


def build_sam(sizes: SamArchitecture) -> Sam:
    """Build segment-anything's whole SAM of the given sizes, with random weights."""
    image_encoder = build_image_encoder(sizes)
    prompt_encoder, mask_decoder = build_prompt_encoder_and_mask_decoder(sizes)
    return Sam(
        image_encoder=image_encoder,
        prompt_encoder=prompt_encoder,
        mask_decoder=mask_decoder,
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    ).eval()


class SamEncoder:
    """SAM's frozen image encoder, without prompt encoder and mask decoder.

    Attributes:
        sizes: Sizes of the SAM.
        dtype: Precision of the weights, the forward pass and the result.
        device: Where the model runs.
    """

    def __init__(
        self,
        model: ImageEncoderViT,
        sizes: SamArchitecture,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        fused: bool | None = None,
    ) -> None:
        """Wrap a model with its weights.

        Args:
            model: The image encoder; modified in place.
            sizes: Its sizes.
            dtype: Precision of the forward pass.
            device: Where it runs.
            fused: Use a fused kernel that does not write the attention matrix; default: on GPUs,
                where memory bandwidth limits attention. If false, the results are bit-identical to
                segment-anything's.
        """
        self.sizes = sizes
        self.dtype = dtype
        self.device = torch.device(device)
        self.model = model.to(self.device, dtype).eval().requires_grad_(False)
        if fused is None:
            fused = self.device.type == "cuda"
        replace_attention(self.model, fused=fused)
        self._transfer = Transfer(self.device)
        self._mean = torch.tensor(PIXEL_MEAN, device=self.device)[:, None, None]  # (3, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=self.device)[:, None, None]  # (3, 1, 1)

    @classmethod
    def from_checkpoint(
        cls,
        path: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        fused: bool | None = None,
    ) -> SamEncoder:
        """Load the image encoder from a SAM checkpoint.

        Raises:
            CheckpointError: If the file is missing, corrupt or not a SAM, or a weight does not fit.
        """
        state = load_state(path)
        sizes = read_architecture(state, path)
        with torch.device("meta"):
            model = build_image_encoder(sizes)
        weights = {
            name.removeprefix(_ENCODER): value
            for name, value in state.items()
            if name.startswith(_ENCODER)
        }
        model = model.to(dtype).to_empty(device="cpu")
        load_strict(model, weights, f"loading SAM's image encoder from {path}", GIVE_A_SAM)
        return cls(model, sizes, dtype=dtype, device=device, fused=fused)

    @property
    def image_size(self) -> int:
        """Side of the square that ``encode`` takes, in pixels (1024)."""
        return self.sizes.image_size

    def compile(self) -> None:
        """Compile the blocks with ``torch.compile``; the first batches then take longer.

        Every batch size has kernels of its own, so that bits do not depend on earlier batches.
        """
        for block in self.model.blocks:
            block.compile(dynamic=False)

    def encode(self, square: NDArray[np.uint8], *, width: int, height: int) -> Tensor:
        """Embed one image.

        Args:
            square: From ``geometry.image_to_square``, shape (image_size, image_size, 3).
            width: Width of the image in pixels, before it was resized into the square.
            height: Height of the image in pixels.

        Returns:
            Image embedding of shape (C, h, w), in the encoder's dtype and on its device.

        Raises:
            ValueError: If ``square`` has another shape.
        """
        return self.encode_batch([square], [(width, height)])[0]

    @torch.inference_mode()
    def encode_batch(
        self, squares: Sequence[NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Embed B images.

        SAM normalises before it pads, so padding is zero in the normalised square, not black. The
        sizes of the images tell where the padding of a square begins.

        Args:
            squares: From ``geometry.image_to_square``, shapes (image_size, image_size, 3).
            sizes: (width, height) of each image in pixels, before it was resized into the square.

        Returns:
            Image embeddings of shape (B, C, h, w), in the encoder's dtype and on its device.

        Raises:
            ValueError: If a square has another shape.
        """
        side = self.image_size
        for square in squares:
            if square.shape != (side, side, 3):
                raise ValueError(f"square must have shape {(side, side, 3)}, got {square.shape}")
        resized = torch.tensor([resized_size(width, height, side) for width, height in sizes])
        pixels = self._transfer.upload(torch.from_numpy(np.stack(squares)))  # (B, side, side, 3)
        resized = self._transfer.upload(resized)[:, :, None, None]  # (B, 2, 1, 1)
        widths, heights = resized.unbind(1)

        # Normalise, then set the padding to zero.
        index = torch.arange(side, device=self.device)
        is_image = (index[:, None] < heights) & (index < widths)  # (B, side, side)
        normalised = (pixels.permute(0, 3, 1, 2) - self._mean) / self._std  # (B, 3, side, side)
        normalised = torch.where(is_image[:, None], normalised, 0).contiguous()
        embeddings: Tensor = self.model(normalised.to(self.dtype))
        return embeddings
