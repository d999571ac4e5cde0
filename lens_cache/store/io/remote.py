"""Stores behind a URL (``s3://bucket/store``), through fsspec.

A remote root is a ``UPath``, which has the methods of pathlib; operations that differ from a disk
are here. An object store shows complete objects only: nothing has to be renamed.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from lens_cache.errors import LensCacheError, StoreError, one_line

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)", re.DOTALL)
_S3 = ("s3", "s3a")
# A request that fails with 5xx, a timeout or a lost connection is tried this often, with waits that
# double up to 20 s. AWS_MAX_ATTEMPTS and AWS_RETRY_MODE override it.
_ATTEMPTS = 6
_STREAM_BYTES = 16 << 20
# Packages whose exceptions come from the storage, though some are not OSErrors.
_TRANSPORTS = {"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs"}


def store_path(text: str | Path) -> Path:
    """Return the root of a store: the path of a folder, or the ``UPath`` of a URL.

    To a type checker a ``UPath`` is no ``Path``, but it has all methods that a store uses; only
    ``is_remote`` distinguishes them.

    Args:
        text: A folder, a URL, or what this function returned before.

    Raises:
        StoreError: If the URL has credentials in it, or no installed package can read it.
    """
    if not isinstance(text, str | Path):
        return text  # a UPath
    found = _URL.fullmatch(str(text))
    if found is None:
        return Path(text)
    protocol, rest = found.group(1).lower(), found.group(2).rstrip("/")
    if protocol in ("file", "local"):
        return Path("/", rest)
    if "@" in rest.split("/", 1)[0] or "?" in rest:
        raise StoreError(
            f"opening a store at {protocol}://: expected a plain URL, found one with credentials "
            "or parameters in it; set AWS_ACCESS_KEY_ID and its like in the environment instead"
        )
    from fsspec import get_filesystem_class
    from upath import UPath

    try:
        get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        cure = "run `pip install lens-cache[s3]`" if protocol in _S3 else one_line(error)
        raise StoreError(
            f"opening the store {text}: expected a folder or a URL that an installed package "
            f"can read, found {protocol}://; {cure}"
        ) from None
    return cast(Path, UPath(f"{protocol}://{rest}", **_options(protocol)))


def is_remote(path: Path) -> bool:
    """Return whether a path of a store is a URL."""
    return not isinstance(path, Path)


def is_s3(path: Path) -> bool:
    """Return whether a remote path is on S3 or a compatible server."""
    return bool(cast(Any, path).protocol in _S3)


def _in_memory(path: Path) -> bool:
    """Return whether a remote path is in fsspec's memory.

    All who open an object there share one file with one position, so threads may read it by
    ``cat_file`` only.
    """
    return bool(cast(Any, path).protocol == "memory")


def filesystem(path: Path) -> Any:
    """Return the fsspec filesystem of a remote path."""
    return cast(Any, path).fs


def name_of(path: Path) -> str:
    """Return the name of a remote path in its filesystem, e.g. ``bucket/store/plan``."""
    return str(cast(Any, path).path)


def put(final: Path, data: bytes, *, new: bool = False) -> None:
    """Write one object in one request.

    Args:
        final: The object.
        data: Its content.
        new: Whether to fail if the object exists.

    Raises:
        FileExistsError: If ``new`` and the object exists.
    """
    filesystem(final).pipe_file(name_of(final), data, mode="create" if new else "overwrite")


def read(path: Path) -> bytes:
    """Read an object in one request."""
    return bytes(filesystem(path).cat_file(name_of(path)))


def read_range(path: Path, start: int, stop: int | None = None) -> bytes:
    """Read some bytes of an object in one request; a negative ``start`` counts from its end."""
    return bytes(filesystem(path).cat_file(name_of(path), start=start, end=stop))


def download(path: Path, to: str) -> None:
    """Copy an object to a local file."""
    if _in_memory(path):
        Path(to).write_bytes(read(path))
    else:
        filesystem(path).get_file(name_of(path), to)


def open_stream(path: Path) -> BinaryIO:
    """Open an object to read it from start to end, some megabytes a request."""
    if _in_memory(path):
        return io.BytesIO(read(path))
    options = {"block_size": _STREAM_BYTES, "cache_type": "readahead"}
    return cast(BinaryIO, filesystem(path).open(name_of(path), "rb", **options))


def modified(path: Path) -> float:
    """Return the time of an object's last write, in seconds by the server's clock."""
    return float(filesystem(path).modified(name_of(path)).timestamp())


def remove(path: Path) -> None:
    """Remove an object or all objects below a name, if there are any."""
    try:
        filesystem(path).rm(name_of(path), recursive=True)
    except FileNotFoundError:
        return


def total_size(path: Path) -> int:
    """Return the bytes of all objects below a name."""
    return int(filesystem(path).du(name_of(path))) if path.exists() else 0


def abort_uploads(root: Path) -> None:
    """Abort the uploads of killed writers below ``root``; S3 would keep, and charge for, them."""
    if not is_s3(root):
        return
    fs = filesystem(root)
    bucket, key, _ = fs.split_path(name_of(root))
    found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/" if key else "")
    for upload in found.get("Uploads", []):
        abort(fs, Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def abort(fs: Any, **upload: str) -> None:
    """Abort an upload to S3, if it still exists."""
    with suppress(FileNotFoundError):
        fs.call_s3("abort_multipart_upload", **upload)


@contextmanager
def plain_errors(root: Path, doing: str) -> Iterator[None]:
    """Turn errors of the storage into one line that starts with what was being done.

    Raises:
        StoreError: Instead of an exception of the transport.
    """
    try:
        yield
    except LensCacheError:
        raise
    except Exception as error:
        package = type(error).__module__.split(".")[0]
        # An OSError that names a file comes from this machine's disk.
        far = package in _TRANSPORTS or (isinstance(error, OSError) and error.filename is None)
        if not is_remote(root) or not far:
            raise
        raise StoreError(
            f"{doing} {root}: {type(error).__name__}: {one_line(error)}; check address and "
            "credentials, or run the same command again when the storage answers"
        ) from None


def _options(protocol: str) -> dict[str, Any]:
    """Return the options of a filesystem; never a secret.

    Listings are not cached: other processes write too.
    """
    if protocol not in _S3:
        return {"use_listings_cache": False}
    retries: dict[str, Any] = {}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = _ATTEMPTS
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    timeouts = {"connect_timeout": 10, "read_timeout": 60}
    return {
        "use_listings_cache": False,
        "config_kwargs": {"retries": retries, **timeouts},
    }
