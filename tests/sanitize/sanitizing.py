"""What the tests of sanitize share: small uploads of every kind, and the command run in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fixtures.assembler import Call, Global
from fixtures.models import lightning, state_dict, textual_inversion
from fixtures.tensors import noise
from fixtures.torchfile import save_zip
from tests.convert.converting import Ran, ckptool

COMMAND = [sys.executable, "-m", "ckptool.cli", "sanitize"]


@dataclass(frozen=True, slots=True)
class Sanitized:
    """What a run left: its exit code, and the report of each file by its name."""

    ran: Ran
    reports: dict[str, dict[str, Any]]

    @property
    def actions(self) -> dict[str, str]:
        return {name: report["action"] for name, report in self.reports.items()}


def sanitize(source: Path | list[Path], out: Path, *options: object) -> Sanitized:
    """`ckptool sanitize --json`, the reports by the names of the sources below the first folder."""
    sources = source if isinstance(source, list) else [source]
    ran = ckptool("sanitize", *sources, "--out", out, "--json", *options)
    reports = [json.loads(line) for line in ran.out.splitlines()]
    root = sources[0] if sources[0].is_dir() else sources[0].parent
    return Sanitized(ran, {os.path.relpath(report["path"], root): report for report in reports})


@cache
def embedding() -> bytes:
    """A textual inversion: the smallest thing that is a model."""
    return packed(textual_inversion())


@cache
def evil() -> bytes:
    return packed({**textual_inversion(), "extra": Call(Global("posix", "system"), ("touch PWNED",))})


@cache
def odd() -> bytes:
    """One that names something that nobody knows."""
    return packed({**textual_inversion(), "extra": Call(Global("my.trainer", "State"), ())})


@cache
def lora() -> bytes:
    return packed(state_dict("lora-kohya-sd1", 64))


@cache
def trained() -> bytes:
    """A checkpoint with an EMA and all that training leaves."""
    return packed(lightning(state_dict("sd1-full-ema", 64)))


@cache
def large() -> bytes:
    """Two MB in one tensor."""
    return packed({"weight": noise("F32", (1 << 19,), "large")})


@cache
def greedy() -> bytes:
    """A header whose 60,000 tensors take far more memory than its bytes."""
    tensor = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + ",".join(f'"layer.{i}.weight":{tensor}' for i in range(150_000)) + "}").encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def packed(value: object) -> bytes:
    from io import BytesIO

    file = BytesIO()
    save_zip(value, file)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def names_of(path: Path) -> set[str]:
    with safe_open(path, framework="numpy") as file:
        return set(file.keys())


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def start(source: Path, out: Path, *options: object) -> "subprocess.Popen[bytes]":
    """The command in a process of its own, to be killed."""
    command = [*COMMAND, str(source), "--out", str(out), "--json", "-q", *map(str, options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children(pid: int) -> Iterator[int]:
    """The processes that one has started."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, path.read_text().split())
