"""Large files that are written piece by piece, and appear complete or not at all."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from lens_cache.errors import StoreError
from lens_cache.store.io.files import publish, temporary_path
from lens_cache.store.io.remote import abort, filesystem, is_remote, is_s3, name_of

# S3 takes an object in up to 10,000 parts; some servers want all but the last of one size.
_PART_BYTES = 16 << 20
_PARTS_UNDER_WAY = 4


class PendingFile(Protocol):
    """A file that is being written."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def publish(self) -> None:
        """Make the complete file appear."""

    def discard(self) -> None:
        """Remove it; does nothing after ``publish``."""


class LocalFile:
    """A file that is being written in ``root/tmp``."""

    def __init__(self, root: Path, final: Path) -> None:
        self._final = final
        self._temporary = temporary_path(root)
        self._file = self._temporary.open("wb")

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)

    def publish(self) -> None:
        """Flush it to the disk and move it to its place."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        publish(self._temporary, self._final)

    def discard(self) -> None:
        """Remove it; does nothing after ``publish``."""
        try:
            self._file.close()  # on a full disk, flushing the buffer fails again
        finally:
            self._temporary.unlink(missing_ok=True)


class SpooledUpload:
    """A local temporary file that is uploaded when it is complete; works on any storage."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - ends with this object

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._file.write(data)

    def publish(self) -> None:
        """Upload the object.

        Raises:
            StoreError: If the object has another size.
        """
        self._file.flush()
        size = self._file.tell()
        filesystem(self._final).put_file(self._file.name, name_of(self._final))
        self._file.close()
        _require_size(self._final, size)

    def discard(self) -> None:
        """Remove it; does nothing after ``publish``."""
        self._file.close()


class PartedUpload:
    """An S3 multipart upload; a few parts are in memory at a time."""

    def __init__(self, final: Path) -> None:
        self._final, self._fs = final, filesystem(final)
        bucket, key, _ = self._fs.split_path(name_of(final))
        self._target = {"Bucket": bucket, "Key": key}
        self._before = self._etag()
        started = self._fs.call_s3("create_multipart_upload", **self._target)
        self._target["UploadId"] = started["UploadId"]
        self._rest = bytearray()
        self._size = 0
        self._parts: list[Future[str]] = []
        self._threads = ThreadPoolExecutor(_PARTS_UNDER_WAY)
        self._ended = False

    def write(self, data: bytes) -> None:
        """Append bytes; waits while too many parts are being sent."""
        self._rest += data
        self._size += len(data)
        while len(self._rest) >= _PART_BYTES:
            self._send(bytes(self._rest[:_PART_BYTES]))
            del self._rest[:_PART_BYTES]

    def publish(self) -> None:
        """Send the rest and make the object appear.

        Raises:
            StoreError: If the object has another size.
        """
        if self._rest or not self._parts:
            self._send(bytes(self._rest))
        tags = [part.result() for part in self._parts]
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        try:
            self._fs.call_s3(
                "complete_multipart_upload", **self._target, MultipartUpload={"Parts": parts}
            )
        except FileNotFoundError:
            # If an answer was lost and the request repeated, S3 no longer knows the upload that it
            # finished. If no new object has appeared, the upload was aborted.
            if self._etag() == self._before:
                raise
        self._ended = True
        self._threads.shutdown()
        _require_size(self._final, self._size)

    def discard(self) -> None:
        """Remove it; does nothing after ``publish``."""
        if not self._ended:
            self._ended = True
            self._threads.shutdown(cancel_futures=True)
            abort(self._fs, **self._target)

    def _etag(self) -> str | None:
        """Return the ETag of the object; None if it does not exist."""
        try:
            return str(self._fs.info(name_of(self._final))["ETag"])
        except FileNotFoundError:
            return None

    def _send(self, data: bytes) -> None:
        if len(self._parts) >= _PARTS_UNDER_WAY:
            self._parts[-_PARTS_UNDER_WAY].result()
        number = len(self._parts) + 1
        self._parts.append(self._threads.submit(self._send_part, number, data))

    def _send_part(self, number: int, data: bytes) -> str:
        sent = self._fs.call_s3("upload_part", **self._target, PartNumber=number, Body=data)
        return str(sent["ETag"])


def pending_file(root: Path, final: Path) -> PendingFile:
    """Open a large file to write it piece by piece."""
    if not is_remote(final):
        return LocalFile(root, final)
    return PartedUpload(final) if is_s3(final) else SpooledUpload(final)


def _require_size(final: Path, size: int) -> None:
    found = final.stat().st_size
    if found != size:
        raise StoreError(
            f"writing {final}: sent {size} bytes, found {found}; run the same command again"
        )
