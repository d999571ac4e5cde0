"""What both phases ask of a GPU at full size, counted on fake tensors: no GPU is needed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from lens_cache.config.train import BatchConfig, ModelConfig, TrainConfig
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_checkpoint import ATTENTION
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.sam import SamEncoder, build_image_encoder
from lens_cache.extraction.batch_runner import BatchRunner
from lens_cache.extraction.feature_models import HiddenStates, ImageEmbeddings, Picture
from lens_cache.features.packing import PackedTexts, pack_texts
from lens_cache.features.transfer import Transfer
from lens_cache.features.types import Features
from lens_cache.store.store import Store
from lens_cache.toy.small_llava import build_processor, llava_config
from lens_cache.toy.trained_models import shapes_tokenizer
from lens_cache.training.data import Batch
from lens_cache.training.sampling import Draw
from lens_cache.training.targets import Targets
from pipelines.benchmark.engine import random_texts
from pipelines.benchmark.models import FULL_SIZE
from pipelines.benchmark.train_ways import frozen_parts
from pipelines.training.module import LensModule
from tests.support.fake_cuda import fake_gpu

IMAGES, QUESTIONS = 20, 3


def tensors(*modules):
    return [value for one in modules for value in (*one.parameters(), *one.buffers())]


def full_size_llava(layers: int = FULL_SIZE.layer) -> LlavaEncoder:
    size = FULL_SIZE.llava
    tokenizer = shapes_tokenizer(())
    processor = build_processor(tokenizer, image_side=size.image_side, patch_size=size.patch_size)
    config = llava_config(replace(size, layers=layers), len(tokenizer))
    with torch.device("cuda"):
        whole = AutoModelForImageTextToText.from_config(
            config, dtype=torch.bfloat16, attn_implementation=ATTENTION
        )
    whole.model.language_model.norm = nn.Identity()
    return LlavaEncoder(
        whole.model,
        LlavaPrompt(processor),
        layers=(layers,),
        num_layers=size.layers,
        device="cuda",
    )


def full_size_sam() -> SamEncoder:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = build_image_encoder(FULL_SIZE.sam)
    finally:
        torch.set_default_dtype(before)
    return SamEncoder(model, FULL_SIZE.sam, dtype=torch.bfloat16, device="cuda")


def test_an_extraction_never_waits_and_has_few_kernels_shapes_and_bytes(monkeypatch):
    batch = 4
    picture = Picture(np.zeros((1024, 1024, 3), np.uint8), torch.zeros(3, 336, 336), 1024, 768)
    with fake_gpu() as gpu:
        llava, sam = full_size_llava(), full_size_sam()
        transfer = Transfer("cuda")
        monkeypatch.setattr(transfer, "mark", lambda: None)
        with gpu:
            gpu.start(tensors(llava.model, sam.model))
            flights = []
            for model in (HiddenStates(llava), ImageEmbeddings(sam)):
                runner = BatchRunner(model, transfer, picture, batch)
                flights += runner.launch([picture] * batch, random_texts(llava, [8] * batch))
    assert len(flights) == 2
    assert not gpu.waits
    assert 1000 < gpu.kernels.total() <= 2000
    assert 0.3e9 < gpu.peak <= 1.2e9
    # Causal and masked in LLaVA, the tower, and windows and the whole image in SAM.
    assert len(gpu.attention) == 5


def test_batches_of_many_lengths_have_few_shapes_of_attention(monkeypatch):
    """200 batches of 4 images with 1 to 12 questions of 20 to 40 tokens.

    Kernels are chosen, and some are planned, for every new shape.
    """
    batch, batches = 4, 200

    def image_features(model, pixels):
        return torch.empty(batch, 576, 4096, dtype=torch.bfloat16, device="cuda")

    monkeypatch.setattr("lens_cache.encoders.llava.image_features", image_features)
    pixels = [torch.zeros(3, 336, 336)] * batch
    counts = np.random.default_rng(0).integers(1, 13, batches * batch).tolist()
    with fake_gpu() as gpu:
        llava = full_size_llava(layers=1)  # all have the same shapes
        texts = random_texts(llava, counts)
        with gpu:
            gpu.start(())
            for start in range(0, len(texts), batch):
                llava.encode_batch(pixels, texts[start : start + batch])
    assert gpu.attention.total() == 2 * batches
    # The tower and SAM have three more, the same in every batch.
    assert 3 + len(gpu.attention) <= 8


@pytest.fixture
def trained(tiny_store, monkeypatch):
    """A training step of two batches at full size on a fake GPU."""
    # The metric of validations copies tensors that have no memory here.
    monkeypatch.setattr("pipelines.training.module.MaskIoU", lambda groups: None)
    monkeypatch.setattr(LensModule, "device", torch.device("cuda"))
    store = Store(tiny_store)
    config = TrainConfig(
        model=ModelConfig(layer=14, warm_start=False),
        batch=BatchConfig(images=IMAGES, queries_per_image=QUESTIONS, accumulate=2),
    )
    texts = full_size_texts()
    with fake_gpu() as gpu:
        with torch.device("cuda"):
            module = LensModule(config, frozen_parts(FULL_SIZE), store).train()
        module.precision_context = torch.autocast("cuda", torch.bfloat16)
        module._trainer = SimpleNamespace(
            world_size=1,
            global_rank=0,
            global_step=0,
            strategy=SimpleNamespace(
                reduce=lambda values, reduce_op: values, handles_gradient_accumulation=False
            ),
        )
        module.log = require_of_host
        optimizer = module.configure_optimizers()["optimizer"]
        with gpu:
            batches = [full_size_batch(texts) for _ in range(2)]
            gpu.start(tensors(module))
            for number, batch in enumerate(batches):
                module.training_step(batch, number)
            micro, kernels = gpu.waits.copy(), gpu.kernels.total()
            # PyTorch's engine runs a backward pass in a thread that needs a real device.
            for weight in module.parameters():
                weight.grad = torch.empty_like(weight) if weight.requires_grad else None
            module.on_before_optimizer_step(optimizer)
            module.configure_gradient_clipping(optimizer, 1.0)
            optimizer.step()
    return SimpleNamespace(step=gpu.waits, batches=micro, kernels=kernels)


def require_of_host(name, value, **_):
    """Stand in for ``LightningModule.log``, which copies numbers to the device."""
    assert value.device.type == "cpu", name


def full_size_texts() -> PackedTexts:
    lengths = np.random.default_rng(0).integers(20, 41, (IMAGES, QUESTIONS))
    return pack_texts([[torch.zeros(length, 4096) for length in row] for row in lengths])


def full_size_batch(texts: PackedTexts) -> Batch:
    features = Features(
        prefix=torch.empty(35, 4096),
        image_tokens=torch.empty(IMAGES, 576, 4096),
        texts=texts,
        num_questions=(QUESTIONS,) * IMAGES,
        image_embeddings=torch.empty(IMAGES, 256, 64, 64),
    )
    targets = Targets(
        attention=torch.empty(IMAGES * QUESTIONS, 128, 128, dtype=torch.bool),
        attention_valid=torch.empty(IMAGES * QUESTIONS, 128, 128, dtype=torch.bool),
        masks=[torch.empty(480, 640, dtype=torch.bool)] * (IMAGES * QUESTIONS),
        valid=[torch.empty(480, 640, dtype=torch.bool)] * (IMAGES * QUESTIONS),
    )
    draws = tuple(Draw(0, (0,) * QUESTIONS) for _ in range(IMAGES))
    return Batch(draws, features, targets).to(torch.device("cuda"), torch.float32)


def test_a_training_step_waits_for_the_gpu_only_at_its_end(trained):
    assert not trained.batches
    # The sums of the losses and the norm of the gradient, for the log and the check that they are
    # finite.
    assert trained.step.total() == 1, trained.step
    assert trained.kernels
