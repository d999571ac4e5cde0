"""The feature cache: a directory of Zarr v3 arrays with a plan, commit records and a manifest."""
