"""General ability: benchmarks answered through the agent and by the bare multimodal LLM.

The agent can only lose: its router may take a question for a request to segment, and the fixed
reply to that is wrong. The two rows together show how often.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lens_cache.agent.agent import LensAgent
from lens_cache.benchmarks.items import Benchmark, Item, read_benchmark
from lens_cache.benchmarks.scores import BenchmarkScore, random_guess, score_answers
from lens_cache.benchmarks.table import write_rows
from lens_cache.errors import ConfigError, ImageError
from lens_cache.images.decode import read_image
from lens_cache.predictor import LensPredictor
from lens_cache.progress import Progress, no_progress
from lens_cache.store.io.file_lock import file_lock
from lens_cache.store.io.files import replacing
from pipelines.evaluation.answer_log import answer_all, read_answers
from pipelines.reports.markdown import table
from pipelines.reports.report import Report

AGENT, BARE, GUESS = "LENS agent", "bare MLLM", "random guess"


@dataclass(frozen=True, kw_only=True)
class General:
    """The result of a benchmark.

    Attributes:
        benchmark: Its name.
        file: Its file.
        questions: Number of questions.
        rows: Scores by method; empty if the file has no answers.
        routes: How many questions the agent took for what. All of them are dialogue.
        refused: Questions that the agent refused as too long, or as they have the token of the
            image; they are wrong.
        unclear: By method, answers from which no option can be found.
    """

    benchmark: str
    file: str
    questions: int
    rows: dict[str, BenchmarkScore]
    routes: dict[str, int]
    refused: int
    unclear: dict[str, int]


def evaluate_general(
    predictor: LensPredictor,
    path: Path,
    out: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    limit: int | None = None,
    progress: Progress = no_progress,
) -> General | None:
    """Answer a benchmark and write its report to ``OUT/NAME``, the name of the file.

    Args:
        predictor: A predictor that can answer (``chat=True``).
        path: The file of the benchmark.
        out: Output folder.
        shard: This process answers every n-th question, as (i, n) with 0 <= i < n. The report is
            written by the call after which all are answered.
        limit: Use only the first questions, see ``Benchmark.first``.
        progress: Called with the name of the step, questions done and questions in all.

    Returns:
        The result; None if other shards are not complete.

    Raises:
        DatasetError: If the file is not as it should be.
        ConfigError: If the folder has answers of another model or file.
    """
    benchmark = read_benchmark(path)
    if limit is not None:
        benchmark = benchmark.first(limit)
    items = benchmark.items
    folder = out / path.stem
    place, count = shard
    key = {
        "head": predictor.head.digest(),
        "model": predictor.head.fingerprints["hidden_states"].get("weights"),
        "questions": _digest(items),
        "shard": [place, count],
    }
    answer_all(
        _answers_file(folder, place, count),
        key,
        items[place::count],
        lambda item: _answer(predictor, item),
        progress,
        path.stem,
    )
    answers: list[dict[str, Any]] = [{}] * len(items)
    for number in range(count):
        found = read_answers(_answers_file(folder, number, count))
        wanted = {**key, "shard": [number, count]}
        if found is None or found[0] != wanted or len(found[1]) < len(items[number::count]):
            return None
        answers[number::count] = found[1]
    result = summarise(benchmark, answers)
    try:
        with file_lock(folder / "report.lock", BlockingIOError()):
            _write(folder, benchmark, answers, result)
    except BlockingIOError:
        pass  # another shard found all answers too and is writing the same bytes
    return result


def summarise(benchmark: Benchmark, answers: Sequence[dict[str, Any]]) -> General:
    """Score the answers of agent and bare model."""
    rows = {}
    pairs = list(zip(benchmark.items, answers, strict=True))
    if benchmark.has_answers:
        for name, column in ((AGENT, "agent"), (BARE, "bare")):
            right = [item.is_right(answer[column]) for item, answer in pairs]
            rows[name] = score_answers(benchmark, right)
        rows[GUESS] = random_guess(benchmark)
    return General(
        benchmark=benchmark.name,
        file=benchmark.path.name,
        questions=len(pairs),
        rows=rows,
        routes=dict(Counter(answer["route"] for answer in answers if answer["route"])),
        refused=sum(answer["route"] is None for answer in answers),
        unclear={
            name: sum(item.choice(answer[column]) is None for item, answer in pairs)
            for name, column in ((AGENT, "agent"), (BARE, "bare"))
        },
    )


def _answer(predictor: LensPredictor, item: Item) -> dict[str, Any]:
    """Ask agent and bare model; in dialogue the agent's answer is the bare model's (I11).

    A prompt that one of them refuses, as too long or as it has the token of the image, gets an
    empty answer, so that the questions after it are asked.
    """
    pixels = _picture(item)
    found: dict[str, Any] = {"index": item.row.index, "route": None, "agent": "", "bare": ""}
    agent = LensAgent(predictor)
    with suppress(ConfigError):  # counted in the report: the route is None
        reply = agent(item.prompt, pixels)
        found |= {"route": reply.route, "agent": reply.text}
    if found["route"] == "dialogue":
        found["bare"] = found["agent"]
    else:
        with suppress(ConfigError):  # an empty answer is counted as unclear
            found["bare"] = predictor.answer(pixels, item.prompt)
    return found


def _picture(item: Item) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the image of a question; several are put side by side, from left to right."""
    try:
        images = [read_image(data) for data in item.row.images()]
    except ImageError as error:
        raise ImageError(f"reading {item.row.place}, column image: {error}") from None
    if len(images) == 1:
        return images[0]
    height = max(len(image) for image in images)
    padded = [
        np.pad(image, ((0, height - len(image)), (0, 8), (0, 0)), constant_values=255)
        for image in images
    ]
    return np.concatenate(padded, axis=1)


def _digest(items: Sequence[Item]) -> str:
    sha = hashlib.sha256()
    for item in items:
        sha.update(json.dumps([item.row.index, item.prompt]).encode())
        sha.update(item.row.image.encode())
    return sha.hexdigest()


def _answers_file(folder: Path, place: int, count: int) -> Path:
    return folder / f"answers-{place:03d}-of-{count:03d}.jsonl"


def _write(
    folder: Path, benchmark: Benchmark, answers: Sequence[dict[str, Any]], result: General
) -> None:
    """Write the report, and the agent's answers in VLMEvalKit's layout for its own scoring."""
    rows = [
        {**item.row.cells, "prediction": answer["agent"]}
        for item, answer in zip(benchmark.items, answers, strict=True)
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    files = {
        "predictions.tsv": write_rows(columns, rows),
        "report.md": (report(result).text + "\n").encode(),
        "report.json": (json.dumps(asdict(result), indent=2) + "\n").encode(),
    }
    for name, data in files.items():
        with replacing(folder / name) as file:
            file.write(data)


def report(found: General) -> Report:
    """Report a benchmark as a table: methods by categories."""
    called = sum(found.routes.values()) - found.routes.get("dialogue", 0)
    lines = [
        f"# {found.benchmark}: {found.file}",
        "",
        f"{found.questions} questions; the agent took {called} of them for something else than "
        f"dialogue, and refused {found.refused}. Answers without a clear option: "
        + ", ".join(f"{count} ({name})" for name, count in found.unclear.items())
        + ".",
        "",
    ]
    if found.rows:
        first = next(iter(found.rows.values()))
        names = [*first.parts, *first.categories]
        body = [
            [
                name,
                f"{score.score:.1f}",
                *(f"{ {**score.parts, **score.categories}[one]:.1f}" for one in names),
            ]
            for name, score in found.rows.items()
        ]
        lines += table(["method", "score", *names], body)
    else:
        lines.append("The file has no answers; predictions.tsv is for submission.")
    return Report(asdict(found), "\n".join(lines))
