import filecmp

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lens_cache.encoders.sam import build_sam
from lens_cache.errors import LensCacheError
from lens_cache.toy.random_checkpoints import TINY_SAM, write_tiny_checkpoints


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_two_writes_are_the_same_bytes(tiny_checkpoints, tmp_path):
    torch.manual_seed(99)  # the global generator has no say
    write_tiny_checkpoints(tmp_path / "again")
    names = files(tiny_checkpoints)
    assert names == files(tmp_path / "again")
    same, different, errors = filecmp.cmpfiles(
        tiny_checkpoints, tmp_path / "again", names, shallow=False
    )
    assert (sorted(same), different, errors) == (names, [], [])


def test_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write_tiny_checkpoints(tmp_path / "tiny")
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_other_weights(tiny_checkpoints, tmp_path):
    write_tiny_checkpoints(tmp_path / "other", seed=1)
    for name in ("sam.pth", "llava/model.safetensors"):
        assert (tmp_path / "other" / name).read_bytes() != (tiny_checkpoints / name).read_bytes()


def test_is_small_and_complete(tiny_checkpoints):
    assert sum(p.stat().st_size for p in tiny_checkpoints.rglob("*") if p.is_file()) < 4_000_000
    assert {"sam.pth", "llava/config.json", "llava/model.safetensors", "llava/tokenizer.json"} <= (
        set(files(tiny_checkpoints))
    )


def test_loads_as_a_real_checkpoint_does(tiny_checkpoints):
    folder = tiny_checkpoints / "llava"
    model, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.text_config.num_hidden_layers == 16
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "LlavaProcessor"
    assert processor.image_token_id == model.config.image_token_id
    ids = processor.tokenizer("\u732b is it?")["input_ids"]
    assert ids[0] == processor.tokenizer.bos_token_id
    assert processor.tokenizer.unk_token_id not in ids
    assert max(ids) < model.config.text_config.vocab_size
    build_sam(TINY_SAM).load_state_dict(torch.load(tiny_checkpoints / "sam.pth"))


def test_model_answers(tiny_checkpoints):
    """The generation configuration is in place: the agent's chat runs on it."""
    folder = tiny_checkpoints / "llava"
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    inputs = AutoProcessor.from_pretrained(folder).tokenizer("What is it?", return_tensors="pt")
    answer = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3


def test_every_weight_says_something(tiny_checkpoints):
    for name, weight in torch.load(tiny_checkpoints / "sam.pth").items():
        assert weight.isfinite().all(), name
        default = name.startswith("mask_decoder.")  # norms of ones are PyTorch's own start
        assert default or weight.numel() == 1 or weight.std() > 0, name


def test_writing_again_changes_nothing(tmp_path):
    folder = tmp_path / "tiny"
    write_tiny_checkpoints(folder)
    before = (folder / "sam.pth").stat().st_mtime_ns
    (folder / "notes.txt").write_text("mine")
    write_tiny_checkpoints(folder)
    assert (folder / "sam.pth").stat().st_mtime_ns == before
    assert (folder / "notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_an_empty_folder_is_filled(tmp_path):
    write_tiny_checkpoints(tmp_path)
    assert (tmp_path / "sam.pth").is_file()


@pytest.mark.parametrize("content", ["other", "sam.pth"])
def test_other_content_is_not_overwritten(tmp_path, content):
    folder = tmp_path / "used"
    folder.mkdir()
    (folder / content).write_text("mine")
    with pytest.raises(LensCacheError, match="already contains something else"):
        write_tiny_checkpoints(folder)
    assert [p.name for p in folder.iterdir()] == [content]
    assert (folder / content).read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["used"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LensCacheError, match="already contains something else"):
        write_tiny_checkpoints(tmp_path / "file")
