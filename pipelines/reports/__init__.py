"""Parts of reports: text output, units, HTML pages, charts, the page of settings."""
