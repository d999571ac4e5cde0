from pipelines.reports.settings_page import settings_page
from tests.support import REPOSITORY


def test_the_committed_page_is_the_generated_one():
    """If this fails, run: lens-cache config docs > docs/settings.md."""
    assert (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8") == settings_page()


def test_the_page_lists_values_and_defaults():
    page = settings_page()
    assert "- **`loss.dice`** (number >= 0; default `2.0`): Weight of the dice loss." in page
    assert "- **`data.limit`** (integer > 0 or empty; default empty): " in page
    assert "- **`batch.mixture.rate`** (number > 0; required): " in page
    assert "### Training: preset `released`" in page
