"""One run of a sweep in its own process: train, then evaluate; the result is written last.

python -m pipelines.sweeps.one_run FOLDER STORE SPLIT ...
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from lens_cache.config.load import load_config, parse_config, to_tree
from lens_cache.config.train import TrainConfig
from lens_cache.errors import LensCacheError, one_line
from lens_cache.evaluation.scores import Score
from lens_cache.store.io.remote import store_path
from lens_cache.store.store import Store
from lens_cache.training.run import Run
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.report import Evaluation
from pipelines.training.train import train

RESULT_FILE = "result.json"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Measured:
    """gIoU and cIoU in percent, over a number of queries."""

    giou: float
    ciou: float
    queries: int


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Result:
    """The result of a run.

    Attributes:
        config: The settings of the training.
        checkpoint: File name of the evaluated checkpoint.
        seconds: Time of the training, with its validations.
        overall: Scores of all queries, by split.
        groups: Scores by split, then by grouping (``kind`` or ``topic``), then by group.
    """

    config: TrainConfig
    checkpoint: str
    seconds: float
    overall: dict[str, Measured]
    groups: dict[str, dict[str, dict[str, Measured]]]

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Read the result of a finished run."""
        path = folder / RESULT_FILE
        return parse_config(cls, json.loads(path.read_text()), source=str(path))

    def save(self, folder: Path) -> None:
        """Write the result atomically: a folder with a result is a finished run."""
        temporary = folder / f"{RESULT_FILE}.part"
        temporary.write_text(json.dumps(to_tree(self), indent=2) + "\n")
        temporary.rename(folder / RESULT_FILE)


def settings_file(folder: Path) -> Path:
    """Return the file with the settings of a run."""
    return folder.parent / f"{folder.name}.yaml"


def train_and_measure(folder: Path, store_path: Path, splits: list[str]) -> None:
    """Train into a new run folder with the settings beside it, and evaluate on each split.

    Raises:
        LensCacheError: If training or evaluation fails.
    """
    config = load_config(TrainConfig, settings_file(folder))
    start = time.perf_counter()
    run = train(folder, store_path, config, resume=False)
    seconds = time.perf_counter() - start
    found = {split: _evaluate(run, Store(store_path), split) for split in splits}
    Result(
        config=config,
        checkpoint=run.checkpoint().name,
        seconds=seconds,
        overall={split: _measured(one.overall) for split, one in found.items()},
        groups={split: _groups(one) for split, one in found.items()},
    ).save(folder)


def _evaluate(run: Run, store: Store, split: str) -> Evaluation:
    gpu = run.config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return evaluate(run, store, split, num_panels=0, device="cuda" if gpu else "cpu")


def _groups(found: Evaluation) -> dict[str, dict[str, Measured]]:
    """Return the scores by grouping, then by group."""
    return {
        "kind": {name: _measured(score) for name, score in found.by_kind.items()},
        "topic": {name: _measured(score) for name, score in found.by_topic.items()},
    }


def _measured(score: Score) -> Measured:
    return Measured(giou=100 * score.giou.value, ciou=100 * score.ciou.value, queries=score.queries)


def main() -> None:
    """Do the run of the command line; a failure is one line and exit code 1."""
    folder, store, *splits = sys.argv[1:]
    try:
        train_and_measure(Path(folder), store_path(store), splits)
    except (LensCacheError, OSError) as error:
        print(f"lens-cache: {one_line(error, 1000)}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
