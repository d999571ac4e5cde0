"""Reading a Hugging Face LLaVA folder: configurations, a model, single decoder layers."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration

from lens_cache.encoders.llava_prompt import quiet
from lens_cache.errors import CheckpointError, one_line
from lens_cache.features.weights import require_all_fit

# For the encoder and its reference, so that both run the same kernels where possible.
ATTENTION = "sdpa"
# language_model.model.layers.N. in old files, model.language_model.layers.N. in newer ones.
_LAYER_WEIGHT = re.compile(r"(?:^|\.)language_model\.(?:model\.)?layers\.(\d+)\.(.+)$")
_CONSTANT = "rotary_emb.inv_freq"
# In checkpoints, but not in a truncated LlavaModel; the last two are constants of old versions.
_NOT_LOADED = (
    r"(^|\.)(lm_head\.weight|vision_model\.embeddings\.position_ids|rotary_emb\.inv_freq)$"
)


def load_config(folder: Path) -> Any:
    """Read the configuration of a Hugging Face LLaVA folder.

    Raises:
        CheckpointError: If it is missing or describes another kind of model.
    """
    path = folder / "config.json"
    try:
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
        if model_type == "llava":
            with quiet():
                return LlavaConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"reading LLaVA's configuration {path}: {one_line(error)}; give a complete Hugging "
            "Face LLaVA folder"
        ) from None
    raise CheckpointError(
        f"reading LLaVA's configuration {path}: expected model_type llava, found {model_type}; "
        "give a LLaVA such as llava-hf/llava-1.5-7b-hf"
    )


def text_config(folder: Path) -> dict[str, Any]:
    """Return the text configuration as plain JSON values, with defaults and ``model_type``.

    Raises:
        CheckpointError: If the configuration is missing or describes another kind of model.
    """
    config = load_config(folder).text_config
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    changing = {"_name_or_path", "transformers_version"}
    return {name: value for name, value in plain.items() if name not in changing}


def vision_config(folder: Path) -> dict[str, Any]:
    """Return the vision tower's configuration as plain JSON values.

    Raises:
        CheckpointError: If the configuration is missing or describes another kind of model.
    """
    config: dict[str, Any] = load_config(folder).vision_config.to_dict()
    return config


def load_model(model_class: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """Build a model and load its weights.

    Args:
        model_class: ``LlavaModel`` or ``LlavaForConditionalGeneration``.
        folder: Hugging Face LLaVA folder.
        config: Its configuration, possibly with fewer decoder layers.
        dtype: Precision of the weights.

    Raises:
        CheckpointError: If a weight is missing, unknown or of another shape. Weights of decoder
            layers that the configuration does not have are ignored.
    """
    try:
        with quiet():
            model, info = model_class.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=ATTENTION,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
    except Exception as error:  # safetensors and transformers raise bare exceptions
        raise CheckpointError(
            f"loading LLaVA from {folder}: {one_line(error)}; download the checkpoint again"
        ) from None
    require_all_fit(
        f"loading LLaVA from {folder}",
        "download it again, or give a LLaVA in Hugging Face format",
        missing=info["missing_keys"],
        unknown=_unknown(info["unexpected_keys"], config.text_config.num_hidden_layers),
        misshapen=[key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]],
    )
    return model


def load_whole(folder: Path, dtype: torch.dtype) -> Any:
    """Load a ``LlavaForConditionalGeneration`` with all its layers and its LM head.

    Raises:
        CheckpointError: If files or weights are missing or do not fit.
    """
    return load_model(LlavaForConditionalGeneration, folder, load_config(folder), dtype)


def _unknown(names: Iterable[str], num_layers: int) -> list[str]:
    """Return the weights that are neither of later layers nor skipped on purpose."""
    unknown = []
    for name in names:
        layer = _LAYER_WEIGHT.search(name)
        is_later = layer is not None and int(layer[1]) >= num_layers
        if not is_later and not re.search(_NOT_LOADED, name):
            unknown.append(name)
    return unknown


def decoder_layer_weights(folder: Path, layers: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """Read decoder layers L and L+1 for each tapped layer L, in the precision of the file.

    Args:
        folder: Hugging Face LLaVA folder.
        layers: Tapped layers.

    Returns:
        For each L the weights named ``0.<name in the layer>`` (layer L) and ``1.<...>`` (layer
        L+1). L has no entry if the model has no layer L+1.

    Raises:
        CheckpointError: If a file or a weight is missing.
    """
    num_layers = int(load_config(folder).text_config.num_hidden_layers)
    files = _weight_files(folder)
    names = _decoder_layer_names(files)
    expected = {short for layer in names.values() for short in layer}
    weights: dict[int, dict[str, Tensor]] = {}
    for layer in sorted({layer for layer in layers if layer + 1 < num_layers}):
        weights[layer] = {}
        for offset in (0, 1):
            found = names.get(layer + offset, {})
            missing = expected - found.keys()
            if missing or not expected:
                raise CheckpointError(
                    f"reading decoder layer {layer + offset} of {folder}: the checkpoint lacks "
                    f"{', '.join(sorted(missing)[:5]) or 'decoder layers'}; download it again"
                )
            for short, name in sorted(found.items()):
                weights[layer][f"{offset}.{short}"] = _read(files[name], name)
    return weights


def _decoder_layer_names(names: Iterable[str]) -> dict[int, dict[str, str]]:
    """Return, for each decoder layer, the weights' names in the file by their names in the layer.

    Skips the constants of old files.
    """
    layers: dict[int, dict[str, str]] = defaultdict(dict)
    for name in names:
        match = _LAYER_WEIGHT.search(name)
        if match and not match[2].endswith(_CONSTANT):
            layers[int(match[1])][match[2]] = name
    return layers


def _weight_files(folder: Path) -> dict[str, Path]:
    """Return the safetensors file of each weight."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    try:
        if index.exists():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in weight_map.items()}
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"reading LLaVA's weights from {folder}: expected model.safetensors or its index, "
            f"found {one_line(error)}; download the checkpoint again"
        ) from None


def _read(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            weight: Tensor = file.get_tensor(name)
            return weight
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"reading {name} from {path}: {one_line(error)}; download the checkpoint again"
        ) from None
