"""Stores behind a URL (``s3://bucket/store``), through fsspec.

A remote root is a ``UPath``, which speaks pathlib's language; what it cannot say the same way as a
disk stands here. An object store shows an object whole or not at all: nothing has to be renamed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from lens_cache.errors import LensCacheError, StoreError, one_line

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)", re.DOTALL)
_S3 = ("s3", "s3a")
# An object is uploaded in parts of at least this size while it is written; S3 takes 10,000 parts.
_PART_BYTES = 16 << 20
# A request that fails with 5xx, a timeout or a lost connection is made this often, with waits that
# double up to 20 s in between. AWS_MAX_ATTEMPTS and AWS_RETRY_MODE have the last word.
_ATTEMPTS = 6
# Packages whose exceptions tell of the far side, though some of them are no OSError.
_TRANSPORTS = {"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs"}


def store_path(text: str | Path) -> Path:
    """Return where a store lies: a folder, or the ``UPath`` of a URL.

    To a type checker a ``UPath`` is no ``Path``, but it has all that a store asks of one; only
    ``is_remote`` tells them apart.

    Raises:
        StoreError: If the URL holds credentials, or nothing here speaks its protocol.
    """
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
            f"speaks, found {protocol}://; {cure}"
        ) from None
    return cast(Path, UPath(f"{protocol}://{rest}", **_options(protocol)))


def is_remote(path: Path) -> bool:
    """Tell whether a path of a store is a URL."""
    return not isinstance(path, Path)


def put(final: Path, data: bytes, *, new: bool = False) -> None:
    """Write one object in one request; with ``new`` only if there is none of that name.

    Raises:
        FileExistsError: If there is one.
    """
    _fs(final).pipe_file(_name(final), data, mode="create" if new else "overwrite")


def read_range(path: Path, start: int, stop: int | None = None) -> bytes:
    """Read some bytes of an object in one request; a negative ``start`` counts from its end."""
    return bytes(_fs(path).cat_file(_name(path), start=start, end=stop))


def modified(path: Path) -> float:
    """Return when an object was last written, in seconds by the clock of the server."""
    return float(_fs(path).modified(_name(path)).timestamp())


def remove(path: Path) -> None:
    """Remove an object, or all objects below a name; nothing happens if there is none."""
    try:
        _fs(path).rm(_name(path), recursive=True)
    except FileNotFoundError:
        return


def total_size(path: Path) -> int:
    """Return the bytes of all objects below a name."""
    return int(_fs(path).du(_name(path))) if path.exists() else 0


class Upload:
    """An object that is being written; it appears when it is published, or not at all.

    S3 takes it in parts while it grows. Elsewhere it grows in a local file, to be sent at the end.
    """

    def __init__(self, final: Path) -> None:
        self._final, self._size = final, 0
        self._file: Any
        if _fs(final).protocol == _S3:
            self._file = _fs(final).open(
                _name(final), "wb", autocommit=False, block_size=_PART_BYTES
            )
        else:
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed when it ends

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)
        self._size += len(data)

    def publish(self) -> None:
        """Send what is left and let the object appear.

        Raises:
            StoreError: If what appeared has another size.
        """
        if _fs(self._final).protocol == _S3:
            self._file.close()
            # If an answer is lost and S3 asked again, it no longer knows the finished upload.
            with suppress(FileNotFoundError):
                self._file.commit()
        else:
            self._file.flush()
            _fs(self._final).put_file(self._file.name, _name(self._final))
            self._file.close()
        found = self._final.stat().st_size
        if found != self._size:
            raise StoreError(
                f"writing {self._final}: sent {self._size} bytes, found {found}; run the same "
                "command again"
            )

    def discard(self) -> None:
        """Leave nothing behind; does nothing after ``publish``."""
        if self._file.closed:
            return
        if _fs(self._final).protocol == _S3:
            self._file.closed = True  # or the garbage collector would send the rest
            self._file.discard()
        else:
            self._file.close()


def abort_uploads(root: Path) -> None:
    """Abort what killed writers were uploading below ``root``; S3 would keep, and charge, it."""
    fs = _fs(root)
    if fs.protocol != _S3:
        return
    bucket, key, _ = fs.split_path(_name(root))
    found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/")
    for upload in found.get("Uploads", []):
        fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])


@contextmanager
def plain_errors(root: Path, doing: str) -> Iterator[None]:
    """Turn what a far side answers into one line that says what was being done.

    Raises:
        StoreError: Instead of an exception of the transport.
    """
    try:
        yield
    except LensCacheError:
        raise
    except Exception as error:
        package = type(error).__module__.split(".")[0]
        if not is_remote(root) or not (isinstance(error, OSError) or package in _TRANSPORTS):
            raise
        raise StoreError(
            f"{doing} {root}: {type(error).__name__}: {one_line(error)}; run the same command "
            "again when the storage answers"
        ) from None


def _options(protocol: str) -> dict[str, Any]:
    """Return what a filesystem is opened with; never a secret.

    Listings are not remembered: other processes write too.
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


def _fs(path: Path) -> Any:
    return cast(Any, path).fs


def _name(path: Path) -> str:
    return str(cast(Any, path).path)
