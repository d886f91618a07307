"""What a process may do that a file took over: a real one, which says and writes whatever its file is made to."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

import pytest

from ckptool.sanitize.names import RECEIPT
from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import Sanitized, embedding, evil, sanitize, write

REPORTS = ("r.html", "r.sarif", "r.md", "r.junit.xml", "r.json")
Take = Callable[[str], None]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """`take(code)`: the process of a file runs this code with its `job`; what it leaves as `report` is what it says."""

    def taken(code: str) -> None:
        folder = tmp_path / "taken"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(TAKEN + indent(code, " " * 8) + "\n        return report\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))

    return taken


TAKEN = """\
import os, sys
if "ckptool.sanitize.process.server" in sys.orig_argv:
    import ckptool.sanitize.process.child as child
    real = child.sanitize
    def sanitize(job):
        return taken(job)
    child.sanitize = sanitize
    def taken(job):
"""


def run(tmp_path: Path, *options: object) -> Sanitized:
    up = write(tmp_path / "up", {"a.pt": embedding(), "b.pt": evil()})
    reports = [item for name in REPORTS for item in ("--report", tmp_path / name)]
    return sanitize(up, tmp_path / "out", "--workers", 1, *options, *reports)


FORGED = (
    "report['output'] = {}",
    "report['output']['bytes'] = 10 ** 400",
    "report['output']['bytes'] = '5'",
    "report['output']['sha256'] = '`](https://evil.example)'",
    "report['removed'] = {'EMA': {}}",
    "report['removed'] = []",
    "report['zeroed'] = {'unet': {'values': 'x'}}",
    "report['cast'] = [{'from': {}, 'to': []}]",
    "del report['dropped']",
    "report['notes'] = [5]",
    "report['verify'] = {'level': 'tensors'}",
    "report['verify'] = []",
    "report['prediction'] = 'epsilon'",
    "report['base'] = '<script>'",
    "report['kind'] = {}",
    "report['findings'] = [{'severity': 'x'}]",
    "report['findings'] = {}",
    "report['source_bytes'] = []",
    "report['error'] = 'x'",
    "report['verdict'] = 'fine'",
    "report['path'] = '/etc/passwd'",
    "report['action'] = 'skipped'",
    "report['action'] = 'passed over'; report['path'] = []",
    "report['action'] = 'crashed'; report['error'] = []",
    "report['action'] = 'refused'",
    "report['action'] = []",
    "report = []",
    "report = {'action': 'skipped', 'was': 'released', 'path': job.shown, 'source': job.shown}",
)


@pytest.mark.parametrize("forgery", FORGED)
def test_a_report_that_was_made_up_is_a_crash_and_never_a_traceback(forgery: str, take: Take, tmp_path: Path) -> None:
    take(f"report = real(job)\nif 'a.pt' in job.shown:\n    {forgery}")
    done = run(tmp_path)
    assert done.actions == {"a.pt": "crashed", "b.pt": "released"}
    assert done.ran.code == 3
    assert "Traceback" not in done.ran.err
    assert not (tmp_path / "out" / "a.safetensors").exists()
    assert all((tmp_path / name).stat().st_size for name in REPORTS)


def test_what_was_made_up_moves_no_terminal(take: Take, tmp_path: Path) -> None:
    """Nor does it give a workflow an order, which is a line that begins with two colons."""
    words = "x\x1b[2J\r\n::stop-commands::x\u202e"
    take(f"report = real(job)\nreport |= {{'output': None, 'error': {{'message': {words!r}, 'hint': {words!r}}},\n"
         f"'action': 'refused', 'findings': [item | {{'call': {words!r}, 'severity': 'error', 'message': {words!r}}}\n"
         "for item in report['findings']]}")  # fmt: skip
    done = run(tmp_path, "-v")
    assert done.actions == {"a.pt": "refused", "b.pt": "refused"}
    assert not [line for line in done.ran.err.splitlines() if line.lstrip().startswith("::")]
    assert not {"\x1b", "\r", "\u202e"} & set(done.ran.err)


@pytest.mark.parametrize(
    ("key", "value"),
    [("changed", {}), ("changed", 5), ("verify", {"level": {}}), ("findings", [{}]), ("kind", 5), ("format", None),
     ("parity", {}), ("output", {"bytes": 10**400, "name": "a.safetensors", "sha256": "0" * 64})],
)  # fmt: skip
def test_a_receipt_that_was_made_up_is_none(key: str, value: object, tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "out" / f"a.safetensors{RECEIPT}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    verified = ckptool("receipt", "verify", tmp_path / "out")
    again = run(tmp_path)
    assert again.actions == {"a.pt": "released", "b.pt": "skipped"}
    assert again.ran.code == 1
    assert "Traceback" not in again.ran.err + verified.err
    assert verified.code == 1
    assert "is no receipt" in verified.err


def test_no_process_outlives_its_file_whatever_group_it_goes_to(take: Take, tmp_path: Path) -> None:
    take(
        "import time\n"
        "report = real(job)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork():\n"
        "        os._exit(0)\n"
        "    os.closerange(3, 1000)\n"
        "    open(os.path.join(job.out, 'began'), 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "while not os.path.exists(os.path.join(job.out, 'began')):\n"
        "    time.sleep(0.01)"
    )
    done = sanitize(write(tmp_path / "up", {"a.pt": embedding()}), tmp_path / "out")
    assert done.actions == {"a.pt": "released"}
    assert not Path("/proc", (tmp_path / "out" / "began").read_text()).exists()
