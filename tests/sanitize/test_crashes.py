"""A file that breaks its process harms no other, and a run that is killed is ended by the next one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptool.sanitize.names import RECEIPT
from ckptool.sanitize.process.lock import END
from tests.convert.converting import ckptool
from tests.sanitize.sanitizing import (
    children,
    embedding,
    evil,
    files_in,
    greedy,
    large,
    lora,
    names_of,
    sanitize,
    start,
    write,
)

LIMITS = ("--max-memory", "60MB", "--max-output", "1MB", "--verify", "none")
"""Enough for a small model; not for `greedy` and `large`."""


@pytest.mark.parametrize(("name", "limit"), [("greedy", "memory"), ("large", "output size")])
def test_what_goes_beyond_a_limit_is_told_as_crashed(name: str, limit: str, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"bad.pt": {"greedy": greedy, "large": large}[name](), "good.pt": embedding()})
    done = sanitize(up, tmp_path / "out", *LIMITS, "--workers", 1)
    assert done.actions == {"bad.pt": "crashed", "good.pt": "released"}
    assert done.reports["bad.pt"]["limit"] == limit
    assert done.ran.code == 3
    assert {name for name in files_in(tmp_path / "out") if "bad" in name} == set()


def test_the_same_files_are_released_where_the_limits_allow_it(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"large.pt": large()})
    assert sanitize(up, tmp_path / "out").actions == {"large.pt": "released"}


def test_what_takes_too_long_is_told_as_crashed(tmp_path: Path) -> None:
    """Two seconds are enough for a small model, and not for a million tensors."""
    many = ",".join(f'"l.{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(600_000))
    text = f"{{{many}}}".encode()
    text += b" " * (-len(text) % 8)
    up = write(tmp_path / "up", {"slow.pt": len(text).to_bytes(8, "little") + text})
    done = sanitize(up, tmp_path / "out", "--timeout", 1, "--max-memory", "8GB")
    assert done.actions == {"slow.pt": "crashed"}
    assert done.reports["slow.pt"]["limit"] in ("time", "CPU time")


def test_a_child_has_no_credentials_no_network_and_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    up = write(tmp_path / "up", {f"{i}.pt": lora() for i in range(12)})
    process = start(up, tmp_path / "out", "--workers", 1)
    looked = look(process.pid)
    process.communicate()
    assert not [name for name in looked["environment"] if "TOKEN" in name or "SECRET" in name]
    assert looked["cwd"] == "/"
    assert looked["core"] == "0"
    assert not [path for path in looked["open"] if path.startswith("socket")]
    program = "from ckptool.sanitize.process.limits import leave_network; print(leave_network())"
    possible = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    apart = looked["network"] != os.readlink("/proc/self/ns/net")
    assert apart == (possible == "True\n"), "where the network can be taken away, it is"
    assert not apart or looked["interfaces"] <= {"lo"}


def look(client: int) -> dict[str, Any]:
    """What is seen of a child while it works on a file."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for server in list(children(client)):
            for child in list(children(server)):
                try:
                    return seen(Path(f"/proc/{child}"))
                except (OSError, StopIteration):
                    continue  # it has ended meanwhile
    raise AssertionError("no child was seen")


def seen(proc: Path) -> dict[str, Any]:
    status = (proc / "limits").read_text().splitlines()
    core = next(line for line in status if line.startswith("Max core file size")).split()[5]
    if core != "0":
        raise StopIteration  # it has not limited itself yet
    return {
        "environment": [entry.split(b"=")[0].decode() for entry in (proc / "environ").read_bytes().split(b"\0")],
        "cwd": os.readlink(proc / "cwd"),
        "core": core,
        "open": [os.readlink(path) for path in (proc / "fd").iterdir()],
        "network": os.readlink(proc / "ns/net"),
        "interfaces": {line.split(":")[0].strip() for line in (proc / "net/dev").read_text().splitlines()[2:]},
    }


def test_killed_again_and_again_every_file_ends_exactly_once(tmp_path: Path) -> None:
    """The client, servers and children are killed at random moments; poison lies among the files."""
    count, poison = 120, 6
    files = {f"{i:03}.pt": evil() if i % 10 == 0 else embedding() for i in range(count)}
    files |= {f"poison-{i}.pt": large() for i in range(poison)}
    up, out = write(tmp_path / "up", files), tmp_path / "out"
    chance = random.Random(5)
    for _ in range(4):
        process = start(up, out, *LIMITS)
        until = time.monotonic() + chance.uniform(0.6, 1.6)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(chance.uniform(0.02, 0.2))
            kill_one(list(children(process.pid)), chance)
        servers = list(children(process.pid))
        process.kill()
        process.communicate()
        wait_for(servers)
        check_whole(out)
    last = start(up, out, *LIMITS)
    time.sleep(0.8)
    for server in list(children(last.pid))[:1]:  # its file is done again by another
        with suppress(OSError):
            os.kill(server, signal.SIGKILL)
    printed, _ = last.communicate()
    reports = [json.loads(line) for line in printed.splitlines()]
    names = Counter(Path(report["path"]).name for report in reports)
    assert names == Counter(dict.fromkeys(files, 1))
    crashed = {Path(report["path"]).name: report["error"] for report in reports if report["action"] == "crashed"}
    innocent = {name: error for name, error in crashed.items() if not name.startswith("poison")}
    assert not innocent
    assert len(crashed) == poison
    assert {report["action"] for report in reports} <= {"released", "skipped", "crashed"}
    assert last.returncode == 3
    outputs = {f"{i:03}.safetensors" for i in range(count)}
    assert files_in(out) == outputs | {name + RECEIPT for name in outputs} | {"SHA256SUMS"}
    assert ckptool("receipt", "verify", out).code == 0


def wait_for(servers: list[int]) -> None:
    """Until the processes of a client that was killed have ended, which they do by themselves."""
    end = time.monotonic() + 20
    while any(map(alive, servers)):
        assert time.monotonic() < end
        time.sleep(0.02)


def kill_one(servers: list[int], chance: random.Random) -> None:
    """A server, or the child that it waits for."""
    try:
        if servers:
            server = chance.choice(servers)
            os.kill(chance.choice([server, *children(server)]), signal.SIGKILL)
    except (OSError, ValueError):
        pass  # it has ended meanwhile


def check_whole(out: Path) -> None:
    """What is there is whole, and what has a receipt is what the receipt says."""
    for name in files_in(out) if out.exists() else ():
        if name.endswith(RECEIPT):
            assert json.loads((out / name).read_bytes())["output"]["bytes"] == (
                (out / name.removesuffix(RECEIPT)).stat().st_size
            )
        elif name.endswith(".safetensors"):
            assert names_of(out / name)
        else:
            assert name == "SHA256SUMS" or name.endswith(END), "a lock is no output, and goes with the next run"


def test_a_child_that_is_killed_is_told_with_its_signal(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {f"{i:02}.pt": lora() for i in range(12)})
    process = start(up, tmp_path / "out", "--workers", 1)
    killed = False
    end = time.monotonic() + 30
    while not killed and time.monotonic() < end:
        for server in list(children(process.pid)):
            for child in list(children(server)):
                try:
                    os.kill(child, signal.SIGKILL)
                    killed = True
                except OSError:
                    continue
    printed, _ = process.communicate()
    reports = [json.loads(line) for line in printed.splitlines()]
    crashed = [report for report in reports if report["action"] == "crashed"]
    assert len(reports) == 12
    assert 1 <= len(crashed) <= 2
    assert "SIGKILL" in crashed[0]["error"]["message"]
    again = sanitize(up, tmp_path / "out")
    assert Counter(again.actions.values()) == {"skipped": 12 - len(crashed), "released": len(crashed)}


def test_an_interrupt_ends_the_run_and_all_its_processes(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {f"{i:02}.pt": lora() for i in range(60)})
    process = start(up, tmp_path / "out")
    looked: list[int] = []
    while not looked:
        looked = [child for server in children(process.pid) for child in children(server)]
    servers = list(children(process.pid))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    end = time.monotonic() + 10
    while time.monotonic() < end and any(alive(pid) for pid in (*servers, *looked)):
        time.sleep(0.05)
    assert not any(alive(pid) for pid in (*servers, *looked))
    check_whole(tmp_path / "out")


def alive(pid: int) -> bool:
    """Whether it still runs: one that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
