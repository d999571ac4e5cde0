"""A worker's own checkpoints are those that the store was prepared with.

A worker loads what lies on its node when it starts. That may be another copy, or have been replaced
since the extraction began.
"""

from __future__ import annotations

from collections.abc import Sequence

from lens_cache.config.extract import ExtractConfig
from lens_cache.encoders.checkpoints import resolve_file, resolve_folder, weights_digest
from lens_cache.errors import StoreMismatchError
from lens_cache.store.layout import Group
from lens_cache.store.manifest import Manifest


def require_same_weights(
    manifest: Manifest, config: ExtractConfig, groups: Sequence[Group]
) -> None:
    """Compare the checkpoints of some groups with the store's fingerprints.

    Call it after the models are loaded: a file that is replaced later does no harm.

    Args:
        manifest: The manifest of the store.
        config: The settings, with paths that are valid on this machine.
        groups: The groups whose models this process runs.

    Raises:
        StoreMismatchError: If the weights differ.
        CheckpointError: If a checkpoint is missing.
    """
    for group in groups:
        encoders = config.encoders
        if group == "hidden_states":
            llava = encoders.llava
            path = resolve_folder(llava.checkpoint, encoders.root, llava.revision)
        else:
            path = resolve_file(encoders.sam.checkpoint, encoders.root, encoders.sam.revision)
        if weights_digest(path) != manifest.fingerprints[group]["weights"]:
            raise StoreMismatchError(
                f"starting a worker for {group}: the weights in {path} are not those that the "
                "extraction began with; put them back on every node and run the same command "
                f"again, or extract with the new ones: `lens-cache extract ... --replace {group}`"
            )
