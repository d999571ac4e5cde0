"""The Zarr v3 format: random access."""
