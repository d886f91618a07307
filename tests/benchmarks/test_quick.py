"""The benchmarks run from end to end, and leave nothing behind however they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RUN = [sys.executable, "-m", "benchmarks.run", "--quick", "--only", "convert-8gb"]


def test_a_case_is_measured_and_its_files_are_removed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    folder = tmp_path / "files"
    folder.mkdir()
    command = [*RUN, "--runs", "1", "--dir", str(folder), "--markdown", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert first_cells(done.stdout.splitlines(), "   ") == ["cp", "ckptool convert"]
    assert first_cells(page.read_text(encoding="utf-8").splitlines(), "|") == ["cp", "ckptool convert"]
    assert not list(folder.iterdir())


def test_an_interrupted_run_removes_its_files(tmp_path: Path) -> None:
    process = subprocess.Popen([*RUN, "--runs", "1000", "--dir", tmp_path], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*/output.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert not list(tmp_path.iterdir())


def first_cells(lines: Iterable[str], separator: str) -> list[str]:
    """The first cell of each row that ends with a target or a figure in MiB."""
    rows = (line.strip("| ").split(separator) for line in lines if " MiB" in line and line.count(separator) > 3)
    return [cells[0].strip() for cells in rows]
