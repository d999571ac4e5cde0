"""The result of a probe as a table with bars."""

from __future__ import annotations

from dataclasses import asdict

from lens_cache.evaluation.probe import Probe
from pipelines.reports.report import Report

_BAR = 24


def probe_report(found: Probe) -> Report:
    """Report every reading, the best at pointing first."""
    best = found.readings[0]
    lines = [
        f"{found.store}: {found.queries} queries about {found.images} images"
        + (f" of split {found.split}" if found.split else ""),
        f"{'layer':>5}  {'rows':<5} {'pointing, % (95 %)':<20} {'mean IoU, % (95 %)':<20} cut at",
        *(
            f"{one.layer:>5}  {one.rows:<5} {one.pointing.percent():<20} {one.iou.percent():<20} "
            f"{one.share:>5.0%}   {_bar(one.pointing.value)}"
            for one in found.readings
        ),
        f"{'':>5}  {'':<5} {100 * found.chance:<20.1f} {'':<20} {'':>5}   {_bar(found.chance)} "
        "a random point",
        f"best: --set model.layer={best.layer} --set model.attention_rows={best.rows}",
    ]
    if found.without_target:
        lines.append(f"{found.without_target} queries without a target were not probed")
    if found.without_weights:
        lines.append(
            f"layers {found.without_weights} were not probed: the store has no decoder weights for "
            "the MLLM's last layer"
        )
    return Report(asdict(found), "\n".join(lines))


def _bar(share: float) -> str:
    return "\u2588" * round(_BAR * share)
