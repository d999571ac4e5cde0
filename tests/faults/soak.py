"""Random faults until the time is up: ``python -m tests.faults.soak --seconds 3600 --out FOLDER``.

Every fault must end in the store that an undisturbed extraction writes. Prints a table of what was
done, writes it to ``FOLDER/faults.json``, and exits with 1 if a store differed or a run failed.
"""

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults import injections
from tests.faults.processes import environment
from tests.faults.world import make_world

FAULTS = {
    fault.__name__: fault
    for fault in (
        injections.driver_killed,
        injections.worker_killed,
        injections.node_killed,
        injections.signalled,
        injections.disk_full,
        injections.out_of_memory,
        injections.two_extractions,
        injections.clock_skew,
        injections.byte_flipped,
    )
}


def attempt(name, world, folder, seed, cluster):
    """Inject one fault; returns its row of the table. A store that went wrong is kept."""
    root = folder / f"{seed}-{name}"
    more = [cluster()] if name == "node_killed" else []
    row = {"fault": name, "seed": seed, "injected": "", "outcome": "same"}
    try:
        row["injected"] = FAULTS[name](world, root, random.Random(seed), *more)
    except injections.Impossible as reason:
        return row | {"injected": str(reason), "outcome": "not possible here"}
    except Exception as error:
        return row | {"outcome": f"failed: {type(error).__name__}: {error}"}
    wrong = world.differences(root)
    if wrong:
        return row | {"outcome": f"{len(wrong)} files differ: {', '.join(wrong[:3])}"}
    shutil.rmtree(root)
    return row


def table(rows):
    """Return the fault matrix as text."""
    lines = [f"{'fault':<16} {'times':>5} {'same':>5}  last injected"]
    for name in FAULTS:
        mine = [row for row in rows if row["fault"] == name]
        same = sum(row["outcome"] == "same" for row in mine)
        last = mine[-1]["injected"] if mine else "-"
        lines.append(f"{name:<16} {len(mine):>5} {same:>5}  {last}")
    lines += [
        f"{row['fault']} (seed {row['seed']}): {row['outcome']}; {row['injected']}"
        for row in rows
        if row["outcome"] != "same"
    ]
    return "\n".join(lines)


class Raylets:
    """A cluster of several raylets on this machine, started when it is first needed."""

    def __init__(self):
        self._cluster = None

    def __call__(self):
        from ray.cluster_utils import Cluster

        if self._cluster is None:
            os.environ.update(environment(slow=0.05))  # the workers inherit a raylet's variables
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        return self._cluster

    def shutdown(self):
        if self._cluster is not None:
            self._cluster.shutdown()


def soak(folder, seconds, seed, names):
    """Go through the faults in random order until the time is up; returns the rows."""
    world, chance, cluster = make_world(folder / "world"), random.Random(seed), Raylets()
    rows, until = [], time.monotonic() + seconds
    try:
        while not rows or time.monotonic() < until:
            done = Counter(row["fault"] for row in rows)
            fewest = min(done[name] for name in names)
            name = chance.choice([name for name in names if done[name] == fewest])
            row = attempt(name, world, folder, chance.randrange(2**32), cluster)
            print(f"{row['fault']}: {row['outcome']} ({row['injected']})", flush=True)
            rows.append(row)
            (folder / "faults.json").write_text(json.dumps(rows, indent=2) + "\n")
    finally:
        cluster.shutdown()
    return rows


def main():
    parser = argparse.ArgumentParser(description="Disturb extractions until the time is up.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--only", choices=FAULTS, action="append", help="only this fault")
    words = parser.parse_args()
    if words.out.exists():
        sys.exit(f"soak: {words.out} is already there; remove it or give --out (OUT=)")
    print(f"seed {words.seed}, {words.seconds:g} s, into {words.out}", flush=True)
    rows = soak(words.out, words.seconds, words.seed, words.only or list(FAULTS))
    print(table(rows))
    good = {"same", "not possible here"}
    sys.exit(any(row["outcome"] not in good for row in rows))


if __name__ == "__main__":
    main()
