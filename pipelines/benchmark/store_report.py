"""What a benchmark of stores found, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a way reads in one order.

    Attributes:
        seconds: Of every round, for all records.
        mb_per_second: Megabytes (10^6 bytes) of features per second, by the median round.
        slowest: The same by the slowest round.
        fastest: The same by the fastest round.
        records_per_second: Records per second, by the median round.
        ratio: ``mb_per_second`` over that of the raw memory map.
    """

    seconds: tuple[float, ...]
    mb_per_second: float
    slowest: float
    fastest: float
    records_per_second: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a way reached.

    Attributes:
        name: The way.
        how: Its configuration.
        disk_bytes: What it takes on disk.
        orders: By order, ``sequential`` and ``shuffled``.
    """

    name: str
    how: str
    disk_bytes: int
    orders: dict[str, Speed]


@dataclass(frozen=True, kw_only=True)
class StoreBenchmark:
    """The measurements and what they were made with.

    Attributes:
        records: Whose shapes the records have.
        images: Records.
        bytes: Of all records.
        rounds: Rounds, each of which read every way in both orders.
        cold: Whether the page cache was emptied of a way's files before each pass.
        threads: CPU threads of PyTorch.
        ways: The measurements; the first is the limit.
        not_installed: Ways that were left out, and what installs them.
    """

    records: str
    images: int
    bytes: int
    rounds: int
    cold: bool
    threads: int
    ways: tuple[Measurement, ...]
    not_installed: dict[str, str]


def report(found: StoreBenchmark) -> Report:
    """Report a benchmark as a table."""
    record = found.bytes / found.images / 1e6
    head = f"{'MB/s':>7} {'(of the rounds)':>17} {'records/s':>10} {'of raw':>7}"
    lines = [
        f"{found.images} records of {record:.1f} MB with the shapes of {found.records}, random",
        f"one process, {found.threads} CPU threads, page cache "
        f"{'dropped before each pass' if found.cold else 'warm'}; median of {found.rounds} rounds, "
        "ways in turns",
        "",
        f"{'':<26} {'sequential':<44}   shuffled",
        f"{'':<26} {head}   {head}",
    ]
    for way in found.ways:
        cells = [
            f"{speed.mb_per_second:>7.0f} {f'({speed.slowest:.0f} .. {speed.fastest:.0f})':>17} "
            f"{speed.records_per_second:>10.0f} {speed.ratio:>7.0%}"
            for speed in way.orders.values()
        ]
        lines.append(f"{way.name:<26} {'   '.join(cells)}")
    lines += [f"{name:<26} not installed: {how}" for name, how in found.not_installed.items()]
    lines += ["", *(f"{way.name + ':':<26} {way.how}" for way in found.ways)]
    lines.append("every way gave back the same values (CRC-32C of every record)")
    return Report(asdict(found), "\n".join(lines))
