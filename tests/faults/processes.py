"""Real processes: extractions on the command line, their Ray, and how to end them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support import REPOSITORY

SITE = Path(__file__).parent / "site"
# Long enough for a machine with other work; nothing is asserted of it.
PATIENCE = 900


def environment(**faults):
    """Return the variables under which a process is spoilt; see ``site/sitecustomize.py``."""
    path = os.pathsep.join([str(SITE), str(REPOSITORY)])
    return {"PYTHONPATH": path, "LENS_FAULTS": json.dumps(faults), "OMP_NUM_THREADS": "1"}


class Extraction:
    """``lens-cache extract`` in a process group of its own.

    Args:
        world: What it extracts.
        root: The store.
        more: More of the command line.
        words: The whole of it after the store, instead.
        log: Name of the file for what it says.
        workers: How many; as many as there is room for, if None.
        faults: How its processes are spoilt; slowed down a little by default.
    """

    def __init__(self, world, root, *more, workers=1, words=None, log="log", **faults):
        self.root, self.log = root, root.with_name(f"{root.name}.{log}")
        count = [] if workers is None else ["--set", f"workers.count={workers}"]
        words = words or [*world.overrides(), *count, *more]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines", "extract", str(root), *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment(**(faults or {"slow": 0.05}))},
                cwd=REPOSITORY,
                start_new_session=True,
            )

    def wait(self):
        """Return the exit code."""
        return self.process.wait(timeout=PATIENCE)

    def said(self):
        """Return everything it said."""
        return self.log.read_text(errors="replace")

    def last_line(self):
        """Return the last thing it said."""
        lines = self.said().replace("\r", "\n").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")

    def until(self, condition):
        """Wait for something; returns whether it came before the process ended."""
        return wait_for(lambda: condition() or self.process.poll() is not None) and (
            self.process.poll() is None
        )

    def kill(self):
        """Kill the driver alone, as a crash would; its Ray finds out by itself."""
        self.process.kill()
        self.process.wait()

    def interrupt(self, signum):
        """Send a signal to the whole group, as a terminal or a job's end does."""
        os.killpg(self.process.pid, signum)


def wait_for(condition):
    """Poll until something is true, and return it."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found


def commits(root):
    """Return the shards' commit records that are there."""
    return sorted(root.glob("commits/[hi]*/*.json"))


def descendants(pid):
    """Return the processes below one, by id."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text()
                parents[int(entry.name)] = int(status.rsplit(")", 1)[1].split()[1])
    found, below = [], {pid}
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found += below
    return found


def workers_of(pid):
    """Return the worker processes of ours in the Ray below a process."""
    return [child for child in descendants(pid) if title(child).startswith("ray::Worker")]


def title(pid):
    """Return a process's command line, or nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
