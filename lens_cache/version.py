"""The version of the code, which manifests and reports state."""

__version__ = "0.1.0"
