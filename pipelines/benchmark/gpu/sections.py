"""The sections by name, and the process that runs one of them.

``python -m pipelines.benchmark.gpu.sections NAME SCALE DEVICE FOLDER`` writes ``FOLDER/NAME.json``.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelines.benchmark.gpu.decoding import decode
from pipelines.benchmark.gpu.end_to_end import end_to_end
from pipelines.benchmark.gpu.environment import environment
from pipelines.benchmark.gpu.extraction import agreement, compiled, extraction
from pipelines.benchmark.gpu.findings import Findings, SavedFindings
from pipelines.benchmark.gpu.scale import SCALES, Scale
from pipelines.benchmark.gpu.training import three_ways, training

# In the order of the report; the most important first, in case time runs out.
SECTIONS: dict[str, Callable[[Scale, str, Path, Findings], None]] = {
    "environment": environment,
    "extraction": extraction,
    "training": training,
    "end-to-end": end_to_end,
    "agreement": agreement,
    "three-ways": three_ways,
    "compiled": compiled,
    "decode": decode,
}


def run_section(name: str, scale: Scale, device: str, found: Findings) -> None:
    """Run one section in this process, with a scratch folder that is removed after it."""
    with tempfile.TemporaryDirectory(prefix="lens-cache-gpu-") as scratch:
        SECTIONS[name](scale, device, Path(scratch), found)


def main(name: str, scale: str, device: str, folder: str) -> None:
    """Run a section and write what it found; after SIGTERM leave no process and no file."""
    signal.signal(signal.SIGTERM, _exit)
    run_section(name, SCALES[scale], device, SavedFindings(Path(folder, f"{name}.json")))


def _exit(signum: int, frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    main(*sys.argv[1:])
