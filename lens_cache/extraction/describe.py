"""What an extraction with some settings stores, before it runs: questions and manifest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import to_tree
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import DatasetError
from lens_cache.plan.plan import Plan
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.layout import (
    IMAGE_EMBEDDINGS,
    ArraySpec,
    hidden_state_arrays,
    image_embedding_array,
    shard_images,
)
from lens_cache.store.manifest import Manifest, PlanSummary
from lens_cache.store.questions import Questions
from lens_cache.version import __version__


def describe(config: ExtractConfig, encoders: Encoders, plan: Plan) -> Catalogue:
    """Return the tables of a store that has yet to be extracted."""
    questions = tokenise(plan, encoders.prompt, config.store.shard_size)
    _require_positions(plan, questions, encoders)
    settings = absolute_settings(config)
    manifest = Manifest(
        code_version=__version__,
        complete=False,
        config={key: settings[key] for key in ("data", "encoders", "store")},
        plan=PlanSummary(
            digest=plan.digest(),
            images=plan.num_images,
            queries=plan.num_queries,
            quarantined=plan.quarantine.num_rows,
        ),
        side=encoders.side,
        fingerprints=encoders.fingerprints,
        arrays={
            "hidden_states": _hidden_states(config, encoders, plan, questions),
            "image_embeddings": {IMAGE_EMBEDDINGS: _image_embeddings(config, encoders, plan)},
        },
    )
    manifest = manifest.in_precision(config.store.precision).in_format(config.store.format)
    return Catalogue(manifest, plan, questions)


def tokenise(plan: Plan, prompt: LlavaPrompt, shard_size: int) -> Questions:
    """Tokenise every query of the plan and place its tokens."""
    token_ids = [
        np.asarray(prompt.token_ids(query.question).text_ids, dtype=np.int32)
        for image in range(plan.num_images)
        for query in plan.queries_of(image)
    ]
    return Questions.for_plan(plan, token_ids, shard_size)


def _require_positions(plan: Plan, questions: Questions, encoders: Encoders) -> None:
    """Refuse a question that the multimodal LLM has no positions for.

    Raises:
        DatasetError: If one is too long.
    """
    limit = encoders.text_config.get("max_position_embeddings")
    if limit is None:
        return
    prompt = encoders.prompt
    room = int(limit) - len(prompt.prefix_ids) - prompt.num_image_tokens
    for query, ids in enumerate(questions.token_ids):
        if len(ids) > room:
            found = plan.query(query)
            raise DatasetError(
                f"tokenising the instructions of {plan.image(found.image_index).path}: query "
                f"{found.query_id} has {len(ids)} tokens, the model has positions for {room} after "
                "the image; shorten it in the data"
            )


def absolute_settings(config: ExtractConfig) -> dict[str, Any]:
    """Return the settings as plain values with absolute paths, valid from any folder."""
    data, encoders = config.data, config.encoders
    config = replace(
        config,
        data=replace(data, root=data.root.resolve() if data.root else None),
        encoders=replace(encoders, root=encoders.root.resolve() if encoders.root else None),
    )
    return to_tree(config)


def _hidden_states(
    config: ExtractConfig, encoders: Encoders, plan: Plan, questions: Questions
) -> dict[str, ArraySpec]:
    """Return the arrays of all tapped layers, in the model's precision."""
    states: dict[str, ArraySpec] = {}
    for layer in config.encoders.llava.layers:
        states |= hidden_state_arrays(
            layer,
            num_images=plan.num_images,
            num_shards=len(shard_images(plan.num_images, config.store.shard_size)),
            shard_size=config.store.shard_size,
            region=questions.region,
            num_prefix=len(encoders.prompt.prefix_ids),
            num_image_tokens=encoders.prompt.num_image_tokens,
            hidden_size=int(encoders.text_config["hidden_size"]),
            dtype=config.encoders.llava.dtype,
        )
    return states


def _image_embeddings(config: ExtractConfig, encoders: Encoders, plan: Plan) -> ArraySpec:
    """Return the array of SAM's embeddings, in the model's precision."""
    return image_embedding_array(
        num_images=plan.num_images,
        shard_size=config.store.shard_size,
        channels=encoders.sam_architecture.transformer_dim,
        size=encoders.sam_architecture.embedding_size,
        dtype=config.encoders.sam.dtype,
    )
