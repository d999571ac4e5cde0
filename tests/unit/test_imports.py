"""Imports run one way; who may import what is a rule of the house."""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]

# Who may import a heavy library, as path prefixes.
OWNERS = {
    "ray": ("pipelines/ray_", "pipelines/planning.py"),
    "lightning": (
        "lens_cache/training.py",
        "pipelines/train.py",
        "pipelines/train_data.py",
        "pipelines/callbacks.py",
        "pipelines/loggers.py",
        "pipelines/pictures.py",
        "pipelines/speed.py",
        "pipelines/strategies.py",
    ),
    "transformers": ("lens_cache/encoders/", "lens_cache/models/head.py"),
    "segment_anything": ("lens_cache/encoders/", "lens_cache/models/decoder.py"),
    "zarr": ("lens_cache/store/zarr.py", "pipelines/benchmark/store_ways.py"),
    "webdataset": ("pipelines/benchmark/store_peers.py",),
    "fsspec": ("lens_cache/store/remote.py",),
    "upath": ("lens_cache/store/remote.py",),
    "typer": ("pipelines/cli/",),
}
# What a folder may never import.
BANNED = {
    "lens_cache/": ("pipelines", "typer", "ray"),
    "lens_cache/store/": ("lens_cache.models", "lens_cache.encoders", "transformers"),
    "lens_cache/encoders/": ("lens_cache.models", "lens_cache.store"),
    "lens_cache/models/": ("lens_cache.store", "lens_cache.encoders", "zarr", "ray", "lightning"),
}


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
    path.relative_to(HERE).as_posix(): imported(path)
    for package in ("lens_cache", "pipelines")
    for path in sorted((HERE / package).rglob("*.py"))
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
