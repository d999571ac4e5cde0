"""Imports run one way; who may import what is a rule of the house."""

import ast

import pytest

from tests.support import REPOSITORY

# Who may import a heavy library, as path prefixes.
OWNERS = {
    "ray": ("pipelines/extraction/ray_",),
    "lightning": ("pipelines/training/",),
    "transformers": (
        "lens_cache/encoders/",
        "lens_cache/models/head.py",
        "lens_cache/toy/",
        "pipelines/benchmark/models.py",
    ),
    "segment_anything": (
        "lens_cache/encoders/",
        "lens_cache/features/sam_modules.py",
        "pipelines/benchmark/models.py",
    ),
    "zarr": ("lens_cache/store/zarr/", "pipelines/benchmark/store_ways.py"),
    "webdataset": ("pipelines/benchmark/store_peers.py",),
    "fsspec": ("lens_cache/store/io/remote.py",),
    "upath": ("lens_cache/store/io/remote.py",),
    "typer": ("pipelines/cli/",),
}
# What a folder may never import: each room stands on the ones before it.
ROOMS = (
    "images",
    "config",
    "features",
    "datasets",
    "encoders",
    "models",
    "plan",
    "store",
    "extraction",
    "toy",
    "training",
    "evaluation",
    "predictor",
)
BANNED = {
    "lens_cache/": ("pipelines", "typer", "ray", "lightning"),
    **{
        f"lens_cache/{room}/": tuple(f"lens_cache.{later}" for later in ROOMS[place + 1 :])
        for place, room in enumerate(ROOMS[:-1])
    },
}
BANNED["lens_cache/encoders/"] += ("lens_cache.datasets", "lens_cache.plan")
BANNED["lens_cache/models/"] += ("lens_cache.datasets", "lens_cache.encoders", "zarr", "ray")
BANNED["lens_cache/training/"] += ("lens_cache.extraction", "lens_cache.toy")
BANNED["lens_cache/evaluation/"] += ("lens_cache.extraction", "lens_cache.toy")


def imported(path):
    """Return every module name that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = {
    path.relative_to(REPOSITORY).as_posix(): imported(path)
    for package in ("lens_cache", "pipelines")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_stays_with_its_owner(library):
    users = {file for file, names in FILES.items() if any(within(n, library) for n in names)}
    assert [file for file in users if not file.startswith(OWNERS[library])] == []
    for owner in OWNERS[library]:
        assert any(file.startswith(owner) for file in users)


@pytest.mark.parametrize("folder", BANNED)
def test_imports_run_one_way(folder):
    wrong = [
        f"{file}: {name}"
        for file, names in FILES.items()
        if file.startswith(folder)
        for name in names
        if any(within(name, banned) for banned in BANNED[folder])
    ]
    assert wrong == []
