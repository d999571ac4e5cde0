"""The sizes of a SAM, read from the shapes of its weights.

ViT-H, ViT-L, ViT-B and smaller SAMs differ only in sizes, and every size can be read from the state
dict. So no model name is configured, and a checkpoint cannot be loaded as the wrong model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lens_cache.errors import CheckpointError

# Cannot be read from any shape; the same in every published SAM.
MASK_DECODER_HEADS = 8


@dataclass(frozen=True, kw_only=True)
class SamArchitecture:
    """Sizes of a SAM.

    Attributes:
        image_size: Side of the square input in pixels (1024).
        patch_size: Side of a patch in pixels (16).
        embed_dim: Width of the image encoder (1280 for ViT-H).
        depth: Blocks of the image encoder.
        num_heads: Attention heads of a block.
        window_size: Side of a local attention window, in patches; 0 if every block is global.
        global_blocks: Indices of the blocks with global attention.
        transformer_dim: Channels of the image embedding and of the prompts (256).
        decoder_depth: Two-way blocks of the mask decoder (2).
        decoder_mlp_dim: Hidden width of their MLP (2048).
        mask_in_chans: Hidden channels of the prompt encoder's mask input (16).
        num_multimask_outputs: Masks in addition to the single-mask output (3).
        iou_head_depth: Layers of the mask decoder's quality head (3).
        iou_head_hidden_dim: Hidden width of the quality head (256).
    """

    image_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    window_size: int
    global_blocks: tuple[int, ...]
    transformer_dim: int
    decoder_depth: int
    decoder_mlp_dim: int
    mask_in_chans: int
    num_multimask_outputs: int
    iou_head_depth: int
    iou_head_hidden_dim: int

    @property
    def embedding_size(self) -> int:
        """Side of the image embedding in cells (64)."""
        return self.image_size // self.patch_size

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> SamArchitecture:
        """Read the sizes from the shapes of a SAM state dict.

        Raises:
            CheckpointError: If a weight that every SAM has is missing.
        """
        try:
            return cls._read(shapes)
        except KeyError as error:
            raise CheckpointError(
                f"reading a SAM checkpoint: expected the weight {error.args[0]!r}, found "
                f"{len(shapes)} weights without it; give a segment-anything .pth of ViT-H, L or B"
            ) from None

    @classmethod
    def _read(cls, shapes: Mapping[str, tuple[int, ...]]) -> SamArchitecture:
        encoder = "image_encoder."
        decoder = "mask_decoder."
        embed_dim, _, patch_size, _ = shapes[encoder + "patch_embed.proj.weight"]
        grid = shapes[encoder + "pos_embed"][1]
        depth = _count(shapes, encoder + "blocks.")
        # A block has 2 n - 1 relative positions over n rows: the whole grid, or one window.
        spans = [(shapes[f"{encoder}blocks.{i}.attn.rel_pos_h"][0] + 1) // 2 for i in range(depth)]
        head_dim = shapes[encoder + "blocks.0.attn.rel_pos_h"][1]
        windows = {span for span in spans if span != grid}
        return cls(
            image_size=grid * patch_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=embed_dim // head_dim,
            window_size=windows.pop() if windows else 0,
            global_blocks=tuple(i for i, span in enumerate(spans) if span == grid),
            transformer_dim=shapes[decoder + "iou_token.weight"][1],
            decoder_depth=_count(shapes, decoder + "transformer.layers."),
            decoder_mlp_dim=shapes[decoder + "transformer.layers.0.mlp.lin1.weight"][0],
            mask_in_chans=shapes["prompt_encoder.mask_downscaling.3.weight"][0],
            num_multimask_outputs=shapes[decoder + "mask_tokens.weight"][0] - 1,
            iou_head_depth=_count(shapes, decoder + "iou_prediction_head.layers."),
            iou_head_hidden_dim=shapes[decoder + "iou_prediction_head.layers.0.weight"][0],
        )


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Count the numbered modules under a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})
