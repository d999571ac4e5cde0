"""`lens-cache benchmark gpu`: every section in a process of its own, as Markdown and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lens_cache.errors import ConfigError, printable
from pipelines.benchmark.gpu.findings import Value, markdown
from pipelines.benchmark.gpu.scale import Scale
from pipelines.benchmark.gpu.sections import SECTIONS
from pipelines.progress import Reporter
from pipelines.reports.report import Report

MARKDOWN, DOCUMENT = "report.md", "report.json"
# Seconds: a shorter rest of the time is not worth a start; how long a section may take to end.
_LEAST, _GRACE = 5.0, 20.0


@dataclass
class Section:
    """What became of a section.

    Attributes:
        name: Its name.
        seconds: How long it took, with the start of its process.
        error: Why there is no result; empty if there is one.
        rows: Its table.
        notes: Sentences below it.
    """

    name: str
    seconds: float = 0.0
    error: str = ""
    rows: list[dict[str, Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gpu_report(
    out: Path,
    scale: Scale,
    device: str,
    reporter: Reporter,
    *,
    names: Sequence[str] = tuple(SECTIONS),
    minutes: float = 9.0,
) -> tuple[Report, bool]:
    """Run the sections one after another; a section that fails does not end the others.

    ``out`` receives ``report.md``, ``report.json``, and for each section ``NAME.json`` and its
    output ``NAME.log``. The two reports are written again after every section.

    Args:
        out: A folder; created if it does not exist, files of an earlier report are replaced.
        scale: The sizes.
        device: The device.
        reporter: Receives the progress.
        names: The sections to run.
        minutes: Most time of all sections together.

    Returns:
        The report, and whether every section succeeded.

    Raises:
        ConfigError: If there is no section of a name.
    """
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise ConfigError(
            f"measuring a GPU: expected sections among {', '.join(SECTIONS)}, found {unknown[0]}"
        )
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    done: list[Section] = []
    for number, name in enumerate(names):
        reporter.progress("sections", number, len(names))
        done.append(_run(name, scale, device, out, deadline - time.monotonic()))
        if done[-1].error:
            reporter.message(f"{name}: {done[-1].error}")
        report = _report(done, scale, device)
        (out / MARKDOWN).write_text(report.text + "\n")
        (out / DOCUMENT).write_text(json.dumps(report.document, indent=2) + "\n")
    reporter.progress("sections", len(names), len(names))
    return report, not any(section.error for section in done)


def _run(name: str, scale: Scale, device: str, out: Path, limit: float) -> Section:
    """Run a section in a process of its own, for at most ``limit`` seconds."""
    result, log = out / f"{name}.json", out / f"{name}.log"
    result.unlink(missing_ok=True)
    section = Section(name)
    if limit <= _LEAST:
        section.error = "not run: no time left; give more --minutes, or name it with --section"
        return section
    began = time.monotonic()
    words = [sys.executable, "-m", "pipelines.benchmark.gpu.sections"]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*words, name, scale.name, device, str(out.resolve())],
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            section.error = f"stopped after {limit:.0f} s; give more --minutes"
        else:
            if code:
                section.error = f"exit {code}: {_last_line(log)} (see {log})"
        finally:
            _end(process)
    section.seconds = time.monotonic() - began
    if result.exists():  # also what was found before a failure
        found = json.loads(result.read_text())
        section.rows, section.notes = found["rows"], found["notes"]
    return section


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a section that still runs; on SIGTERM it also ends what it started."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return printable(lines[-1])[:300] if lines else "no output"


def _report(done: Sequence[Section], scale: Scale, device: str) -> Report:
    lines = [f"# lens-cache on {device}, {scale.name} size", ""]
    for section in done:
        lines += [f"## {section.name}", "", f"{section.seconds:.0f} s", ""]
        if section.error:
            lines += [f"**Failed.** {section.error}", ""]
        lines += [markdown(section.rows, section.notes), ""]
    document = {"scale": scale.name, "device": device, "sections": [asdict(s) for s in done]}
    return Report(document, "\n".join(lines).rstrip())
