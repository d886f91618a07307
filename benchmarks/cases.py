"""What is measured: each case is a file, the commands that are run on it, and a figure drawn from their runs."""

import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Result

GB = 10**9
SMALL = "small.ckpt"
"""Built beside a file whose reading is counted: what it takes to read this one is not the size's doing."""
KEPT = "kept.safetensors"
"""Built beside a file that is pruned: what is left of it."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A command; `{source}`, `{output}`, `{small}` and `{kept}` in it stand for paths."""

    name: str
    command: tuple[str, ...]
    target: str = ""
    needs: str = ""
    """A module that may be missing; then it does not take part."""
    says: str = ""
    """What it has to print, `{count}` standing for the number of tensors or files."""


Figure = Callable[[Result, Result | None, int], str]
"""What a result means beside that of the reference, if it is installed, and the number of tensors or files."""


@dataclass(frozen=True, slots=True)
class Case:
    """Contenders on one file, the first of them the reference."""

    title: str
    """`{size}` and `{count}` stand for those of the file."""
    build: str
    """A name of `benchmarks.files.BUILDERS`."""
    contenders: tuple[Contender, ...]
    figure: Figure
    room: int = 0
    """Bytes of space for the file, its copy and what else is held in memory meanwhile."""
    repeat: int = 1
    """Short runs are repeated this many times as often."""


def times(name: str) -> Figure:
    return lambda result, reference, _: f"{result.seconds / reference.seconds:.2f} × {name}" if reference else ""


def each(result: Result, _: Result | None, count: int) -> str:
    return f"{result.seconds / count * 1e6:.1f} µs per tensor"


def read(result: Result, reference: Result | None, _: int) -> str:
    more = result.read - reference.read if reference else 0
    return f"{result.read / 1e6:.2f} MB read" + (f" ({more / 1e6:+.2f})" if more else "")


CKPTOOL = str(Path(sysconfig.get_path("scripts"), "ckptool"))
PICKLESCAN = str(Path(sysconfig.get_path("scripts"), "picklescan"))
CONVERT = (CKPTOOL, "convert", "{source}", "{output}")

COPY = Contender("cp", ("cp", "{source}", "{output}"))
USUAL = Contender(
    "torch.load, save_file", (sys.executable, "-m", "benchmarks.usual", "{source}", "{output}"), needs="torch"
)
IN_COPY_TIME = Contender("ckptool convert", CONVERT, "≤ 1.15 × cp, ≤ 64 MiB")
PICKLES = Contender("picklescan", (PICKLESCAN, "-p", "{source}"), needs="picklescan", says="Scanned files: 1\n")

CASES: dict[str, Case] = {
    "convert-2gb": Case(
        "Convert {size}: Stable Diffusion 1 in F16, {count} tensors",
        "half_checkpoint",
        (
            COPY,
            IN_COPY_TIME,
            Contender("ckptool convert --json, with the output's hash", (*CONVERT, "--json"), "≤ 64 MiB"),
            USUAL,
        ),
        times("cp"),
        room=9 * GB,
    ),
    "convert-8gb": Case(
        "Convert {size}: Stable Diffusion 1 in F32 with EMA, {count} tensors",
        "training_checkpoint",
        (COPY, IN_COPY_TIME),
        times("cp"),
        room=16 * GB,
    ),
    "convert-one-tensor": Case(
        "Convert {size} in a single tensor", "one_tensor", (COPY, IN_COPY_TIME), times("cp"), room=9 * GB
    ),
    "small-tensors": Case(
        "Convert {count} small tensors, {size}",
        "small_tensors",
        (COPY, Contender("ckptool convert", CONVERT, "≤ 60 µs per tensor"), USUAL),
        each,
    ),
    "fp16-2gb": Case(
        "Cast {size} of F32 to F16, {count} tensors",
        "wide_checkpoint",
        (
            COPY,
            Contender("ckptool fp16", (CKPTOOL, "fp16", "{source}", "{output}"), "≤ 1 × cp, ≤ 64 MiB"),
            Contender("torch.load, half, save_file", (*USUAL.command, "half"), needs="torch"),
        ),
        times("cp"),
        room=9 * GB,
    ),
    "prune-8gb": Case(
        "Prune {size}: Stable Diffusion 1 in F32 with EMA, {count} tensors",
        "training_checkpoint_and_kept",
        (
            Contender("cp of what is kept", ("cp", "{kept}", "{output}")),
            Contender("ckptool prune", (CKPTOOL, "prune", "{source}", "{output}"), "≤ 1.15 × cp, ≤ 64 MiB"),
        ),
        times("cp"),
        room=17 * GB,
    ),
    "inspect-8gb": Case(
        "Inspect {size}: Stable Diffusion 1 in F32 with EMA, {count} tensors",
        "training_checkpoint",
        (
            Contender("python -c pass", (sys.executable, "-c", "pass")),
            Contender("ckptool inspect", (CKPTOOL, "inspect", "{source}"), "≤ 300 ms", says="Stable Diffusion 1"),
        ),
        read,
        room=8 * GB,
        repeat=2,
    ),
    "start": Case(
        "Start",
        "nothing",
        (
            Contender("python -c pass", (sys.executable, "-c", "pass")),
            Contender("ckptool --help", (CKPTOOL, "--help"), "≤ 150 ms"),
        ),
        times("python"),
        repeat=4,
    ),
    "scan-2000": Case(
        "Scan one checkpoint of {count} tensors",
        "two_thousand",
        (PICKLES, Contender("ckptool scan", (CKPTOOL, "scan", "{source}"), "≤ 1 × picklescan", says=": clean")),
        times("picklescan"),
        repeat=2,
    ),
    "scan-folder": Case(
        "Scan a folder of {count} files: embeddings, adapters and LoRAs",
        "collection",
        (
            Contender(
                "picklescan", (PICKLESCAN, "-p", "{source}"), needs="picklescan", says="Scanned files: {count}\n"
            ),
            Contender("ckptool scan", (CKPTOOL, "scan", "{source}"), "≤ 0.5 × picklescan", says="{count} clean"),
        ),
        times("picklescan"),
    ),
    "scan-8gb": Case(
        "Scan {size}: Stable Diffusion 1 in F32 with EMA, {count} tensors",
        "training_checkpoint",
        (
            Contender("ckptool scan, of a file with two tensors", (CKPTOOL, "scan", "{small}")),
            Contender("ckptool scan", (CKPTOOL, "scan", "{source}"), "reads directory and pickles only"),
            PICKLES,
        ),
        read,
        room=8 * GB,
    ),
}
