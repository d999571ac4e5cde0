"""Imports run one way; who may import what is a rule of the house."""

import ast

import pytest

from tests.support import REPOSITORY

# Who may import a heavy library, as path prefixes.
OWNERS = {
    "ray": ("pipelines/extraction/ray_", "pipelines/evaluation/ray_workers.py"),
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
    "numcodecs": ("lens_cache/store/codecs.py",),
    "webdataset": ("lens_cache/store/webdataset/", "pipelines/benchmark/store_peers.py"),
    "fsspec": ("lens_cache/store/io/remote.py",),
    "upath": ("lens_cache/store/io/remote.py",),
    "typer": ("pipelines/cli/",),
    "mcp": ("lens_cache/tools/mcp_server.py",),
    "langchain_core": ("lens_cache/tools/langchain.py",),
    "smolagents": ("lens_cache/tools/smolagents.py",),
    "lmms_eval": ("lens_cache/tools/lmms_eval/",),
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
    "agent",
    "benchmarks",
    "tools",
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


# What pipelines/ may import of the store: its door. Benchmarks measure its insides.
STORE_DOOR = (
    "lens_cache.store.store",
    "lens_cache.store.catalogue",
    "lens_cache.store.folder",
    "lens_cache.store.manifest",
    "lens_cache.store.layout",
    "lens_cache.store.paths",
    "lens_cache.store.quarantine",
    "lens_cache.store.run_log",
    "lens_cache.store.space",
    "lens_cache.store.verify",
    "lens_cache.store.mend",
    "lens_cache.store.convert",
    "lens_cache.store.io.remote.store_path",
    "lens_cache.store.io.files.folder_in_one_step",
    "lens_cache.store.io.files.replacing",
    "lens_cache.store.io.file_lock.file_lock",
    "lens_cache.store.io.remote.plain_errors",
)


def test_pipelines_use_the_store_through_its_door():
    wrong = [
        f"{file}: {name}"
        for file, names in FILES.items()
        if file.startswith("pipelines/") and not file.startswith("pipelines/benchmark/")
        for name in names
        if within(name, "lens_cache.store") and not any(within(name, d) for d in STORE_DOOR)
    ]
    assert wrong == []
    used = {
        name for file, names in FILES.items() if file.startswith("pipelines/") for name in names
    }
    assert [d for d in STORE_DOOR if not any(within(name, d) for name in used)] == []


def test_only_the_store_removes_its_files():
    outside = [
        file
        for file, names in FILES.items()
        if not file.startswith("lens_cache/store/")
        for name in names
        if name.rpartition(".")[2] in ("commit_path", "quarantine_path", "remove_file")
    ]
    assert outside == []
