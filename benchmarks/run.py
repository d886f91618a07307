"""Measures every case on files that it builds, and removes them: `python -m benchmarks.run --help`."""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks import table
from benchmarks.cases import CASES, KEPT, SMALL, Case, Contender
from benchmarks.machine import machine, memory
from benchmarks.measure import Failed, Measured, Result, measure, summarise

MEMORY_FOLDER = Path("/dev/shm")
BUSY = 0.5
"""Processes running on average before the first measurement, from which on people are warned."""

HOW = (
    "The commands of a case take turns, {runs} times after one that is not counted (short ones more often); a file is "
    "built before its case and removed after it, an output after each run. The files are in memory (tmpfs), so no disk "
    "is measured. CPU time is that of all threads, the kernel's included. Peak memory is ru_maxrss of the one process; "
    "less than the {floor} of the program that starts them cannot be seen. `scan` and `picklescan` are measured as "
    "commands, their start included."
)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, so that the files are removed
    described = machine()
    for name, value in described.items():
        print(f"{name + ':':10}{value}")
    print(flush=True)
    if os.getloadavg()[0] > BUSY:
        print(f"warning: the machine is busy (load {os.getloadavg()[0]:.1f}), the figures will be off", file=sys.stderr)
    sections = []
    try:
        for name in options.only or CASES:
            section = run(CASES[name], options)
            if section:
                print(table.text(section), flush=True)
                sections.append(section)
    except KeyboardInterrupt:
        print("interrupted; the files are removed", file=sys.stderr)
        sys.exit(130)
    except Failed as error:
        sys.exit(f"error: {error}")
    if options.markdown:
        floor = table.mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        how = HOW.format(runs=options.runs, floor=floor)
        options.markdown.write_text(table.markdown(how, described, sections), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("--quick", action="store_true", help="small files: shows that it works and measures nothing")
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="medians of N runs (default: 5)")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where the files go (default: /dev/shm if there is one)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE as well")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs takes a number from 1 on")
    if options.dir is None:
        options.dir = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else Path(tempfile.gettempdir())
    return options


def run(case: Case, options: argparse.Namespace) -> table.Section | None:
    """Build the file of a case, measure, and remove it; None when there is no room."""
    free = available(options.dir)
    if free < case.room and not options.quick:
        print(
            f"skipped: {case.build} needs {table.size(case.room)}, {options.dir} has {table.size(free)}\n", flush=True
        )
        return None
    with tempfile.TemporaryDirectory(prefix="ckptool-bench-", dir=options.dir) as folder:
        source = Path(folder, "source.ckpt")
        count = build(case, source, options.quick)
        measured = alternate(case, source, count, options.runs * case.repeat)
        nbytes = source.stat().st_size if source.exists() else 0
    title = case.title.format(size=table.size(nbytes), count=f"{count:,}")
    reference = measured[case.contenders[0]]
    return table.Section(title, [row(case, each, result, reference, count) for each, result in measured.items()])


def available(folder: Path) -> int:
    """Bytes that can be put there; in memory they have to be free in memory too."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    return min(free, memory("MemAvailable")) if folder == MEMORY_FOLDER else free


def build(case: Case, source: Path, quick: bool) -> int:
    arguments = [case.build, str(source), "quick" if quick else "full"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.files", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"{case.build} was not built\n{done.stderr[-2000:]}")
    return int(done.stdout)


def alternate(case: Case, source: Path, count: int, runs: int) -> dict[Contender, Result | None]:
    """Each contender in turn, beginning with another one each time; None for what is not installed."""
    present = [each for each in case.contenders if not each.needs or find_spec(each.needs)]
    measured: dict[Contender, list[Measured]] = {each: [] for each in present}
    for number in range(runs + 1):
        first = number % len(present)
        for contender in present[first:] + present[:first]:
            done = run_once(contender, source, count)
            if number:  # the first round warms up
                measured[contender].append(done)
    return {each: summarise(measured[each]) if each in measured else None for each in case.contenders}


def run_once(contender: Contender, source: Path, count: int) -> Measured:
    """One run, whose output is checked for being there and removed."""
    output = source.with_name("output.safetensors")
    paths = {"source": source, "output": output, "small": source.with_name(SMALL), "kept": source.with_name(KEPT)}
    done = measure([part.format(**paths) for part in contender.command], contender.says.format(count=count))
    if "{output}" in contender.command:
        output.unlink()
    return done


def row(
    case: Case, contender: Contender, result: Result | None, reference: Result | None, count: int
) -> tuple[str, ...]:
    """The cells of `table.HEAD`."""
    if result is None:
        return (contender.name, "not installed", "", "", "", "", contender.target)
    return (
        contender.name,
        table.seconds(result.seconds),
        f"{table.seconds(result.fastest)} – {table.seconds(result.slowest)}",
        table.seconds(result.cpu),
        case.figure(result, reference, count),
        table.mebibytes(result.peak),
        contender.target,
    )


if __name__ == "__main__":
    main()
