"""Files on disk or behind a URL that appear complete or not at all."""
