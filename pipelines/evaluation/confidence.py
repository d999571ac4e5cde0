"""The calibration of a run, and how well its scores order the masks of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_cache.config.load import to_tree
from lens_cache.evaluation.confidence import (
    MEASURES,
    Calibration,
    RiskCoverage,
    calibrate,
    risk_coverage,
)
from lens_cache.evaluation.scores import Sample
from lens_cache.predictor.trained_head import CALIBRATION_FILE
from lens_cache.store.io.files import replacing
from lens_cache.training.run import Run
from pipelines.reports.markdown import table


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How well the calibrated score tells good masks from bad ones.

    Attributes:
        measure: The measure that was chosen.
        fitted_on: Split on which it was chosen and calibrated; may be empty.
        curve: Risk of the masks with the highest scores.
        error: Mean distance of score and IoU over ten groups of equal scores (expected calibration
            error).
    """

    measure: str
    fitted_on: str
    curve: RiskCoverage
    error: float


def fit_calibration(samples: Sequence[Sample], split: str) -> Calibration:
    """Choose and calibrate a measure on the samples of a split."""
    measures = {name: [sample.measures[name] for sample in samples] for name in MEASURES}
    return calibrate(measures, [sample.iou for sample in samples], split)


def save_calibration(run: Run, calibration: Calibration) -> None:
    """Write the calibration of a run."""
    with replacing(run.folder / CALIBRATION_FILE) as file:
        file.write((json.dumps(to_tree(calibration), indent=1) + "\n").encode())


def confidence(samples: Sequence[Sample], *, measure: str, fitted_on: str) -> Confidence | None:
    """Measure how well the scores of samples order them; None if a sample has no score.

    Args:
        samples: The samples.
        measure: What the scores are, for the report.
        fitted_on: Split on which they were calibrated; may be empty.
    """
    known = [sample.score for sample in samples if sample.score is not None]
    if len(known) < len(samples):
        return None
    scores, ious = np.array(known), np.array([sample.iou for sample in samples])
    groups = np.array_split(np.argsort(scores, kind="stable"), min(10, len(scores)))
    distances = [abs(scores[g].mean() - ious[g].mean()) * len(g) for g in groups]
    return Confidence(
        measure=measure,
        fitted_on=fitted_on,
        curve=risk_coverage(scores, ious),
        error=float(np.sum(distances) / len(scores)),
    )


def confidence_lines(found: Confidence) -> list[str]:
    """Return the risk-coverage table as Markdown."""
    curve = found.curve
    fitted = f", calibrated on `{found.fitted_on}`" if found.fitted_on else ""
    body = [[f"{share:.0%}", f"{100 * (1 - risk):.1f}"] for share, risk in curve.risk.items()]
    return [
        f"Masks with the highest scores ({found.measure}{fitted}; mean distance of score and IoU "
        f"{found.error:.3f}):",
        "",
        *table(["masks kept", "their gIoU"], body),
        "",
        f"Area under the risk-coverage curve {curve.area:.3f}; a perfect order has "
        f"{curve.best:.3f}, a random one {curve.random:.3f}.",
        "",
    ]
