"""What a process that a file took over can still open, where the kernel can forbid the rest."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ckptool.sanitize.process.landlock import version
from tests.sanitize.sanitizing import lora, sanitize, trained, write

PROGRAM = """
import json, os, socket, sys
from pathlib import Path
from ckptool.sanitize.process.child import shut_in
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.limits import die_with_parent
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.process.server import load

load()
base, port = Path(sys.argv[1]), int(sys.argv[2])
out = base / "out"
job = Job(base / "up/a.pt", "a.pt", "a.pt", out, "out", "a.safetensors", True, Policy())
die_with_parent()
shut_in(job)

def tried(action):
    try:
        action()
        return "done"
    except OSError as error:
        return type(error).__name__

def connect():
    with socket.socket() as one:
        one.connect(("127.0.0.1", port))

def imported():
    import decimal, sqlite3, ckptool.verify.denoise

print(json.dumps({
    "source": tried(lambda: (base / "up/a.pt").read_bytes()),
    "beside it": tried(lambda: (base / "up/a.yaml").read_bytes()),
    "write the source": tried(lambda: (base / "up/a.pt").write_bytes(b"")),
    "write beside it": tried(lambda: (base / "up/new").write_bytes(b"")),
    "remove the source": tried(lambda: (base / "up/a.pt").unlink()),
    "secret": tried(lambda: (base / "home/token").read_bytes()),
    "link to a secret": tried(lambda: (base / "up/link").read_bytes()),
    "list": tried(lambda: os.listdir(base / "home")),
    "environment": tried(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
    "output": tried(lambda: (out / "a").write_bytes(b"a")),
    "rename": tried(lambda: (out / "a").rename(out / "b")),
    "elsewhere": tried(lambda: (base / "x").write_bytes(b"")),
    "program": tried(lambda: os.execv("/bin/true", ["true"])),
    "connect": tried(connect),
    "signal": tried(lambda: os.kill(os.getppid(), 0)),
    "import": tried(imported),
}))
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for folder in ("up", "out", "home"):
        (tmp_path / folder).mkdir()
    (tmp_path / "up/a.pt").write_bytes(b"model")
    (tmp_path / "up/a.yaml").write_bytes(b"a: 1")
    (tmp_path / "home/token").write_bytes(b"hf_secret")
    (tmp_path / "up/link").symlink_to(tmp_path / "home/token")
    return tmp_path


def test_a_process_opens_its_source_and_its_output_and_nothing_else(base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", PROGRAM, str(base), str(server.getsockname()[1])]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    open_to_all = {"source", "beside it", "output", "rename", "import"}
    assert {name for name in open_to_all if found[name] != "done"} == set()
    known = version()
    if known == 0:
        pytest.skip("this kernel has no Landlock, and processes open what their user may")
    expected = set(found) - open_to_all
    expected -= set() if known >= 4 else {"connect"}
    expected -= set() if known >= 6 else {"signal"}
    assert {name: found[name] for name in expected} == dict.fromkeys(expected, "PermissionError")
    assert (base / "up/a.pt").read_bytes() == b"model"


def test_links_among_the_uploads_are_read_where_they_lead(tmp_path: Path) -> None:
    """As in a download cache, where a model's name is a link into a folder of all versions."""
    write(tmp_path / "models--o--m/blobs", {"one": trained(), "two": b"a: 1\n"})
    up = tmp_path / "models--o--m/snapshots/0123abc"
    up.mkdir(parents=True)
    (up / "a.ckpt").symlink_to("../../blobs/one")
    (up / "a.yaml").symlink_to("../../blobs/two")
    done = sanitize(up, tmp_path / "out")
    assert done.actions == {"a.ckpt": "released"}
    assert (tmp_path / "out/a.yaml").read_bytes() == b"a: 1\n"


@pytest.mark.parametrize("where", ["relative", "link"])
def test_folders_may_be_given_in_any_way(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "real/up", {"a.pt": lora()})
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/out").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = Path("link" if where == "link" else "real")
    done = sanitize(folder / "up", folder / "out")
    assert done.actions == {"a.pt": "released"}
    assert os.listdir(tmp_path / "real/out")
