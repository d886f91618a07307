"""Whoever reads the output may leave at any time: the command ends without a word, and as what a pipe ends."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.sanitize.sanitizing import embedding, evil, files_in, write

CKPTOOL = Path(sysconfig.get_path("scripts"), "ckptool")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"{number}.pt": evil() if number % 2 else embedding() for number in range(20)}
    return write(tmp_path_factory.mktemp("up"), files)


def read_one_byte(*words: object) -> tuple[int, bytes]:
    """The exit code and the errors of a command that has more to say than a pipe holds, and is read one byte of."""
    command = [CKPTOOL, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=4096) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read()
    return process.returncode, errors


@pytest.mark.parametrize(
    "words", [("scan", "-v"), ("sanitize", "--json", "-q", "--out", "out")], ids=["scan", "sanitize"]
)
def test_a_command_with_more_to_say_ends_quietly(
    words: tuple[str, ...], up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_one_byte(words[0], *[up] * (10 if words[0] == "scan" else 1), *words[1:]) == (141, b"")
    assert not [name for name in files_in(tmp_path) if ".tmp" in name]


@pytest.mark.parametrize(
    "words", [("scan",), ("scan", "--json", "-q"), ("inspect", "--json", "-q"), ("--help",), ("scan", "--help")]
)
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_was_never_there(words: tuple[str, ...], both: bool, up: Path) -> None:
    """`ckptool … | true`, and `2>&1` with it."""
    sources = sorted(up.glob("*.pt")) if words[-1] != "--help" else []
    program = f"import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); {'os.dup2(w, 2);' * both} "
    program += "os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", program, CKPTOOL, *words, *sources]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
