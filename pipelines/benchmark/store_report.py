"""The result of `benchmark store` and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class ReadSpeed:
    """Speed of one way in one order.

    Attributes:
        seconds: Seconds of every round, for all records.
        mb_per_second: Megabytes (10^6 bytes) of features per second, in the median round.
        slowest: The same in the slowest round.
        fastest: The same in the fastest round.
        records_per_second: Records per second in the median round.
        ratio: ``mb_per_second`` over that of the raw memory map.
    """

    seconds: tuple[float, ...]
    mb_per_second: float
    slowest: float
    fastest: float
    records_per_second: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class StoreSpeed:
    """The result of one way.

    Attributes:
        name: The name of the way.
        how: Its configuration.
        disk_bytes: Bytes on disk.
        orders: Speed by order, ``sequential`` and ``shuffled``.
    """

    name: str
    how: str
    disk_bytes: int
    orders: dict[str, ReadSpeed]


@dataclass(frozen=True, kw_only=True)
class StoreBenchmark:
    """The results of all ways and the conditions of the measurement.

    Attributes:
        records: Name of the models whose features have these shapes.
        images: Number of records.
        bytes: Bytes of all records.
        rounds: Number of rounds; each read every way in both orders.
        cold: Whether the files of a way were dropped from the page cache before each pass.
        threads: CPU threads of PyTorch.
        ways: The results; the first way is the limit.
        not_installed: Ways that were skipped, with the command that installs them.
    """

    records: str
    images: int
    bytes: int
    rounds: int
    cold: bool
    threads: int
    ways: tuple[StoreSpeed, ...]
    not_installed: dict[str, str]


def report_store(found: StoreBenchmark) -> Report:
    """Format the result as a table."""
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
    lines.append("every way returned the same values (CRC-32C of every record)")
    return Report(asdict(found), "\n".join(lines))
