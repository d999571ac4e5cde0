import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from lens_cache.encoders.reference import PlainSam
from lens_cache.encoders.sam import SamEncoder, build_sam
from lens_cache.encoders.sam_attention import FusedAttention
from lens_cache.encoders.sam_checkpoint import architecture, prompt_and_decoder_weights
from lens_cache.errors import CheckpointError
from lens_cache.images.geometry import image_to_square
from lens_cache.toy.random_checkpoints import TINY_SAM

SIZES = [(200, 120), (120, 200), (256, 256), (640, 97), (3, 5), (1, 1), (1000, 10)]  # (w, h)


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tiny_checkpoints):
    return tiny_checkpoints / "sam.pth"


@pytest.fixture(scope="module")
def encoder(path):
    return SamEncoder.from_checkpoint(path)


@pytest.fixture(scope="module")
def plain(path):
    return PlainSam.from_checkpoint(path)


def damaged(path, tmp_path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    new = tmp_path / "damaged.pth"
    torch.save(state, new)
    return new


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_equals_segment_anything_bit_for_bit(encoder, plain, width, height):
    image = picture(width, height)
    square = image_to_square(image, encoder.image_size)
    embedding = encoder.encode(square, width=width, height=height)
    assert embedding.shape == (64, 16, 16)
    torch.testing.assert_close(embedding, plain.encode(image), rtol=0, atol=0)


def test_bfloat16_equals_segment_anything_bit_for_bit(path):
    image = picture(200, 120)
    encoder = SamEncoder.from_checkpoint(path, dtype=torch.bfloat16)
    embedding = encoder.encode(image_to_square(image, 256), width=200, height=120)
    assert embedding.dtype == encoder.dtype == torch.bfloat16
    expected = PlainSam.from_checkpoint(path, dtype=torch.bfloat16).encode(image)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=0)


def test_padding_is_zero_after_normalisation(encoder):
    square = image_to_square(picture(200, 120), 256)
    black = encoder.encode(square, width=200, height=120)
    square[154:] = 255  # the image has 154 rows in the square: what lies below must not matter
    assert torch.equal(encoder.encode(square, width=200, height=120), black)
    assert not torch.equal(encoder.encode(square, width=256, height=256), black)


def test_different_images_have_different_embeddings(encoder):
    first, second = (
        encoder.encode(picture(256, 256, seed), width=256, height=256) for seed in (0, 1)
    )
    assert (first - second).abs().mean() > 0.1 * first.std()


def test_loads_the_image_encoder_alone_and_frozen(encoder, path):
    state = torch.load(path, weights_only=True)
    names = {f"image_encoder.{name}" for name, _ in encoder.model.named_parameters()}
    expected = {name for name in state if name.startswith("image_encoder.")}
    # Relative positions are spread out into biases when a model is loaded.
    assert names == {name for name in expected if ".rel_pos_" not in name}
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_refuses_another_square(encoder):
    with pytest.raises(ValueError, match=r"\(256, 256, 3\), got \(128, 128, 3\)"):
        encoder.encode(picture(128, 128), width=128, height=128)


def test_weights_for_phase_two_fill_the_rest_of_a_sam(path):
    weights = prompt_and_decoder_weights(path)
    model = build_sam(architecture(path))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert missing
    assert all(name.startswith("image_encoder.") for name in missing)
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(weight, state[name]) for name, weight in weights.items())


def test_architecture_is_read_from_the_file(path):
    assert architecture(path) == TINY_SAM


@pytest.mark.parametrize("load", [SamEncoder.from_checkpoint, PlainSam.from_checkpoint])
def test_a_missing_weight_is_named(path, tmp_path, load):
    new = damaged(path, tmp_path, lambda s: s.pop("image_encoder.blocks.2.attn.qkv.bias"))
    with pytest.raises(CheckpointError, match=r"missing weights.*blocks\.2\.attn\.qkv\.bias"):
        load(new)


def test_an_unknown_weight_is_named(path, tmp_path):
    new = damaged(path, tmp_path, lambda s: s.update({"image_encoder.odd": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"unknown weights \(1\): odd"):
        SamEncoder.from_checkpoint(new)


def test_a_misshapen_weight_is_named(path, tmp_path):
    new = damaged(path, tmp_path, lambda s: s.update({"image_encoder.neck.1.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"neck\.1\.bias") as error:
        SamEncoder.from_checkpoint(new)
    assert "\n" not in str(error.value)


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth.*expected the weight"):
        architecture(tmp_path / "other.pth")


def test_weights_with_a_wrong_number_of_axes_are_refused(path, tmp_path):
    new = damaged(
        path, tmp_path, lambda s: s.update({"image_encoder.pos_embed": torch.tensor(0.0)})
    )
    with pytest.raises(CheckpointError, match="not its shapes"):
        architecture(new)


class Payload:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"not a checkpoint"),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"weight": 1}, path),
        lambda path: torch.save(Payload(), path),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, capsys, write):
    write(tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"broken\.pth") as error:
        architecture(tmp_path / "broken.pth")
    assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_a_truncated_file_is_refused(path, tmp_path):
    content = path.read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="download the file again"):
        SamEncoder.from_checkpoint(tmp_path / "half.pth")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        architecture(tmp_path / "none.pth")


def test_reads_the_format_before_zip_files(path, tmp_path, encoder):
    old = tmp_path / "old.pth"
    torch.save(torch.load(path, weights_only=True), old, _use_new_zipfile_serialization=False)
    square = picture(256, 256)
    assert torch.equal(
        SamEncoder.from_checkpoint(old).encode(square, width=256, height=256),
        encoder.encode(square, width=256, height=256),
    )


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (14, 14), (4, 7)])
def test_the_fused_attention_computes_the_published_one(rows, columns):
    torch.manual_seed(0)
    published = Attention(
        160, num_heads=2, qkv_bias=True, use_rel_pos=True, input_size=(rows, columns)
    )
    for table in (published.rel_pos_h, published.rel_pos_w):
        table.data.normal_()
    tokens = torch.randn(3, rows, columns, 160)
    with torch.inference_mode():
        expected = published(tokens)
        found = FusedAttention(published, rows, columns)(tokens)
    assert (found - expected).norm() / expected.norm() < 1e-5
