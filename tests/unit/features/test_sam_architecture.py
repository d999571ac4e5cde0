import dataclasses

import pytest
import torch
from segment_anything import sam_model_registry

from lens_cache.encoders.sam import build_image_encoder, build_sam
from lens_cache.errors import CheckpointError
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.toy.random_checkpoints import TINY_SAM

# Sizes as segment-anything's build_sam.py states them.
PUBLISHED = {
    "vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_blocks": (2, 5, 8, 11)},
    "vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_blocks": (5, 11, 17, 23)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_blocks": (7, 15, 23, 31)},
}
COMMON = {
    "image_size": 1024,
    "patch_size": 16,
    "window_size": 14,
    "transformer_dim": 256,
    "decoder_depth": 2,
    "decoder_mlp_dim": 2048,
    "mask_in_chans": 16,
    "num_multimask_outputs": 3,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 256,
}


def shapes(model):
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_reads_the_published_sizes(name):
    with torch.device("meta"):
        published = sam_model_registry[name]()
    sizes = SamArchitecture.from_shapes(shapes(published))
    assert dataclasses.asdict(sizes) == COMMON | PUBLISHED[name]
    assert sizes.embedding_size == 64
    with torch.device("meta"):
        assert shapes(build_sam(sizes)) == shapes(published)
        blocks = build_image_encoder(sizes).blocks
    assert [block.window_size for block in blocks] == [
        block.window_size for block in published.image_encoder.blocks
    ]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"window_size": 0, "global_blocks": (0, 1, 2, 3)},
        {"global_blocks": ()},
        {"depth": 1, "global_blocks": ()},
        {"transformer_dim": 32, "iou_head_depth": 2, "num_multimask_outputs": 1},
    ],
)
def test_sizes_survive_a_round_trip(change):
    sizes = dataclasses.replace(TINY_SAM, **change)
    with torch.device("meta"):
        assert SamArchitecture.from_shapes(shapes(build_sam(sizes))) == sizes


def test_names_the_weight_that_is_not_there():
    with torch.device("meta"):
        found = shapes(build_sam(TINY_SAM))
    del found["mask_decoder.iou_token.weight"]
    with pytest.raises(CheckpointError, match=r"'mask_decoder\.iou_token\.weight'"):
        SamArchitecture.from_shapes(found)
