"""The feature cache: a directory of Zarr v3 arrays with a plan, commit records and a manifest.

Importing it registers the codecs of stored values with numcodecs and Zarr.
"""

from lens_cache.store import codecs as _codecs
from lens_cache.store.zarr import codecs as _zarr_codecs

_codecs.register()
_zarr_codecs.register()
