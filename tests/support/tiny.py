"""LENS in miniature: the real classes with random weights."""

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from transformers import AutoConfig, AutoModel

from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.features.types import Features, ImageFeatures

WIDTH = 32
GRID = (6, 6)
PREFIX_LENGTH = 3
SAM = SamArchitecture(
    image_size=64,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=2,
    window_size=0,
    global_blocks=(0, 1),
    transformer_dim=32,
    decoder_depth=2,
    decoder_mlp_dim=64,
    mask_in_chans=16,
    num_multimask_outputs=3,
    iou_head_depth=3,
    iou_head_hidden_dim=32,
)


def text_config(kind="llama", num_key_value_heads=4):
    return {
        "model_type": kind,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": num_key_value_heads,
        "num_hidden_layers": 4,
        "vocab_size": 50,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256,
        "pad_token_id": 49,
    }


def text_model(config, seed=0):
    """Return the MLLM's language model, with attention sharp enough to tell positions apart."""
    torch.manual_seed(seed)
    settings = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.normal_(std=0.3)
    return model.eval()


def sam_modules(seed=0):
    """Return SAM's own prompt encoder and mask decoder."""
    torch.manual_seed(seed)
    cells = (SAM.embedding_size, SAM.embedding_size)
    transformer = TwoWayTransformer(
        depth=SAM.decoder_depth,
        embedding_dim=SAM.transformer_dim,
        num_heads=8,
        mlp_dim=SAM.decoder_mlp_dim,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=SAM.transformer_dim,
        image_embedding_size=cells,
        input_image_size=(SAM.image_size, SAM.image_size),
        mask_in_chans=SAM.mask_in_chans,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=SAM.transformer_dim,
        transformer=transformer,
        num_multimask_outputs=SAM.num_multimask_outputs,
        iou_head_depth=SAM.iou_head_depth,
        iou_head_hidden_dim=SAM.iou_head_hidden_dim,
    )
    return prompt_encoder.eval(), mask_decoder.eval()


def sam_weights(seed=0):
    prompt_encoder, mask_decoder = sam_modules(seed)
    return {
        **{f"prompt_encoder.{k}": v for k, v in prompt_encoder.state_dict().items()},
        **{f"mask_decoder.{k}": v for k, v in mask_decoder.state_dict().items()},
    }


def tiny_frozen_parts(layers=(1,), kind="llama", num_key_value_heads=4, seed=0):
    config = text_config(kind, num_key_value_heads)
    model = text_model(config, seed)
    return FrozenParts(
        text_config=config,
        grid=GRID,
        sam_architecture=SAM,
        decoder_layers={
            layer: {
                f"{i}.{name}": weight
                for i in (0, 1)
                for name, weight in model.layers[layer + i].state_dict().items()
            }
            for layer in layers
        },
        sam=sam_weights(seed),
    )


def random_image(lengths=(5, 4), seed=0, prefix_length=PREFIX_LENGTH):
    """Return random features of one image with questions of the given lengths."""
    shared = torch.Generator().manual_seed(12345)
    own = torch.Generator().manual_seed(seed)
    return ImageFeatures(
        prefix=torch.randn(prefix_length, WIDTH, generator=shared),
        image_tokens=torch.randn(GRID[0] * GRID[1], WIDTH, generator=own),
        text_tokens=[torch.randn(length, WIDTH, generator=own) for length in lengths],
        image_embedding=torch.randn(
            SAM.transformer_dim, SAM.embedding_size, SAM.embedding_size, generator=own
        ),
    )


def random_features(*lengths_per_image, seed=0):
    """Return a batch of images; ``random_features((5, 4), (3,))`` has three questions."""
    return Features.stack(
        [random_image(lengths, seed + i) for i, lengths in enumerate(lengths_per_image)]
    )
