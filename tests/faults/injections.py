"""The faults. Each disturbs an extraction at a random moment, goes on until the store is complete,
and returns what it did; the caller compares the store with the undisturbed one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from lens_cache.errors import LensCacheError
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.faults.processes import Extraction, commits, descendants, title, workers_of
from tests.faults.world import COMMITS, SHARD
from tests.support.stores import Quiet, copied, flip, stamps


class Impossible(Exception):
    """This machine does not permit the fault."""


def disturbed(extraction, chance):
    """Wait for a random moment; returns it in words, or nothing if all was done before it."""
    wanted, delay = chance.randrange(-1, COMMITS - 1), chance.uniform(0, 0.3)
    if wanted < 0:
        delay = chance.uniform(0, 20)
    if not extraction.until(lambda: len(commits(extraction.root)) >= wanted):
        return None
    time.sleep(delay)
    found = len(commits(extraction.root))
    return f"{found} commits" if extraction.process.poll() is None else None


def finished(extraction):
    """Wait for a good end."""
    code = extraction.wait()
    assert code == 0, f"exit code {code}: {extraction.last_line()}"


@contextlib.contextmanager
def no_orphans(*extractions):
    """At the end, kill by id what killed drivers leave of their Ray for up to a minute."""
    seen = {}
    yield lambda: seen.update(
        {pid: title(pid) for each in extractions for pid in descendants(each.process.pid)}
    )
    for pid, name in seen.items():
        if name and title(pid) == name:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def driver_killed(world, root, chance):
    """Kill -9 of the driver."""
    first = Extraction(world, root)
    with no_orphans(first) as note:
        moment = disturbed(first, chance)
        note()
        first.kill()
        finished(Extraction(world, root))  # while the dead one's workers may still be writing
    return f"kill -9 at {moment}"


def worker_killed(world, root, chance):
    """Kill -9 of a worker."""
    extraction, killed = Extraction(world, root, workers=2), 0
    for _ in range(chance.randint(1, 2)):
        moment = disturbed(extraction, chance)
        workers = workers_of(extraction.process.pid)
        if moment and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
                killed += 1
    finished(extraction)
    return f"killed {killed} workers"


def node_killed(world, root, chance, cluster):
    """Kill -9 of a whole node of a cluster of several raylets; another one joins later.

    Args:
        world: The world.
        root: The store.
        chance: Decides the moment and the node.
        cluster: Its head has no cores for workers; leaves it with two nodes.
    """
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1)
    extraction = Extraction(world, root, "--address", cluster.address, workers=2)
    moment = disturbed(extraction, chance)
    cluster.remove_node(chance.choice(list(cluster.worker_nodes)), allow_graceful=False)
    time.sleep(chance.uniform(0, 3))
    cluster.add_node(num_cpus=1)
    finished(extraction)
    return f"node killed at {moment}, another joined"


def signalled(world, root, chance):
    """SIGINT or SIGTERM to the whole process group; then the command it tells is run."""
    signum = chance.choice([signal.SIGINT, signal.SIGTERM])
    first = Extraction(world, root)
    moment = disturbed(first, chance)
    if moment is not None:
        first.interrupt(signum)
        code = first.wait()
        if code != 0:  # the signal may have come when all was done
            assert code in (128 + signum, -signum), f"exit code {code}: {first.last_line()}"
            assert code < 0 or "resume with: lens-cache extract" in first.last_line()
    finished(Extraction(world, root))
    return f"{signum.name} at {moment}"


def disk_full(world, root, chance):
    """The disk fills up midway: a small file system of its own, and a file that grows on it."""
    mount = root.with_name(f"{root.name}.disk")
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(mount)], capture_output=True
    )
    if mounted.returncode:
        raise Impossible("mounting a small disk is not permitted")
    try:
        place = mount / "store"
        first = Extraction(world, place)
        moment = disturbed(first, chance)
        left = chance.choice([0, 0, 4096, 200_000])
        ballast = mount / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while (free := shutil.disk_usage(mount).free) > left:
                file.write(bytes(min(1 << 20, free - left)))
                file.flush()
        code = first.wait()
        assert code in (0, 1), f"exit code {code}: {first.last_line()}"
        assert code == 0 or "No space left" in first.last_line(), first.last_line()
        ballast.unlink()
        finished(Extraction(world, place))
        shutil.copytree(place, root)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    return f"full at {moment}, exit code {code}"


def out_of_memory(world, root, chance):
    """The model runs out of memory for a while.

    What was set aside for that is tried again. Where no image is to blame, the run ends and says
    why; then the same command goes on.
    """
    after, times = chance.randint(0, 200), chance.randint(1, 20)
    first = Extraction(world, root, slow=0.01, oom=[after, times])
    code = first.wait()
    assert code in (0, 1), f"exit code {code}: {first.last_line()}"
    assert code == 0 or "OutOfMemoryError" in first.last_line(), first.last_line()
    finished(Extraction(world, root, "--retry-quarantined"))
    return f"{times} attentions after {after} out of memory, exit code {code}"


def two_extractions(world, root, chance):
    """A second extraction of the same store: one of them is refused and harms nothing."""
    first = Extraction(world, root)
    moment = disturbed(first, chance)
    second = Extraction(world, root, log="second")
    if refused(first):  # the second was the faster one to begin
        finished(second)
        return f"second at {moment}, the first refused"
    said = "refused" if refused(second) else "found it complete"
    if said != "refused":
        finished(second)
    finished(first)
    return f"second at {moment}, {said}"


def refused(extraction):
    """Return whether an extraction ended because another one holds the store."""
    return extraction.wait() == 1 and "another extraction holds it" in extraction.last_line()


def clock_skew(world, root, chance):
    """Every process has another wrong clock, and so has the disk; the driver is killed midway."""
    month = 30 * 24 * 3600
    first = Extraction(world, root, slow=0.05, skew=month)
    with no_orphans(first) as note:
        moment = disturbed(first, chance)
        note()
        first.kill()
        for path in root.rglob("*"):
            wrong = time.time() + chance.uniform(-month, month)
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (wrong, wrong))
        finished(Extraction(world, root, slow=0.05, skew=month))
    return f"clocks wrong by up to a month, killed at {moment}"


def byte_flipped(world, root, chance):
    """One flipped bit in a file of the store; found by verify, mended by repair."""
    copied(world.whole, root)
    name = chance.choice(stored_files(root))
    path = root / name
    position, size = chance.randrange(path.stat().st_size), path.stat().st_size
    flip(path, position, 1 << chance.randrange(8))
    assert found_by_verify(root), f"{name} at {position} was not found"
    before = stamps(root)
    repair_store(root, (), Quiet(), runner=run_in_process)
    after = stamps(root)
    touched = {one for one in before if "/c/" in one and after[one] != before[one]}
    strange = sorted(one for one in touched if owner(one, world) != owner(name, world))
    assert not strange, f"{name}: repair touched {strange}"
    return f"{name}, byte {position} of {size}"


def stored_files(root):
    """Return every file of a store but the lock, which is empty, and the records of runs."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.stat().st_size and path.relative_to(root).parts[0] != "runs"
    )


def found_by_verify(root):
    """Return whether verify notices anything wrong; a manifest that cannot be read counts."""
    try:
        return bool(verify_store(root).problems)
    except LensCacheError:
        return True


def owner(name, world):
    """Return group and shard that a file of a store belongs to; nothing if it is everybody's."""
    parts = Path(name).parts
    if "c" in parts:
        return parts[0], int(parts[parts.index("c") + 1])
    if parts[0] == "commits" and parts[1] != "shared":
        return parts[1], int(Path(name).stem)
    if parts[0] == "quarantine":
        ids = Store(world.whole).plan.images["image_id"].to_pylist()
        return parts[1], ids.index(Path(name).stem) // SHARD
    return None
