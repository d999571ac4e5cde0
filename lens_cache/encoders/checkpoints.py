"""Finding the files of model weights, locally or on the Hugging Face hub, and hashing them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from lens_cache.encoders.digests import file_digest
from lens_cache.errors import CheckpointError, one_line

TRY_OUT = "to try it out, run `lens-cache data tiny-checkpoints DIR` and set encoders.root=DIR"
_FOLDER_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
_DIGESTED = (
    "*.safetensors",
    "config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
)
# Folder of a commit in the cache of huggingface_hub.
_SNAPSHOT = re.compile(r"/snapshots/(?P<commit>[0-9a-f]{40})(?:/|$)")
_HUB_ID = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<file>[^/].*\.pth))?")


def resolve_folder(checkpoint: str, root: Path | None, revision: str | None = None) -> Path:
    """Find the folder of a Hugging Face model; downloads it if there is no such local folder.

    Args:
        checkpoint: A local folder, relative to ``root`` if that is given, or a hub id.
        root: Folder of checkpoints.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: If it is found neither locally nor on the hub, or the hub cannot be
            reached.
    """
    local = _local(checkpoint, root)
    if local.is_dir():
        return local
    match = _HUB_ID.fullmatch(checkpoint)
    if local.exists() or match is None or match["file"]:
        found = "a file" if local.exists() else "nothing"
        raise CheckpointError(
            f"looking for LLaVA: expected a Hugging Face folder at {local}, found {found}; set "
            f"encoders.llava.checkpoint to one or to a hub id, or {TRY_OUT}"
        )
    return _from_hub(
        "LLaVA",
        local,
        lambda: snapshot_download(
            checkpoint, revision=revision, allow_patterns=list(_FOLDER_FILES)
        ),
    )


def resolve_file(checkpoint: str, root: Path | None, revision: str | None = None) -> Path:
    """Find a SAM's ``.pth``; downloads it if there is no such local file.

    Args:
        checkpoint: A ``.pth`` file or a folder with exactly one, relative to ``root`` if that is
            given, or a hub id ``owner/name[/path/file.pth]``.
        root: Folder of checkpoints.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: If it is found neither locally nor on the hub, or the hub cannot be
            reached.
    """
    local = _local(checkpoint, root)
    if local.is_file():
        return local
    if local.is_dir():
        names = [path.name for path in sorted(local.glob("*.pth"))]
        return local / _only_one(names, str(local))
    match = _HUB_ID.fullmatch(checkpoint)
    if match is None or (match["file"] is None and checkpoint.endswith(".pth")):
        raise CheckpointError(
            f"looking for SAM: expected a .pth file at {local}, found nothing; set "
            f"encoders.sam.checkpoint to one or to a hub id, or {TRY_OUT}"
        )
    repository, file = match["repository"], match["file"]

    def download() -> str:
        name = file
        if name is None:
            names = HfApi().list_repo_files(repository, revision=revision)
            name = _only_one([n for n in names if n.endswith(".pth")], repository)
        return hf_hub_download(repository, name, revision=revision)

    return _from_hub("SAM", local, download)


def pinned_revision(checkpoint: str, root: Path | None, path: Path) -> str | None:
    """Return the commit of the hub that a checkpoint was resolved to; None if it is local.

    A branch may get new weights while an extraction runs. With the commit as their revision, all
    processes load the same ones.

    Args:
        checkpoint: As for ``resolve_folder``.
        root: Folder of checkpoints.
        path: What ``resolve_folder`` or ``resolve_file`` returned.
    """
    if _local(checkpoint, root).exists():
        return None
    match = _SNAPSHOT.search(path.as_posix())
    return match["commit"] if match else None


def weights_digest(path: Path) -> str:
    """Return a SHA-256 that changes if a file that may affect the model's outputs changes.

    For a file it is the SHA-256 of its content. For a folder it is the SHA-256 of lines
    ``<SHA-256 of the content>  <name>`` (as ``sha256sum`` prints them), one for each file of the
    weights, the model's configuration, the tokenizer and the preprocessor, sorted by name. Digests
    of large files that have not changed since are remembered, see ``digests``.

    Raises:
        CheckpointError: If the path does not exist or the folder has no weights.
    """
    try:
        if not path.is_dir():
            return file_digest(path)
        files = sorted({file for pattern in _DIGESTED for file in path.glob(pattern)})
        if not any(file.suffix == ".safetensors" for file in files):
            raise CheckpointError(
                f"hashing {path}: expected *.safetensors files, found none; give a complete "
                "Hugging Face folder"
            )
        lines = "".join(f"{file_digest(file)}  {file.name}\n" for file in files)
    except FileNotFoundError as error:
        raise CheckpointError(f"hashing {path}: {error.filename} does not exist") from None
    return hashlib.sha256(lines.encode()).hexdigest()


def _local(checkpoint: str, root: Path | None) -> Path:
    path = Path(checkpoint).expanduser()
    return path if root is None else Path(root).expanduser() / path


def _only_one(names: list[str], where: str) -> str:
    if len(names) != 1:
        found = ", ".join(names[:5]) or "none"
        raise CheckpointError(
            f"looking for SAM in {where}: expected exactly one .pth file, found {found}; name the "
            "file in encoders.sam.checkpoint"
        )
    return names[0]


def _from_hub(model: str, local: Path, download: Callable[[], str]) -> Path:
    try:
        return Path(download())
    except CheckpointError:
        raise
    except Exception as error:  # hub, HTTP and TLS libraries have exceptions of their own
        raise CheckpointError(
            f"looking for {model}: {local} does not exist, and the download from the Hugging Face "
            f"hub failed ({one_line(error, 160)}); give the path of weights, or {TRY_OUT}"
        ) from None
