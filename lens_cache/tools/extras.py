"""What is said if an optional package is missing."""

from __future__ import annotations

from lens_cache.errors import ConfigError, one_line


def missing_extra(what: str, extra: str, error: ImportError) -> ConfigError:
    """Return the error for a package that cannot be imported.

    Args:
        what: What needs it, e.g. "the MCP server".
        extra: Name of the extra that installs it.
        error: What Python said.
    """
    return ConfigError(f"{what}: {one_line(error, 120)}; run `pip install 'lens-cache[{extra}]'`")
