"""A tool whose package is not installed says how to install it."""

import importlib
import sys

import pytest

from lens_cache.errors import ConfigError


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("mcp_server", "mcp", "mcp"),
        ("langchain", "langchain_core", "langchain"),
        ("smolagents", "smolagents", "smolagents"),
    ],
)
def test_a_missing_package_is_one_line(monkeypatch, module, package, extra):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"lens_cache.tools.{module}", raising=False)
    with pytest.raises(ConfigError) as found:
        importlib.import_module(f"lens_cache.tools.{module}")
    assert str(found.value).endswith(f"; run `pip install 'lens-cache[{extra}]'`")
    assert "\n" not in str(found.value)
