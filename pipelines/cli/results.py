"""Commands for the tables of the paper: general ability, routing, and the tables themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli.options import Device, Json, Overrides, chosen_device, open_bars, show

if TYPE_CHECKING:
    from lens_cache.predictor import LensPredictor

app = typer.Typer()


@app.command("table")
def result_table(
    name: Annotated[
        Literal["reasonseg", "refcoco", "grefcoco", "general", "routing", "ablations", "cost"],
        typer.Argument(metavar="NAME", help="reasonseg, refcoco, grefcoco, general, routing, ..."),
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Folders of evaluations, for measured rows."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder.")] = Path("runs/tables"),
    as_json: Json = False,
) -> None:
    """Write a table of the paper, published rows and measured ones: Markdown, JSON, CSV, LaTeX."""
    from pipelines.evaluation.table_files import write_table
    from pipelines.evaluation.tables import build_table

    show(write_table(build_table(name, folders or ()), out), as_json)


Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="An exported head: a folder, a hub id, or shapes, which comes with the package.",
    ),
]


@app.command()
def general(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="MME.tsv, MMBench_DEV_EN.tsv, MMMU..., MMStar.tsv."),
    ],
    model: Model = "shapes",
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder.")] = Path("runs/general"),
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Answer every N-th question, from question I.")
    ] = "0/1",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first N questions, or images of MME."),
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Answer general benchmarks through the agent and by the bare MLLM; resumes.

    The files are those of VLMEvalKit. With --shard several processes share the work; the one that
    ends last writes the report.
    """
    from pipelines.evaluation.general import evaluate_general
    from pipelines.evaluation.general import report as report_general
    from pipelines.reports.report import Report

    part = _shard(shard)
    predictor = _talking_predictor(model, overrides, device)
    documents, texts = [], []
    with open_bars() as bars:
        for path in files:
            found = evaluate_general(
                predictor, path, out, shard=part, limit=limit, progress=bars.progress
            )
            if found is None:
                texts.append(f"{path.name}: shard {shard} is complete; others are not")
                continue
            shown = report_general(found)
            documents.append(shown.document)
            texts.append(shown.text)
    show(Report({"benchmarks": documents}, "\n\n".join(texts)), as_json)


@app.command()
def routing(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines: image, request, route, tier, mask.")
    ],
    model: Model = "shapes",
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder.")] = Path("runs/routing"),
    overrides: Overrides = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure which requests the agent takes for what, and its masks end to end; resumes."""
    from pipelines.evaluation.routing import evaluate_routing
    from pipelines.evaluation.routing import report as report_routing

    predictor = _talking_predictor(model, overrides, device)
    with open_bars() as bars:
        found = evaluate_routing(predictor, file, out, progress=bars.progress)
    show(report_routing(found), as_json)


def _talking_predictor(
    model: str, overrides: list[str] | None, device: str | None
) -> LensPredictor:
    from lens_cache.predictor import LensPredictor

    return LensPredictor.from_pretrained(
        model, overrides=tuple(overrides or ()), device=chosen_device(device), chat=True
    )


def _shard(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if place.isdigit() and count.isdigit() and int(place) < int(count):
        return int(place), int(count)
    raise typer.BadParameter(f"--shard: expected I/N with 0 <= I < N, such as 0/4, found {text}")
