"""Read a store with Zarr alone, and print what its arrays hold.

Run ``python examples/read_with_zarr.py STORE``. lens-cache has to be installed but is not imported:
Zarr finds the codecs for bfloat16, int8 and fp8 by their entry points.
"""

from __future__ import annotations

import sys
from pathlib import Path

import zarr


def main(store: Path) -> None:
    """Print dtype, shape and range of the first entry of every array."""
    for metadata in sorted(store.rglob("zarr.json")):
        array = zarr.open(metadata.parent, mode="r")
        if not isinstance(array, zarr.Array):
            continue
        names = array.metadata.dimension_names
        shape = ", ".join(f"{name} {size}" for name, size in zip(names, array.shape, strict=True))
        first = array[0]
        print(
            f"{metadata.parent.relative_to(store)}: {array.dtype} ({shape}), stored as "
            f"{array.attrs['dtype']}; first {names[0]}: {first.min():.4g} to {first.max():.4g}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
