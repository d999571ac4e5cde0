"""Find files of a set that are in a wrong place: common mistakes of real folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath


def misplaced(root: Path, missing: Sequence[str]) -> str:
    """Return why files are not found below ``root`` and what to do; an empty string if unknown.

    Args:
        root: The folder that should be LISA's.
        missing: Paths relative to it, none of which exists.
    """
    for folder in _around(root):
        if all((folder / path).exists() for path in missing):
            return f"LISA's folder seems to be {folder}: use it as the root"
    for path in missing:
        found = _with_case_of_disk(root, PurePosixPath(path))
        link = next((part for part in _parts(found) if _is_dangling(root / part)), None)
        if link is not None:
            return f"{link} is a link to {(root / link).readlink()}, which does not exist"
        if (root / found).exists():
            return f"{found} exists: rename it, names are case-sensitive"
    return ""


def _around(root: Path) -> Iterator[Path]:
    """Yield the two parents of a folder, then its subfolders."""
    yield from root.resolve().parents[:2]
    yield from sorted(entry for entry in root.iterdir() if entry.is_dir())


def _with_case_of_disk(root: Path, path: PurePosixPath) -> PurePosixPath:
    """Return the path with the upper and lower case of the names on disk, as far as it exists."""
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
    """Return the parents of a path, outermost first, then the path itself."""
    return [*reversed(path.parents), path]


def _is_dangling(path: Path) -> bool:
    return path.is_symlink() and not path.exists()
