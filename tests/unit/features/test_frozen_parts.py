import dataclasses

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from lens_cache.errors import CheckpointError, StoreError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.sam_architecture import SamArchitecture
from tests.support.tiny import SAM, sam_weights, tiny_frozen_parts


def _sam_shapes(window_size=0, global_blocks=(0, 1)):
    encoder = ImageEncoderViT(
        img_size=SAM.image_size,
        patch_size=SAM.patch_size,
        embed_dim=SAM.embed_dim,
        depth=SAM.depth,
        num_heads=SAM.num_heads,
        out_chans=SAM.transformer_dim,
        use_rel_pos=True,
        window_size=window_size,
        global_attn_indexes=global_blocks,
    )
    weights = {f"image_encoder.{k}": v for k, v in encoder.state_dict().items()}
    return {name: tuple(w.shape) for name, w in {**weights, **sam_weights()}.items()}


def test_a_saved_folder_reads_back(tmp_path):
    frozen = tiny_frozen_parts(layers=(1, 2))
    frozen.save(tmp_path / "frozen")
    back = FrozenParts.load(tmp_path / "frozen")
    for name in ("text_config", "grid", "sam_architecture"):
        assert getattr(back, name) == getattr(frozen, name)
    assert back.decoder_layers.keys() == {1, 2}
    for layer, weights in frozen.decoder_layers.items():
        assert all(torch.equal(back.decoder_layers[layer][n], w) for n, w in weights.items())
    assert back.sam.keys() == frozen.sam.keys()
    assert all(torch.equal(back.sam[n], w) for n, w in frozen.sam.items())


@pytest.mark.parametrize("name", ["config.json", "sam.safetensors", "decoder_layers_1.safetensors"])
def test_a_missing_file_is_a_store_error(tmp_path, name):
    tiny_frozen_parts().save(tmp_path / "frozen")
    (tmp_path / "frozen" / name).unlink()
    with pytest.raises(StoreError, match=r"reading the frozen weights of a store: .* is missing"):
        FrozenParts.load(tmp_path / "frozen")


@pytest.mark.parametrize(("window_size", "global_blocks"), [(0, (0, 1)), (3, (1,)), (5, ())])
def test_sizes_are_read_from_shapes(window_size, global_blocks):
    expected = dataclasses.replace(SAM, window_size=window_size, global_blocks=global_blocks)
    assert SamArchitecture.from_shapes(_sam_shapes(window_size, global_blocks)) == expected


def test_a_checkpoint_of_something_else_is_refused():
    with pytest.raises(CheckpointError, match=r"expected the weight 'image_encoder\.patch_embed"):
        SamArchitecture.from_shapes({"weight": (1, 2)})
