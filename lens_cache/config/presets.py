"""The presets of a training, as departures from the defaults."""

from __future__ import annotations

PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # Departures of the authors' released code (jiazhen-code/LENS, configs/default.yaml).
    "released": {
        "model": {
            "attention_rows": "last",
            "coordinates": "corner",
            "global_only_probability": 0.9,
            "train_mask_decoder": True,
        },
        "loss": {"dice": 4.0, "bce": 2.0},
        "optimizer": {
            "lr": 1.0e-4,
            "warmup_steps": 0,
            "decay": "constant",
            "gradient_clip": 0.0,
        },
        "batch": {"images": 8, "accumulate": 4},
        "trainer": {"max_steps": 1000, "validate_every": 100},
        "mask_threshold": 0.6,
    },
    # What the paper states, at the size of the world of shapes: a small square, a high rate, the
    # last text row, which learns relations sooner than the mean over rows, and more weight for the
    # attention loss, without which grounding takes several times the steps.
    "shapes": {
        "model": {"attention_rows": "last"},
        "loss": {"attention": 5.0, "attention_size": 64, "mask_size": 64},
        "optimizer": {"lr": 1.2e-3, "warmup_steps": 100},
        "batch": {
            "split": "train",
            "images": 4,
            "queries_per_image": 4,
            "accumulate": 1,
            "loader_workers": 0,
        },
        "trainer": {"max_steps": 500, "validate_every": 250, "threads": 1},
    },
    # The tiny SAM is random, so its mask decoder is trained too; and dice outweighs BCE, without
    # which masks stay empty for long. Masks are compared in a small square.
    "tiny": {
        "model": {"train_mask_decoder": True},
        "loss": {"dice": 4.0, "bce": 2.0, "attention_size": 64, "mask_size": 64},
        "optimizer": {"lr": 1.0e-3, "warmup_steps": 20},
        "batch": {"images": 4, "accumulate": 1, "loader_workers": 0},
        "trainer": {"max_steps": 600, "validate_every": 200, "threads": 1},
    },
}
