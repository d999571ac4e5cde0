"""Answers to numbered questions, one JSON line each, that resume after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lens_cache.errors import ConfigError
from lens_cache.progress import Progress
from lens_cache.store.io.file_lock import file_lock

T = TypeVar("T")


def answer_all(
    path: Path,
    key: dict[str, Any],
    questions: Sequence[T],
    answer: Callable[[T], dict[str, Any]],
    progress: Progress,
    name: str,
) -> list[dict[str, Any]]:
    """Answer questions in order; those that the file has already are not answered again.

    Args:
        path: The file. Its first line is the key; a half-written last line is removed.
        key: Everything on which the answers depend.
        questions: The questions.
        answer: Returns the answer to a question.
        progress: Called with ``name``, questions done and questions in all.
        name: Name of the step.

    Raises:
        ConfigError: If the file has answers with another key or is damaged, or another process
            writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = ConfigError(f"answering {path}: another process writes this file; wait for its end")
    with file_lock(path.with_suffix(".lock"), busy):
        return _answer_rest(path, key, questions, answer, progress, name)


def _answer_rest(
    path: Path,
    key: dict[str, Any],
    questions: Sequence[T],
    answer: Callable[[T], dict[str, Any]],
    progress: Progress,
    name: str,
) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    documents = _documents(path, lines)
    if lines and documents[0] != key:
        raise ConfigError(
            f"resuming {path}: it has the answers of another model or file; give another --out, or "
            "remove it"
        )
    found = documents[1:]
    if len(found) > len(questions):
        raise ConfigError(
            f"resuming {path}: expected at most {len(questions)} answers, found {len(found)}; "
            "remove the file"
        )
    with path.open("ab") as file:
        file.truncate(sum(map(len, lines)))
        if not lines:
            file.write(json.dumps(key).encode() + b"\n")
        for number in range(len(found), len(questions)):
            found.append(answer(questions[number]))
            file.write(json.dumps(found[-1], ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            progress(name, number + 1, len(questions))
    return found


def read_answers(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Return key and answers of a file; None if it does not exist."""
    if not path.exists():
        return None
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    documents = _documents(path, lines)
    return (documents[0], documents[1:]) if documents else None


def _documents(path: Path, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise ConfigError(
                f"reading answers from {path}, line {number}: expected an answer in JSON, found a "
                "damaged line; remove the file"
            ) from None
    return found
