"""Write a table of results as Markdown, JSON, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lens_cache.evaluation.intervals import Interval
from lens_cache.store.io.files import replacing
from pipelines.evaluation.tables import ResultTable
from pipelines.reports.markdown import table
from pipelines.reports.report import Report

# Blocks of a table: the heading, the names of the columns, and the cells of each row.
Block = tuple[str, list[str], list[list[str]]]


def blocks(made: ResultTable) -> list[Block]:
    """Return the blocks of a table; a value that is missing is an empty cell."""
    found: list[Block] = []
    for group in ("trained", "training-free"):
        rows = [row for row in made.published if row.group == group]
        if not rows:
            continue
        names = list(dict.fromkeys(name for row in rows for name in row.values))
        head = ["method", "MLLM", "frozen", "trained on", "seen RefCOCO", "calls", *names, "source"]
        body = [
            [
                row.method,
                row.mllm,
                _word(row.frozen),
                row.trained_on,
                _word(row.seen_refcoco),
                "" if row.calls is None else str(row.calls),
                *(_number(row.values.get(name)) for name in names),
                row.source,
            ]
            for row in rows
        ]
        found.append((f"published, {group}", head, body))
    for heading, measured in (("measured", made.measured), (_analogue(made), made.analogue)):
        if measured:
            names = list(dict.fromkeys(name for row in measured for name in row.values))
            body = [
                [row.method, row.data, *(_value(row.values.get(name)) for name in names)]
                for row in measured
            ]
            found.append((heading, ["method", "data", *names], body))
    return found


def _analogue(made: ResultTable) -> str:
    return "measured" if made.name in ("routing", "cost") else "measured on other data"


def _word(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _value(value: Interval | float | None) -> str:
    if isinstance(value, Interval):
        return value.percent()
    return "" if value is None else f"{value:.4g}"


def markdown(made: ResultTable) -> str:
    """Return a table as Markdown."""
    lines = [f"# {made.name}", ""]
    for heading, head, body in blocks(made):
        lines += [f"## {heading}", "", *table(head, body), ""]
    lines.append("Intervals of measured values: 95 % bootstrap over images.")
    return "\n".join(lines) + "\n"


def to_csv(made: ResultTable) -> str:
    """Return a table as CSV; the first column names the block."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    for heading, head, body in blocks(made):
        writer.writerow(["block", *head])
        writer.writerows([heading, *row] for row in body)
    return file.getvalue()


def latex(made: ResultTable) -> str:
    """Return a table for LaTeX with the package booktabs, one tabular for each block."""
    parts = []
    for heading, head, body in blocks(made):
        rows = [" & ".join(map(_escape, row)) + r" \\" for row in (head, *body)]
        parts += [
            f"% {heading}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    return "\n".join(parts)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: "\\" + sign for sign in "&%$#_{}"
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def write_table(made: ResultTable, out: Path) -> Report:
    """Write a table as ``NAME.md``, ``.json``, ``.csv`` and ``.tex``, and report it."""
    document = asdict(made)
    writers: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(made),
        "json": lambda: json.dumps(document, indent=2) + "\n",
        "csv": lambda: to_csv(made),
        "tex": lambda: latex(made),
    }
    out.mkdir(parents=True, exist_ok=True)
    for suffix, text in writers.items():
        with replacing(out / f"{made.name}.{suffix}") as file:
            file.write(text().encode())
    return Report(document, f"{markdown(made)}\nwritten: {out}/{made.name}.{{md,json,csv,tex}}")
