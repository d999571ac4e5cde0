"""Commands that plan, extract, inspect, verify and convert a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import (
    Address,
    ConfigFiles,
    Device,
    Json,
    Overrides,
    StorePath,
    chosen_device,
    open_bars,
    show,
    store_location,
)

app = typer.Typer()
Group = Literal["hidden_states", "image_embeddings"]
Format = Literal["zarr", "webdataset"]
Precision = Literal["model", "fp8", "int8"]


@app.command()
def plan(
    store: StorePath,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List every image and query of the data; runs no model."""
    from lens_cache.config.extract import ExtractConfig
    from lens_cache.config.load import load_config

    settings = load_config(ExtractConfig, config, overrides or ())  # a mistake ends it at once

    from pipelines.extraction.extract import plan_store
    from pipelines.extraction.ray_planning import ray_mapper
    from pipelines.extraction.report import planning as report_planning

    with open_bars() as bars:
        made = plan_store(store, settings, bars, ray_mapper(address))
    show(report_planning(store, made), as_json)


@app.command()
def extract(
    store: StorePath,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cost and write nothing.")
    ] = False,
    gpus: Annotated[
        int, typer.Option(metavar="N", min=1, help="For --dry-run: number of GPUs.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="IMAGES_PER_S",
            min=1e-9,
            help="For --dry-run: rate of one GPU; measured or estimated by default.",
        ),
    ] = None,
    replace: Annotated[
        Group | None, typer.Option(help="Remove a feature group and extract it again.")
    ] = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Extract quarantined images again.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start even if the disk seems too small.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the frozen models once over the data and cache their features.

    After any interruption, run the same command again to resume.
    """
    from lens_cache.config.extract import ExtractConfig
    from lens_cache.config.load import load_config

    settings = load_config(ExtractConfig, config, overrides or ())  # a mistake ends it at once

    from pipelines.extraction.dry_run import dry_run as count_cost
    from pipelines.extraction.duration import duration
    from pipelines.extraction.extract import extract as extract_store
    from pipelines.extraction.ray_planning import ray_mapper
    from pipelines.extraction.report import dry_run as report_dry_run
    from pipelines.extraction.report import extraction as report_extraction
    from pipelines.extraction.runners import on_ray

    with open_bars() as bars:
        if dry_run:
            found = count_cost(store, settings, bars, ray_mapper(address))
            time = duration(store, found, settings, gpus=gpus, told=rate)
            show(report_dry_run(found, time), as_json)
            return
        summary = extract_store(
            store,
            settings,
            bars,
            on_ray(address),
            mapper=ray_mapper(address),
            replace=(replace,) if replace else (),
            retry_quarantined=retry_quarantined,
            force=force,
        )
    show(report_extraction(store, summary), as_json)


@app.command()
def inspect(store: StorePath, as_json: Json = False) -> None:
    """Print the content of a store."""
    from pipelines.extraction.inspection import inspection as report_inspection

    show(report_inspection(store), as_json)


@app.command()
def verify(
    store: StorePath,
    recompute: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also recompute N random records with the plain models."
        ),
    ] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Extract again what is broken, and nothing else.")
    ] = False,
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Chooses the records to recompute.")] = 0,
    device: Device = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster for --repair.")] = None,
    as_json: Json = False,
) -> None:
    """Check every byte of a store; with --recompute also against the plain models."""
    from pipelines.extraction.report import verification as report_verification
    from pipelines.extraction.verify import check, repair_store

    with open_bars() as bars:
        if repair:
            repair_store(store, tuple(overrides or ()), bars, address)
        result = check(
            store,
            recompute_count=recompute,
            overrides=tuple(overrides or ()),
            seed=seed,
            device=chosen_device(device),
            progress=bars.progress,
        )
    show(report_verification(store, result), as_json)
    if not result.good:
        raise typer.Exit(1)


@app.command()
def convert(
    store: StorePath,
    dest: Annotated[
        Path,
        typer.Argument(
            metavar="DEST", parser=store_location, help="Folder or URL of the new store."
        ),
    ],
    to: Annotated[
        Format | None, typer.Option("--format", help="Format; the same by default.")
    ] = None,
    hidden_states: Annotated[
        Precision | None, typer.Option(help="Precision of these; the same by default.")
    ] = None,
    image_embeddings: Annotated[
        Precision | None, typer.Option(help="Precision of these; the same by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy a store into another format, without loss, or into half the bytes; runs no model.

    After any interruption, run the same command again to resume.
    """
    from lens_cache.store.convert import convert as write_again
    from pipelines.extraction.report import conversion as report_conversion

    with open_bars() as bars:
        done = write_again(
            store,
            dest,
            wanted=to,
            hidden_states=hidden_states,
            image_embeddings=image_embeddings,
            progress=bars.progress,
        )
    show(report_conversion(store, dest, done), as_json)


@app.command()
def probe(
    store: StorePath,
    split: Annotated[
        str | None, typer.Option(help="Ask the queries of this split; all by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = 200,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Rank the cached layers by how well their attention points at the masks, without training."""
    from lens_cache.evaluation.probe import probe as measure
    from lens_cache.store.store import Store
    from pipelines.evaluation.probe_report import probe_report

    with open_bars() as bars:
        found = measure(
            Store(store),
            split,
            limit=limit,
            device=chosen_device(device),
            progress=bars.progress,
        )
    show(probe_report(found), as_json)
