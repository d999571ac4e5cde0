"""Where files of a set lie that are not where they are looked for: the slips of real folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath


def slip(root: Path, missing: Sequence[str]) -> str:
    """Say what keeps files from being found below ``root``, with what to do; nothing if unknown.

    Args:
        root: The folder that should be LISA's.
        missing: Paths relative to it, none of which exists.
    """
    for folder in _around(root):
        if all((folder / path).exists() for path in missing):
            return f"LISA's folder seems to be {folder}: give that one as the root"
    for path in missing:
        found = _as_it_stands(root, PurePosixPath(path))
        link = next((part for part in _parts(found) if _leads_nowhere(root / part)), None)
        if link is not None:
            return f"{link} is a link to {(root / link).readlink()}, which is not there"
        if (root / found).exists():
            return f"{found} is there: rename it, capital letters count"
    return ""


def _around(root: Path) -> Iterator[Path]:
    """Yield the folders that hold this one, and those in it."""
    yield from root.resolve().parents[:2]
    yield from sorted(entry for entry in root.iterdir() if entry.is_dir())


def _as_it_stands(root: Path, path: PurePosixPath) -> PurePosixPath:
    """Return the path with the letters that it has on the disk, as far as it is there."""
    found = PurePosixPath()
    for part in path.parts:
        try:
            names = [entry.name for entry in (root / found).iterdir()]
        except OSError:
            names = []
        alike = [name for name in names if name.casefold() == part.casefold()]
        found /= alike[0] if len(alike) == 1 else part
    return found


def _parts(path: PurePosixPath) -> list[PurePosixPath]:
    """Return the path's folders from the outermost, and itself."""
    return [*reversed(path.parents), path]


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
