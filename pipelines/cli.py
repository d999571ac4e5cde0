"""The command line: parse, call, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import lens_cache
from lens_cache.errors import ConfigError, LensCacheError, one_line
from pipelines.interrupt import Interrupted, resume_command

if TYPE_CHECKING:
    from lens_cache.run import Run
    from lens_cache.sweep import SweepConfig
    from pipelines.baselines import Baselines
    from pipelines.progress import Bars
    from pipelines.sweep import Outcome

app = typer.Typer(
    name="lens-cache",
    help="LENS segmentation for frozen multimodal LLMs, trained from a feature cache.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
data_app = typer.Typer(help="Make or look at data.", no_args_is_help=True)
config_app = typer.Typer(help="Look at settings.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
benchmark_app = typer.Typer(help="Measure how fast the work is.", no_args_is_help=True)
app.add_typer(benchmark_app, name="benchmark")


def _store(text: str) -> Path:
    from lens_cache.store.remote import store_path

    return store_path(text)


def _folder(text: str) -> Path:
    if "://" in text:
        raise typer.BadParameter(f"expected a folder on a disk, found the URL {text}")
    return Path(text)


StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", parser=_store, help="Folder or URL of the feature cache.")
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", parser=_folder, help="Folder of the training run.")
]
StoreOption = Annotated[
    Path, typer.Option("--store", parser=_store, help="Folder or URL of the feature cache.")
]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="YAML settings.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override one setting.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Checkpoint = Annotated[
    Literal["best", "last"] | None,
    typer.Option(help="Which checkpoint; the best one where there is one, by default."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")]
Group = Literal["hidden_states", "image_embeddings"]
Seeds = Annotated[int, typer.Option(min=1, help="Each row is trained with seeds 0 to N - 1.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of every run; the base's, if not.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time; one per core, if not.")]
# A run of a sweep may take an hour; its bar measures rates over many of them.
_HOURS = 24 * 3600.0


def main() -> None:
    """Run the command line; a user's mistake becomes one line and an exit code."""
    try:
        app(standalone_mode=True)
    except Interrupted as stopped:
        print(f"lens-cache: {stopped}; go on with: {resume_command(sys.argv[1:])}", file=sys.stderr)
        raise SystemExit(128 + stopped.signum) from None
    except ConfigError as error:
        _fail(error, 2)
    except LensCacheError as error:
        _fail(error, 1)
    except OSError as error:
        _fail(error, 1)


def _fail(error: BaseException, code: int) -> None:
    print(f"lens-cache: {one_line(error, 1000)}", file=sys.stderr)
    raise SystemExit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(lens_cache.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def plan(store: StorePath, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """List every image and query of the data, without any model."""
    from lens_cache.config import ExtractConfig
    from lens_cache.config_file import load_config
    from pipelines.extract import plan_store

    settings = load_config(ExtractConfig, config, overrides or ())
    with _bars() as bars:
        made = plan_store(store, settings, bars)
    print(
        f"planned {made.num_images} images and {made.num_queries} queries into {store}"
        + (f"; set aside {made.quarantine.num_rows}" if made.quarantine.num_rows else "")
    )


@app.command()
def extract(
    store: StorePath,
    config: ConfigFile = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, e.g. auto; this machine by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost and write nothing.")
    ] = False,
    gpus: Annotated[
        int, typer.Option(metavar="N", min=1, help="For --dry-run: GPUs that will work.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="IMAGES_PER_S",
            min=1e-9,
            help="For --dry-run: what one GPU does; measured or estimated if not given.",
        ),
    ] = None,
    replace: Annotated[
        Group | None, typer.Option(help="Throw a feature group away and extract it anew.")
    ] = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try again what failed in an earlier run.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Begin even if the disk seems too small.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the frozen models once over the data and cache what they say.

    Run it again after any interruption: it goes on where it stopped.
    """
    from lens_cache.config import ExtractConfig
    from lens_cache.config_file import load_config
    from pipelines import cost, report
    from pipelines import extract as phase
    from pipelines.rate import duration

    settings = load_config(ExtractConfig, config, overrides or ())
    with _bars() as bars:
        if dry_run:
            found = cost.dry_run(store, settings, bars)
            time = duration(store, found, settings, gpus=gpus, told=rate)
            _show(report.dry_run(found, time), as_json)
            return
        runner = phase.on_ray(address)
        summary = phase.extract(
            store,
            settings,
            bars,
            runner,
            replace=(replace,) if replace else (),
            retry_quarantined=retry_quarantined,
            force=force,
        )
    _show(report.extraction(store, summary), as_json)


@app.command()
def inspect(store: StorePath, as_json: Json = False) -> None:
    """Say what is in a store."""
    from pipelines import report

    _show(report.inspection(store), as_json)


@app.command()
def verify(
    store: StorePath,
    recompute: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also recompute N random records plainly.")
    ] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Extract anew what is broken, and nothing else.")
    ] = False,
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="Decides which records are recomputed.")] = 0,
    device: Device = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster for --repair.")] = None,
    as_json: Json = False,
) -> None:
    """Check every byte of a store; with --recompute also against the plain models."""
    from pipelines import report
    from pipelines.verify import check, repair_store

    with _bars() as bars:
        if repair:
            repair_store(store, tuple(overrides or ()), bars, address)
        result = check(
            store,
            recompute_count=recompute,
            overrides=tuple(overrides or ()),
            seed=seed,
            device=device or _device(),
            progress=bars.progress,
        )
    _show(report.verification(store, result), as_json)
    if not result.good:
        raise typer.Exit(1)


@app.command()
def convert(
    store: StorePath,
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", parser=_store, help="Folder or URL of the new store.")
    ],
    to: Annotated[
        Literal["zarr", "webdataset"], typer.Option("--format", help="Format of the new store.")
    ],
    as_json: Json = False,
) -> None:
    """Write a store anew in another format, without loss and without any model.

    Run it again after any interruption: it goes on where it stopped.
    """
    from pipelines import report
    from pipelines.convert import convert as go

    with _bars() as bars:
        done = go(store, dest, to, bars)
    _show(report.conversion(store, dest, done), as_json)


@app.command()
def train(
    run: RunPath,
    store: StoreOption,
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")
    ] = False,
) -> None:
    """Fit head, keypoints and descriptor from a store; no frozen model is loaded."""
    from lens_cache.config import TrainConfig
    from lens_cache.config_file import load_config
    from pipelines.train import train as fit

    if resume and config is None and (run / "config.yaml").exists():
        config = run / "config.yaml"
    settings = load_config(TrainConfig, config, overrides or ())
    done = fit(run, store, settings, resume=resume)
    print(f"trained {run}; checkpoint {done.checkpoint()}")


@app.command()
def evaluate(
    run: RunPath,
    store: StoreOption,
    split: Annotated[str, typer.Option(help="Split of the store's queries.")],
    checkpoint: Checkpoint = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    panels: Annotated[int, typer.Option(min=0, help="Pictures to draw.")] = 12,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the photographs lie, if they have moved.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure gIoU and cIoU on a split; write tables, samples and pictures."""
    from lens_cache.store.reader import Store
    from pipelines import report
    from pipelines.evaluate import evaluate as measure

    with _bars() as bars:
        found = measure(
            _open_run(run),
            Store(store),
            split,
            which=checkpoint,
            limit=limit,
            num_panels=panels,
            data_root=data_root,
            device=device or _device(),
            progress=bars.progress,
        )
    _show(report.evaluation(found), as_json)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML: base settings and rows.")],
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.")],
    seeds: Seeds = 3,
    steps: Steps = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Train every row of a sweep with several seeds and compare them in one table.

    Run it again after any interruption: what is finished is not done again.
    """
    from lens_cache.sweep import load_sweep
    from pipelines.sweep import run_sweep

    config = load_sweep(file)
    with _bars(_HOURS) as bars:
        outcome = run_sweep(
            config, store, out, bars, seeds=seeds, steps=steps, jobs=jobs or _cores()
        )
    _show_sweep(config, outcome, out, as_json)


@app.command()
def ablations(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for everything made.")],
    config: Annotated[
        Path, typer.Option("-c", "--config", help="YAML: base settings and rows.")
    ] = Path("configs/sweeps/ablations.yaml"),
    seeds: Seeds = 3,
    steps: Steps = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Draw the world of shapes, extract it, and run the paper's ablations on it."""
    from lens_cache.sweep import load_sweep
    from pipelines.ablations import ablate
    from pipelines.extract import on_ray

    rows = load_sweep(config)
    with _bars(_HOURS) as bars:
        outcome, lines = ablate(
            rows, out, bars, on_ray(None), seeds=seeds, steps=steps, jobs=jobs or _cores()
        )
    _show_sweep(rows, outcome, out, as_json, lines)


def _show_sweep(
    config: SweepConfig,
    outcome: Outcome,
    out: Path,
    as_json: bool,
    lines: Baselines | None = None,
) -> None:
    from pipelines.sweep_report import write_report

    _show(write_report(config, outcome, out, lines), as_json)
    if outcome.failures:
        raise typer.Exit(1)


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    instruction: Annotated[str, typer.Argument(help='What to segment, e.g. "the orange".')],
    run: Annotated[Path, typer.Option(help="Folder of the training run.")],
    out: Annotated[Path, typer.Option(help="Folder for mask and panel.")],
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Segment one image by one instruction: a mask PNG and a picture of how it came about."""
    from pipelines.segment import segment as answer

    found = answer(
        image,
        instruction,
        _open_run(run),
        out,
        overrides=tuple(overrides or ()),
        which=checkpoint,
        device=device or _device(),
    )
    _show(found, as_json)


@data_app.command("tiny-checkpoints")
def tiny_checkpoints(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write them.")],
    seed: Annotated[int, typer.Option(help="Decides the weights.")] = 0,
) -> None:
    """Write small random LLaVA and SAM checkpoints in the real formats, to try things with."""
    from lens_cache.encoders.tiny import write_tiny_checkpoints

    write_tiny_checkpoints(folder, seed)
    print(f"wrote {folder / 'llava'} and {folder / 'sam.pth'}")


@data_app.command("shapes")
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it.")],
    train: Annotated[int, typer.Option(min=0, help="Pictures to train on.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Pictures to validate on.")] = 200,
    test: Annotated[int, typer.Option(min=0, help="Pictures to test on.")] = 300,
    hard: Annotated[
        int, typer.Option(min=0, help="Crowded pictures with pairs of colour and shape unseen.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Decides the pictures.")] = 0,
) -> None:
    """Draw a world of shapes with instructions and exact masks, in the jsonl layout."""
    from lens_cache.datasets.shapes.files import write_world

    counts = {"train": train, "val": val, "test": test, "hard": hard}
    with _bars() as bars:
        write_world(folder, counts, seed=seed, progress=bars.progress)
    print(f"{folder} holds " + ", ".join(f"{n} {split}" for split, n in counts.items()))


@data_app.command("shapes-models")
def shapes_models(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to copy them.")],
) -> None:
    """Copy the tiny LLaVA and the tiny SAM that were trained on the world of shapes."""
    import shutil

    from lens_cache.assets import SHAPES_MODELS

    if folder.exists():
        raise ConfigError(f"copying the models: {folder} is already there; give a new folder")
    shutil.copytree(SHAPES_MODELS, folder)
    print(f"wrote {folder / 'llava'} and {folder / 'sam.pth'}; {folder / 'CARD.md'} describes them")


@app.command("pretrain")
def pretrain(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="For scenes (6 GB), logs and models.")
    ],
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of one thread; one takes a GPU if there is one.")
    ] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do and write nothing.")
    ] = False,
) -> None:
    """Train the tiny LLaVA and the tiny SAM of the package again, from nothing."""
    from pipelines.pretraining.pretrain import Pretraining, describe
    from pipelines.pretraining.pretrain import pretrain as go

    settings = Pretraining()
    print(describe(settings))
    if dry_run:
        return
    with _bars() as bars:
        models = go(folder, settings, processes, bars)
    print(f"wrote {models / 'llava'} and {models / 'sam.pth'}")


@config_app.command("show")
def show_config(
    kind: Annotated[Literal["extract", "train"], typer.Argument(help="Which settings.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print settings with every default written out."""
    from lens_cache.config import ExtractConfig, TrainConfig
    from lens_cache.config_file import load_config, to_tree, to_yaml

    chosen: type[Any] = ExtractConfig if kind == "extract" else TrainConfig
    settings = load_config(chosen, config, overrides or ())
    print(json.dumps(to_tree(settings), indent=2) if as_json else to_yaml(settings), end="")


@benchmark_app.command("extract")
def benchmark_extract(
    instructions: Annotated[int, typer.Option(min=1, help="Instructions per image.")] = 8,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images per round; 2, or 16 on a GPU, if not given.")
    ] = None,
    images_per_batch: Annotated[
        int | None, typer.Option(min=1, help="Run at once; 1, or 4 on a GPU, if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are shown.")] = 3,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="LLaVA-1.5-7B and SAM ViT-H, random, on a GPU.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare an extraction with running everything for every instruction; random weights."""
    from pipelines.benchmark import extract as measured

    with _bars() as bars:
        found = measured.benchmark_extract(
            bars,
            full_size=full_size,
            device=device or _device(),
            instructions=instructions,
            images=images,
            images_per_batch=images_per_batch,
            rounds=rounds,
        )
    _show(measured.report(found), as_json)


@benchmark_app.command("store")
def benchmark_store(
    images: Annotated[
        int | None, typer.Option(min=1, help="Records; 32, or 64 with --full-size, if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are shown.")] = 15,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Records of LLaVA-1.5-7B and SAM ViT-H, 7.5 MB.")
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop the files from the page cache before each pass.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="New folder to keep the files in; scratch if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare how fast stores are read with raw memory and with other packages' files."""
    from pipelines.benchmark import store as measured
    from pipelines.benchmark.store_report import report

    with _bars() as bars:
        found = measured.benchmark_store(
            bars, full_size=full_size, images=images, rounds=rounds, cold=cold, out=out
        )
    _show(report(found), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Decides the data and the training.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="A COCO folder, to go on photographs with random models.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of --data; the only one there is, by default.")
    ] = None,
) -> None:
    """Go the whole way on drawn shapes, from a cache to a trained head and a page that shows it.

    With --data the way goes over photographs, with tiny random models; it shows only that it works.
    """
    from pipelines import demo as shapes
    from pipelines import photographs

    if split is not None and data is None:
        raise ConfigError("the demo: --split (SPLIT= for make) goes with --data (DATA=)")
    with _bars() as bars:
        if data is None:
            result = shapes.demo(out, bars, seed=seed)
        else:
            result = photographs.demo(out, data, split, bars, seed=seed)
    _show(result, as_json=False)


def _bars(window: float = 30.0) -> Bars:
    from pipelines.progress import Bars

    return Bars(window)


def _cores() -> int:
    return os.cpu_count() or 1


def _open_run(folder: Path) -> Run:
    from lens_cache.run import Run

    return Run.open(folder)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _show(report: Any, as_json: bool) -> None:
    """Print a report as JSON or as text."""
    print(json.dumps(report.document, indent=2) if as_json else report.text)
