"""The command and Python blocks of README and tutorial work, in order, from a fresh checkout.

A block that cannot run here has its reason in a comment: ``<!-- not run: needs a GPU -->``.
"""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.support import REPOSITORY
from tests.support.markdown import blocks

README = REPOSITORY / "README.md"
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
# Reasons for which a block of these two pages may be left to the reader.
REASONS = {
    README: ["installs 6.5 GB; the tests run in the environment that it makes"],
    TUTORIAL: [
        "the environment of this shell is already active",
        "takes more than half an hour",
    ],
}
# The fast test's sizes; what is replaced must be on the page.
SMALL_WORLD = {"--train 400 --val 40 --test 60 --hard 20": "--train 4 --val 1 --test 2 --hard 1"}
SHORT = "--set trainer.max_steps=2 --set trainer.validate_every=2"
REDUCED = {
    README: SMALL_WORLD
    | {
        "-c configs/train/shapes.yaml": f"-c configs/train/shapes.yaml {SHORT}",
        "-c configs/train/tiny.yaml": f"-c configs/train/tiny.yaml {SHORT}",
    },
    TUTORIAL: SMALL_WORLD
    | {
        "--set trainer.max_steps=100": SHORT,
        "--set trainer.max_steps=120": "--set trainer.max_steps=3",
        "--set trainer.max_steps=20": SHORT,
        "--limit 20": "--limit 1",
    },
}
PAGES = pytest.mark.parametrize("page", [README, TUTORIAL], ids=lambda page: page.name)
# The tutorial takes minutes even so.
REDUCED_PAGES = pytest.mark.parametrize(
    "page", [README, pytest.param(TUTORIAL, marks=pytest.mark.slow)], ids=lambda page: page.name
)


def script(page):
    """Return one bash script of a page's blocks, which stops at the first command that fails."""
    lines = ["set -euo pipefail", "trap 'echo \"failed: $place\" >&2' ERR"]
    for block in blocks(page):
        lines.append(f"place={shlex.quote(f'{page.name}, block at line {block.line}')}")
        if block.language == "bash" and block.reason is None:
            lines.append(block.code)
        elif block.language == "python":
            lines.append(f"python - <<'END_OF_BLOCK'\n{block.code}END_OF_BLOCK")
    return "\n".join(lines)


def run(text, folder):
    """Run a script in a folder that looks like a fresh checkout; returns what it left in it."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in {"python": "", "lens-cache": "-m pipelines"}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        program.chmod(0o755)
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("configs", "examples", "lens_cache", "pipelines"):
        (checkout / name).symlink_to(REPOSITORY / name)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_worker_niceness": "0",  # by default Ray's workers yield to everything else that runs
    }
    command = ["bash", "-c", text]
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return checkout


@PAGES
def test_only_blocks_with_a_known_reason_are_not_run(page):
    assert [block.reason for block in blocks(page) if block.reason] == REASONS[page]
    assert {block.language for block in blocks(page)} <= {"bash", "python", "text"}


@REDUCED_PAGES
def test_the_blocks_of_a_page_run_at_reduced_sizes(page, tmp_path):
    text = script(page)
    for size, reduced in REDUCED[page].items():
        assert size in text
        text = text.replace(size, reduced)
    assert_complete(page, run(text, tmp_path))


@pytest.mark.slow
@PAGES
def test_the_blocks_of_a_page_run_as_they_are(page, tmp_path):
    assert_complete(page, run(script(page), tmp_path))


def assert_complete(page, checkout):
    """Check that every folder and file below runs/ that a block names was made."""
    named = set(re.findall(r"runs/[a-z]+/[\w./-]+", script(page)))
    assert named
    assert [path for path in sorted(named) if not (checkout / path).exists()] == []
