"""Runs every benchmark, one after another, and writes their tables to benchmarks/RESULTS.md.

    python -m benchmarks [--rounds N] [--only NAME …]

With --only the tables of the others stay as they are. The stores that the benchmarks share are
built in BENCH_STORES, data/benchmarks by default: the largest takes 15 minutes, and 10 GB.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.harness import Measured, machine, table

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
STORES = FOLDER.parent / "data" / "benchmarks"
HEAD = """# What was measured last

What counts is the ratio: both sides of a row are from one run, in turns, and machines differ.
Figures are medians of the rounds. What each benchmark does exactly, and how it is run alone, is
written at the top of its file. What limits those that miss their target: [LIMITS.md](LIMITS.md).
"""
# In the order in which they run: the last one writes much to the largest store's copy.
TITLES = {
    "http_ingestion": "Events by HTTP",
    "kafka_ingestion": "Events from Kafka",
    "hot_answer": "An answer that many ask for",
    "engines": "Both engines",
    "views": "What views cost",
    "query_latency": "Answers at any size",
    "other_stores": "The same questions to others",
    "disk": "On the disk",
    "start": "Start",
    "counting_errors": "Counting errors after 20 kills",
    "page": "The page",
    "memory": "Memory",
}
# What differs from the defaults of a benchmark that is run alone.
ENVIRONMENT = {"start": {"BENCH_EVENTS": "100000000"}}


def run(name: str, rounds: int) -> str:
    """The benchmark's section."""
    print(f"=== {name}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.json"
        subprocess.run(
            [
                sys.executable, "-m", f"benchmarks.{name}",
                "--rounds", str(rounds), "--rows", str(rows),
            ],
            env={"BENCH_STORES": str(STORES), **os.environ, **ENVIRONMENT.get(name, {})},
            check=True,
        )  # fmt: skip
        measured = msgspec.json.decode(rows.read_bytes(), type=list[Measured])
    minutes = (time.monotonic() - began) / 60
    return (
        f"## {TITLES[name]}\n\n"
        f"`python -m benchmarks.{name}`, {rounds} rounds, {minutes:.0f} minutes. {machine()}\n\n"
        f"{table(measured)}\n"
    )


def write(sections: dict[str, str]) -> None:
    ordered = [sections[name] for name in TITLES if name in sections]
    RESULTS.write_text("\n".join([HEAD, *ordered]), encoding="utf-8")


def kept() -> dict[str, str]:
    """The sections of the last run."""
    if not RESULTS.exists():
        return {}
    pieces = re.split(r"^(?=## )", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    by_title = {piece.splitlines()[0].removeprefix("## "): piece for piece in pieces}
    return {
        name: by_title[title].rstrip() + "\n" for name, title in TITLES.items() if title in by_title
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(TITLES), default=list(TITLES))
    arguments = parser.parse_args()
    STORES.mkdir(parents=True, exist_ok=True)
    sections = kept()
    failed = []
    for name in TITLES:
        if name not in arguments.only:
            continue
        try:
            sections[name] = run(name, arguments.rounds)
        except subprocess.CalledProcessError:
            failed.append(name)
            continue
        write(sections)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
