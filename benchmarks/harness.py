"""What the benchmarks have in common: rounds that alternate, a row of the table, and the table."""

import argparse
import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec


@dataclass(frozen=True)
class Measured:
    """One line of the table: both sides, measured in turns in one run.

    Attributes:
        work: what was done.
        ours, against: the medians of all rounds, each with its unit.
        rival: what we are measured against.
        ratio: ours to the rival's, or None where there is no rival.
        spread: the least and the greatest ratio of a single round.
        target: what the ratio, or ours, should be; empty where it is only reported.
        met: whether it is; None where it is only reported.
    """

    work: str
    ours: str
    against: str
    rival: str
    ratio: float | None
    spread: tuple[float, float] | None
    target: str = ""
    met: bool | None = None


def in_turns(
    rounds: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Measure both sides so many times, each first in every other round."""
    measured: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        sides = [(ours, measured[0]), (theirs, measured[1])]
        for measure, values in sides if number % 2 == 0 else reversed(sides):
            values.append(measure())
    return measured


def compared(
    work: str,
    rival: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measured:
    """A row from the values of each round; the target is a bound of the ratio of the medians."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ours) / statistics.median(theirs)
    target, met = "", None
    if at_least is not None:
        target, met = f"≥ {at_least:g} ×", ratio >= at_least
    elif at_most is not None:
        target, met = f"≤ {at_most:g} ×", ratio <= at_most
    return Measured(
        work,
        figure(statistics.median(ours), unit),
        figure(statistics.median(theirs), unit),
        rival,
        ratio,
        (min(ratios), max(ratios)),
        target,
        met,
    )


def figure(value: float, unit: str) -> str:
    """A value to three significant digits, with its unit."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f} {unit}"


def table(rows: Sequence[Measured]) -> str:
    """The rows as Markdown."""
    lines = [
        "| work | ours | against | rival | ratio | of single rounds | target | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        spread = "" if row.spread is None else f"{row.spread[0]:.2f} to {row.spread[1]:.2f}"
        met = "" if row.met is None else ("yes" if row.met else "no")
        lines.append(
            f"| {row.work} | {row.ours} | {row.against} | {row.rival} | {ratio} | {spread} "
            f"| {row.target} | {met} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """The machine, the versions that matter, and the date."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("chdb", "fastapi", "uvicorn", "pydantic", "msgspec", "aiokafka")
    )
    name = names[0] if names else "unknown"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({name}), "
        f"{gib:.0f} GiB; Python {platform.python_version()}, {versions}."
    )


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def standalone(text: str | None, measure: Callable[[int], Sequence[Measured]]) -> None:
    """Run one benchmark from the command line, and print its rows."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=Path, help="write them to this file, too, as JSON")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    print(table(rows))
    if arguments.rows is not None:
        arguments.rows.write_bytes(msgspec.json.encode(rows))
