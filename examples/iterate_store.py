"""Open a store and iterate over its features as PyTorch tensors.

python examples/iterate_store.py runs/demo/store
"""

from __future__ import annotations

import argparse

import lens_cache as lc


def main() -> None:
    """Print the shapes of the first images of a store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", default="runs/demo/store", help="folder or URL")
    parser.add_argument("--split", default=None, help="only images with a query in this split")
    parser.add_argument("--limit", type=int, default=3, help="number of images to print")
    arguments = parser.parse_args()

    store = lc.Store(arguments.store)
    print(f"{len(store)} images; layers {store.layers}; queries per split {store.plan.splits()}")
    for number, record in enumerate(store.records(arguments.split)):
        if number == arguments.limit:
            break
        features = record.features
        print(
            f"{record.image.path}: "
            f"image tokens {tuple(features.image_tokens.shape)} {features.image_tokens.dtype}, "
            f"SAM embedding {tuple(features.image_embedding.shape)}"
        )
        for query, states in zip(record.queries, features.text_tokens, strict=True):
            print(f"    {query.instruction!r}: text tokens {tuple(states.shape)}")


if __name__ == "__main__":
    main()
