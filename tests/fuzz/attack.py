"""One target under atheris, guided by coverage: python -m tests.fuzz.attack TARGET FOLDER SECONDS.

Inputs that break a rule are kept in FOLDER/found, one for each place where it breaks, and the attack goes on.
"""

import hashlib
import sys
import traceback
from pathlib import Path
from types import TracebackType

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["ckptool"]):
    from tests.fuzz import targets

from tests.fuzz.guard import install, limit_memory

MEMORY = 2 << 30
"""Bytes by which an input, and what libFuzzer keeps, may let the process grow."""
LONGEST = 1 << 14


def machine(data: bytes) -> None:
    """The pickle machine, which keeps errors of ours and lets no other out."""
    targets.interpret(data)


def archive(data: bytes) -> None:
    """The zip reader, held against Python's."""
    differs = targets.differs_from_zipfile(data)
    assert differs is None, differs


def header(data: bytes) -> None:
    """The safetensors header, held against the format's library."""
    differs = targets.differs_from_safetensors(data)
    assert differs is None, differs


TARGETS = {"machine": machine, "archive": archive, "header": header}


class Keeper:
    """Runs a target and keeps the first input of each kind of failure."""

    def __init__(self, name: str, folder: Path) -> None:
        self.target = TARGETS[name]
        self.folder = folder
        self.seen: set[str] = set()

    def __call__(self, data: bytes) -> None:
        try:
            self.target(data)
        except BaseException as error:  # whatever it is, it should not have come out
            self.keep(data, error)

    def keep(self, data: bytes, error: BaseException) -> None:
        place = f"{type(error).__name__} at {innermost(error.__traceback__)}"
        if place in self.seen:
            return
        self.seen.add(place)
        path = self.folder / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        text = "".join(traceback.format_exception(error)[-4:])
        path.with_suffix(".txt").write_text(f"{place}\n{data!r}\n{text}", errors="backslashreplace")


def innermost(trace: TracebackType | None) -> str:
    """File and line where an error was raised."""
    frames = traceback.extract_tb(trace)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def main(name: str, folder: Path, seconds: int) -> None:
    (folder / "found").mkdir(exist_ok=True)
    install()
    keeper = Keeper(name, folder / "found")
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-rss_limit_mb=0", "-timeout=300", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(folder / "corpus")], keeper)
    limit_memory(MEMORY)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
