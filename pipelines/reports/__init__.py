"""What reports share: text output, HTML pages, charts."""
