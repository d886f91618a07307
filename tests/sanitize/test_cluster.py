"""A cluster does what this machine does: every file once, whoever is killed; nothing where a machine does not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptool.errors import UsageError
from ckptool.sanitize.cluster.cluster import Cluster
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import RECEIPT
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.process.lock import END, locked
from tests.convert.converting import ckptool
from tests.sanitize.dask_cluster import NO_CKPTOOL, OTHER_VERSION, WORKER, Dask, dask
from tests.sanitize.sanitizing import COMMAND, children, embedding, evil, files_in, large, lora, sanitize, start, write
from tests.sanitize.test_crashes import LIMITS, alive, check_whole, look

NOWHERE = "tcp://127.0.0.1:1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    """One that is left as it was."""
    with dask(tmp_path_factory.mktemp("cluster") / "dask", 2) as found:
        yield found


def mixed(count: int) -> dict[str, bytes]:
    return {f"{i:03}.pt": evil() if i % 10 == 0 else embedding() for i in range(count)}


def receipts(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*" + RECEIPT)}


def test_a_cluster_shards_and_one_machine_write_the_same_bytes(cluster: Dask, tmp_path: Path) -> None:
    up = write(tmp_path / "up", mixed(40) | {"lora.pt": lora(), "notes.txt": b"none", "cut.pt": lora()[:5000]})
    local = sanitize(up, tmp_path / "local")
    spread = sanitize(up, tmp_path / "cluster", "--cluster", cluster.address)
    for part in ("1/3", "2/3", "3/3"):
        sanitize(up, tmp_path / "shards", "--shard", part)
    assert spread.ran.code == local.ran.code == 3
    assert spread.actions == local.actions
    assert len(spread.ran.out.splitlines()) == 42
    for out in (tmp_path / "cluster", tmp_path / "shards"):
        assert files_in(out) == files_in(tmp_path / "local")
        assert receipts(out) == receipts(tmp_path / "local")
        assert (out / "SHA256SUMS").read_bytes() == (tmp_path / "local" / "SHA256SUMS").read_bytes()
        assert ckptool("receipt", "verify", out).code == 0
    kept = ("findings", "kept", "dropped", "metadata", "parity", "kind", "base", "source_bytes", "verdict")
    for name, report in spread.reports.items():
        other = local.reports[name]
        assert {key: report.get(key) for key in kept} == {key: other.get(key) for key in kept}
        assert (report["output"] or {}).get("sha256") == (other["output"] or {}).get("sha256")
    assert not [line for line in spread.ran.err.splitlines() if "distributed" in line]
    again = sanitize(up, tmp_path / "cluster", "--cluster", cluster.address)
    assert Counter(again.actions.values()) == {"skipped": 41, "refused": 1}


def test_a_child_on_a_cluster_has_no_credentials_and_nothing_open(cluster: Dask, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {f"{i:02}.pt": lora() for i in range(40)})
    process = start(up, tmp_path / "out", "--cluster", cluster.address)
    looked = look(cluster.workers[0].pid)
    process.communicate(timeout=60)
    assert b"HF_TOKEN=" in Path(f"/proc/{cluster.workers[0].pid}/environ").read_bytes()
    assert not [name for name in looked["environment"] if "TOKEN" in name or "SECRET" in name]
    assert looked["cwd"] == "/"
    assert not [path for path in looked["open"] if path.startswith("socket")]
    assert [path for path in looked["open"] if path.endswith(END)]
    program = "from ckptool.sanitize.process.limits import leave_network; print(leave_network())"
    possible = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert (looked["network"] != os.readlink("/proc/self/ns/net")) == (possible == "True\n")


def test_workers_keep_no_process_for_a_client_that_has_gone(cluster: Dask, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {f"{i:02}.pt": lora() for i in range(60)})
    process = start(up, tmp_path / "out", "--cluster", cluster.address)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    told = err.decode().strip().splitlines()
    assert (told[0], len(told)) == ("error: interrupted", 2)
    wait_until(lambda: not [pid for worker in cluster.workers for pid in children(worker.pid) if alive(pid)])
    check_whole(tmp_path / "out")
    assert set(sanitize(up, tmp_path / "out", "--cluster", cluster.address).actions.values()) == {"skipped", "released"}
    wait_until(lambda: not [pid for worker in cluster.workers for pid in children(worker.pid) if alive(pid)])


def test_a_worker_and_the_client_killed_every_file_ends_exactly_once(tmp_path: Path) -> None:
    """Ten of 300 files kill their process; what the killed client handed out may still be at work in the second run."""
    count, poison = 290, 10
    files = mixed(count) | {f"poison-{i}.pt": large() for i in range(poison)}
    up, out = write(tmp_path / "up", files), tmp_path / "out"
    with dask(tmp_path / "dask", 3) as cluster:
        options = (*LIMITS, "--cluster", cluster.address)
        first = start(up, out, *options)
        read(first, 40)
        cluster.workers[0].kill()
        read(first, 40)
        first.kill()
        first.communicate()
        second = start(up, out, *options)
        read_some = read(second, 90)
        cluster.workers[1].kill()
        cluster.start_worker()
        printed, err = second.communicate(timeout=120)
    assert second.returncode == 3, err.decode()
    reports = [json.loads(line) for line in (*read_some, *printed.splitlines())]
    assert Counter(Path(report["path"]).name for report in reports) == Counter(dict.fromkeys(files, 1))
    crashed = {Path(report["path"]).name: report["error"] for report in reports if report["action"] == "crashed"}
    assert {name for name in crashed if not name.startswith("poison")} == set(), crashed
    assert len(crashed) == poison
    assert {report["action"] for report in reports} == {"released", "skipped", "crashed"}
    outputs = {f"{i:03}.safetensors" for i in range(count)}
    assert files_in(out) == outputs | {name + RECEIPT for name in outputs} | {"SHA256SUMS"}
    assert ckptool("receipt", "verify", out).code == 0
    sums = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, capture_output=True, text=True)
    assert (sums.returncode, sums.stdout) == (0, "")


def read(process: "subprocess.Popen[bytes]", count: int) -> list[bytes]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_jobs_that_dask_gives_up_are_handed_out_again(tmp_path: Path) -> None:
    """Dask gives up what was at work when its worker died, more often than its limit: none by default, here."""
    up, out = write(tmp_path / "up", mixed(60)), tmp_path / "out"
    with dask(tmp_path / "dask", 0) as cluster:
        assert cluster.scheduler is not None
        cluster.start_worker(threads=4)
        process = start(up, out, "--cluster", cluster.address)
        lines = read(process, 5)
        for _ in range(5):
            cluster.workers[-1].kill()
            cluster.start_worker(threads=4)
        printed, err = process.communicate(timeout=60)
    reports = [json.loads(line) for line in (*lines, *printed.splitlines())]
    assert process.returncode == 1, err.decode()
    assert len({report["path"] for report in reports}) == len(reports) == 60
    assert {report["action"] for report in reports} <= {"released", "skipped"}


def test_a_scheduler_that_is_lost_is_told_in_two_lines(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {f"{i:02}.pt": lora() for i in range(60)}), tmp_path / "out"
    with dask(tmp_path / "dask", 1) as cluster:
        process = start(up, out, "--cluster", cluster.address)
        read(process, 3)
        assert cluster.scheduler is not None
        cluster.scheduler.kill()
        _, err = process.communicate(timeout=60)
        wait_until(lambda: not [pid for pid in children(cluster.workers[0].pid) if alive(pid)])
    assert process.returncode == 3
    assert err.decode().splitlines() == [
        f"error: {cluster.address}: the connection to the scheduler is lost",
        "hint: when it is there again, run it again: what has a receipt is skipped",
    ]
    check_whole(out)
    assert set(sanitize(up, out).actions.values()) == {"skipped", "released"}


def test_a_worker_that_does_not_fit_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding()})
    with dask(tmp_path / "dask", 1) as cluster:
        for program, told in ((OTHER_VERSION, "has ckptool 0.0.1, and here is"), (NO_CKPTOOL, "has no ckptool")):
            process = cluster.start_worker(program)
            done = sanitize(up, tmp_path / "out", "--cluster", cluster.address)
            assert done.ran.code == 2
            assert told in done.ran.err
            assert len(done.ran.err.splitlines()) == 2
            assert files_in(tmp_path / "out") == {"SHA256SUMS"}
            process.terminate()
            process.wait()
        assert sanitize(up, tmp_path / "out", "--cluster", cluster.address).ran.code == 0


def test_a_worker_that_comes_later_and_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {f"{i:03}.pt": embedding() for i in range(40)}), tmp_path / "out"
    with dask(tmp_path / "dask", 1) as cluster:
        first = Job(up / "000.pt", "", "000.pt", out, str(out), "000.safetensors", True, Policy())
        sanitize(up, out, "--cluster", cluster.address, "--shard", "1/40")
        with locked(first, lambda _: False):  # the one worker is held up meanwhile
            process = start(up, out, "--cluster", cluster.address)
            wait_until(lambda: bool(list(children(cluster.workers[0].pid))))
            cluster.start_worker(OTHER_VERSION)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "this worker has ckptool 0.0.1" in err.decode()


def test_a_folder_that_a_worker_does_not_see_is_told(cluster: Dask, tmp_path: Path) -> None:
    """Two machines may have folders of one name: what was put into it just now is what is looked for."""
    up = write(tmp_path / "up", {"a.pt": embedding()})
    hidden = f"mount -t tmpfs none {tmp_path} && exec "
    command = " ".join([*COMMAND, "up", "--out", "out", "--cluster", cluster.address])
    # The client sees folders that the workers do not: as root in a mount namespace, else in one of a user.
    space = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    shell = hidden.replace(" && exec ", f" && cd {tmp_path} && cp -r /proc/{os.getpid()}/root{up} up && exec {command}")
    ran = subprocess.run([*space, "sh", "-c", shell], capture_output=True, text=True, env=os.environ)
    assert ran.returncode == 2, ran.stderr
    assert f"does not see {tmp_path}/out" in ran.stderr
    assert len(ran.stderr.splitlines()) == 2
    assert files_in(tmp_path) == {"up/a.pt"}


def test_a_cluster_without_workers_is_told(tmp_path: Path) -> None:
    up, out = write(tmp_path / "up", {"a.pt": embedding()}), tmp_path / "out"
    job = Job(up / "a.pt", "a.pt", "a.pt", out, str(out), "a.safetensors", True, Policy())
    with dask(tmp_path / "dask", 0) as cluster, pytest.raises(UsageError, match="has no workers"):
        list(Cluster(cluster.address, patience=0.5).reports([job]))


def test_an_address_where_no_scheduler_is_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptool.sanitize.cluster.client.CONNECT", 1.0)
    up = write(tmp_path / "up", {"a.pt": embedding()})
    done = sanitize(up, tmp_path / "out", "--cluster", NOWHERE)
    assert done.ran.code == 2
    assert "there is no scheduler that answers" in done.ran.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--cluster", "HOST:8786"), "is no address of a scheduler"),
        (("--cluster", "tcp://HOST"), "is no address of a scheduler"),
        (("--cluster", "http://HOST:8786"), "is no address of a scheduler"),
        (("--cluster", NOWHERE, "--workers", "2"), "--workers is for this machine"),
        (("--cluster", "tls://127.0.0.1:1"), "no certificate"),
    ],
)
def test_an_option_that_cannot_be_meant_is_a_usage_error(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"a.pt": embedding()})
    done = sanitize(up, tmp_path / "out", *options)
    assert done.ran.code == 2
    assert told in done.ran.err


@pytest.mark.parametrize(
    ("answer", "told"),
    [("nonsense", "cannot be read"), ("[]", "cannot be read"), ('{"error": 5}', "failed"), ('{"unfit": 5}', "5"),
     ('{"report": {"action": "released"}}', "gave no report"), ('{"report": 1}', "gave no report")],
)  # fmt: skip
def test_a_worker_may_answer_anything(answer: str, told: str, tmp_path: Path) -> None:
    """One that somebody else has taken over: the run ends in words, and nothing of it is released."""
    program = f"import ckptool.sanitize.cluster.task as task; task.run_job = lambda _: {answer!r}; " + WORKER
    up = write(tmp_path / "up", {"a.pt": embedding()})
    with dask(tmp_path / "dask", workers=0) as own:
        own.start_worker(program)
        ran = ckptool("sanitize", up, "--out", tmp_path / "out", "--cluster", own.address)
    assert ran.code == 3, ran.err
    assert told in ran.out + ran.err
    assert "Traceback" not in ran.err
    assert not list((tmp_path / "out").glob("*.safetensors"))
