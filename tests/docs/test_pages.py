"""The README is short and its links lead somewhere; the site builds without a broken link."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import REPOSITORY
from tests.support.markdown import blocks, links

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def test_the_readme_is_short_and_has_a_picture_and_python():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert any(line.startswith("![") for line in lines[:10])
    assert any(block.language == "python" for block in blocks(README))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page):
    targets = [link.partition("#")[0] for link in links(page) if "://" not in link]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("picture", sorted((DOCS / "figures").glob("*.png")), ids=lambda p: p.name)
def test_a_figure_is_small_and_used(picture):
    assert picture.stat().st_size < 200_000
    assert any(picture.name in link for page in PAGES for link in links(page))


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = [
        f"{page.name}: {address}"
        for page in tmp_path.rglob("*.html")
        for address in re.findall(
            r"<(?:script|link|img)[^>]*?(?:src|href)=\"?(https?://[^\" >]+)", page.read_text()
        )
    ]
    assert fetched == []
