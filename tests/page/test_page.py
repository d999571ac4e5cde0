"""The page in a real browser: upload, ask, look, correct, follow up, download.

Run by `make test-page`. Screenshots are left in runs/page.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from lens_cache.assets import SHAPES_PICTURES
from lens_cache.images.masks import decode, from_counts
from tests.support import REPOSITORY

pytestmark = pytest.mark.page
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytest.importorskip("gradio", reason="pip install 'lens-cache[serve]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SCREENSHOTS = REPOSITORY / "runs" / "page"
PORT = int(os.environ.get("LENS_CACHE_PAGE_PORT", "7871"))
URL = f"http://127.0.0.1:{PORT}"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT = 120_000  # milliseconds


@pytest.fixture(scope="module")
def server():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    command = [sys.executable, "-m", "pipelines", "serve", "--port", str(PORT), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"{URL}/healthz", timeout=5)
            break
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
    yield process
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def browser(server):
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, *, width=1280, height=960, dark=False):
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
    )
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.failed = []
    page.on("pageerror", lambda error: page.failed.append(str(error)))
    page.on(
        "request", lambda request: page.failed.append(request.url) if outside(request) else None
    )
    page.goto(f"{URL}/")
    page.wait_for_selector("#request textarea, #request input")
    return page


def outside(request):
    """Whether a request leaves this machine."""
    return not request.url.startswith((URL, "data:", "blob:"))


def upload(page, name="ring.png"):
    page.locator("#upload input[type=file]").set_input_files(str(SHAPES_PICTURES / name))
    page.wait_for_selector("#picture img")


def ask(page, text):
    """Send a request; returns the last reply."""
    replies = page.locator("#chat [data-testid=bot]")
    before = replies.count()
    box = page.locator("#request textarea, #request input").first
    box.fill(text)
    box.press("Enter")
    playwright.expect(replies).to_have_count(before + 1, timeout=WAIT)
    page.wait_for_function("() => !document.querySelector('.progress-text, .eta-bar')")
    return replies.last.inner_text().strip()


def picture(page):
    return page.locator("#picture img").first.get_attribute("src")


def wait_for_another_picture(page, before):
    page.wait_for_function(
        "before => document.querySelector('#picture img').src !== before", arg=before
    )


def downloaded(page, key):
    with page.expect_download(timeout=WAIT) as waiting:
        page.locator(f"#{key}").click()
    return waiting.value.path()


def shoot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def test_a_visit(browser):
    page = open_page(browser)
    upload(page)
    assert ask(page, "the red ring") == "Sure, the segmentation result is generated."
    about = page.locator("#about")
    playwright.expect(about).to_contain_text("the red ring", timeout=WAIT)
    first = json.loads(downloaded(page, "download-json").read_text())
    ring = decode(from_counts(first["segmentation"]["counts"], 128, 128))
    assert 0.02 < ring.mean() < 0.3
    png = np.asarray(Image.open(downloaded(page, "download-mask")))
    np.testing.assert_array_equal(png > 0, ring)
    shoot(page, "wide-light")

    # A follow-up is about the mask.
    assert ask(page, "What colour is it?") == "red"

    # Another instruction gives another mask.
    before = page.locator("#picture img").first.evaluate("image => image.src")
    ask(page, "the small purple star")
    wait_for_another_picture(page, before)
    playwright.expect(about).to_contain_text("the small purple star")
    second = json.loads(downloaded(page, "download-json").read_text())
    star = decode(from_counts(second["segmentation"]["counts"], 128, 128))
    assert (star & ring).sum() < 0.2 * ring.sum()

    # A click corrects it.
    before = page.locator("#picture img").first.evaluate("image => image.src")
    box = page.locator("#picture img").first.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.07 * box["height"])
    wait_for_another_picture(page, before)
    playwright.expect(about).to_contain_text("1 clicks")
    third = json.loads(downloaded(page, "download-json").read_text())
    assert third["clicks"][0]["inside"]
    assert abs(third["clicks"][0]["x"] - 0.75 * 128) < 2
    assert third["segmentation"] != second["segmentation"]

    # The heat map, the history, and another picture.
    before = page.locator("#picture img").first.evaluate("image => image.src")
    page.get_by_label("heat map").click()
    wait_for_another_picture(page, before)
    shoot(page, "heat-map")
    page.get_by_label("mask", exact=True).click()
    page.locator("#history button, #history img").first.click()
    playwright.expect(about).to_contain_text("the red ring")
    page.locator("#examples img").nth(1).click()
    page.wait_for_timeout(1000)
    assert re.search("circle", ask(page, "How many circles are there?")) is None
    assert page.failed == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_screenshots(browser, width, dark):
    page = open_page(browser, width=width, height=900, dark=dark)
    upload(page)
    ask(page, "Please mark the red ring.")
    playwright.expect(page.locator("#about")).to_contain_text("red ring")
    page.wait_for_timeout(500)
    shoot(page, f"{'wide' if width > 400 else 'narrow'}-{'dark' if dark else 'light'}")
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    assert page.failed == []


def test_a_file_that_is_no_picture_is_refused_with_the_reason(browser, tmp_path):
    page = open_page(browser)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    page.locator("#upload input[type=file]").set_input_files(str(bad))
    playwright.expect(page.locator("body")).to_contain_text("not an image", timeout=WAIT)
