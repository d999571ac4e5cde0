"""The model card of an exported head."""

from __future__ import annotations

from typing import Any

from lens_cache.evaluation.intervals import Interval
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.training.run import Run
from lens_cache.version import __version__
from pipelines.provenance import git_commit
from pipelines.reports.markdown import table


def model_card(head: TrainedHead, run: Run) -> str:
    """Return the card as Markdown, with the metadata that the Hugging Face hub reads."""
    encoders = head.encoders["encoders"]
    count = sum(weight.numel() for weight in head.weights.values())
    training = head.config.trainer
    parts = [
        "---",
        "library_name: lens-cache",
        "pipeline_tag: image-segmentation",
        "tags: [lens, segmentation, multimodal]",
        "---",
        "",
        f"# {head.name}",
        "",
        "The trained part of LENS: a head that gives a frozen multimodal LLM segmentation. It "
        "needs the two frozen models that it was trained on, and refuses others.",
        "",
        "```python",
        "import lens_cache as lc",
        "",
        f'predictor = lc.LensPredictor.from_pretrained("{head.name}")',
        'predictor("photo.jpg", "the dog on the left").save("mask.png")',
        "```",
        "",
        *table(
            ["", ""],
            [
                ["multimodal LLM", _model(encoders["llava"])],
                ["SAM", _model(encoders["sam"])],
                ["layer", str(head.layer)],
                ["trained parameters", f"{count / 1e6:.2f} M"],
                ["settings", f"preset `{head.config.preset}`, in `lens.json`"],
                ["steps, seed", f"{training.max_steps}, {training.seed}"],
                ["written by", f"lens-cache {__version__}, commit {git_commit() or 'unknown'}"],
            ],
        ),
        "",
        "## Scores",
        "",
    ]
    if head.scores:
        rows = [_row(split, score) for split, score in head.scores.items()]
        parts += [
            *table(["split", "images", "queries", "gIoU", "cIoU", "trained on"], rows),
            "",
            "Measured by `lens-cache evaluate`; intervals: 95 % bootstrap over images.",
        ]
    else:
        parts.append("None was measured before the export.")
    if head.calibration is not None:
        fitted = head.calibration
        parts += [
            "",
            f"The score of a mask is the IoU that is expected of it: its {fitted.measure}, "
            f"calibrated on `{fitted.split}` ({fitted.queries} queries).",
        ]
    return "\n".join(parts) + "\n"


def _model(settings: dict[str, Any]) -> str:
    revision = f", revision {settings['revision']}" if settings.get("revision") else ""
    return f"`{settings['checkpoint']}`{revision}, {settings['dtype']}"


def _row(split: str, score: dict[str, Any]) -> list[str]:
    seen = f"{score['trained_on']} of its images" if score["trained_on"] else "no"
    return [
        f"`{split}`",
        str(score["images"]),
        str(score["queries"]),
        Interval(**score["giou"]).percent(),
        Interval(**score["ciou"]).percent(),
        seen,
    ]
