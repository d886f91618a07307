"""Outputs in a bucket, on an S3-compatible server: what is there, in which order, and what stays when that fails."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from ckptool.sanitize.bucket.shelf import AT_ONCE, PART, shelf_at
from ckptool.sanitize.bucket.stored import BEGIN, opened, sweep
from ckptool.sanitize.receipts.receipt_file import MOST
from fixtures.tensors import noise
from tests.convert.converting import Ran, ckptool
from tests.sanitize.dask_cluster import dask
from tests.sanitize.sanitizing import COMMAND, embedding, evil, files_in, packed, sanitize, trained, write
from tests.sanitize.storing import BUCKET, Objects, s3_server, settings

OUT = "s3://models/out"


@pytest.fixture(scope="module")
def server() -> Iterator[Objects]:
    """Its libraries start slowly, so there is one for all tests."""
    with s3_server() as door, pytest.MonkeyPatch.context() as patch:
        for name, value in settings(door).items():
            patch.setenv(name, value)
        forget()
        found = Objects(door)
        found.client.create_bucket(Bucket=BUCKET)
        yield found
    forget()


@pytest.fixture
def bucket(server: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Objects]:
    server.door.rule = lambda method, path: None
    server.clear()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    server.door.seen.clear()
    yield server
    assert not list((tmp_path / "tmp").glob("*/*")), "nothing stays on this machine"


def forget() -> None:
    """Whom to ask is looked up once in a process."""
    shelf_at.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def up(tmp_path: Path) -> Path:
    return write(tmp_path / "up", {"a.pt": embedding(), "sub/evil.pt": evil(), "a.yaml": b"model: {}\n"})


def run(up: Path, *options: object, out: str = OUT) -> tuple[int, dict[str, Any]]:
    """The exit code, and the report of each file by its name."""
    ran = ckptool("sanitize", up, "--out", out, "--json", *options)
    reports = [json.loads(line) for line in ran.out.splitlines()]
    return ran.code, {os.path.relpath(report["path"], up if up.is_dir() else up.parent): report for report in reports}


def actions(found: tuple[int, dict[str, Any]]) -> dict[str, str]:
    return {name: report["action"] for name, report in found[1].items()}


def verify(*options: object) -> Ran:
    return ckptool("receipt", "verify", OUT, *options)


def big(name: str = "big") -> bytes:
    """A tensor that is sent in three parts."""
    return packed({"weight": noise("F32", ((2 * PART + (1 << 20)) // 4,), name)})


def bigger() -> bytes:
    """One with more parts than are sent at a time."""
    return packed({"weight": noise("F32", ((2 * AT_ONCE * PART) // 4,), "bigger")})


def test_a_bucket_gets_what_a_folder_gets(bucket: Objects, up: Path, tmp_path: Path) -> None:
    write(up, {"bad.pt": b"PK\x03\x04", "notes.txt": b"none", "t.ckpt": trained()})
    options = ("--dangerous", "quarantine", "--dtype", "fp16")
    local = sanitize(up, tmp_path / "local", *options)
    code, reports = run(up, *options)
    assert (code, actions((code, reports))) == (local.ran.code, local.actions)
    assert bucket.all("out/") == {n: (tmp_path / "local" / n).read_bytes() for n in files_in(tmp_path / "local")}
    assert reports["sub/evil.pt"]["output"]["path"] == f"{OUT}/quarantine/sub/evil.safetensors"
    assert reports["a.pt"]["receipt"] == f"{OUT}/a.safetensors.receipt.json"
    ran = verify()
    assert (ran.code, ran.out) == (0, "5 files, all as written\n"), ran.err


def test_from_bucket_to_bucket(bucket: Objects, up: Path, tmp_path: Path) -> None:
    for path in up.rglob("*.*"):
        bucket.put(f"up/{path.relative_to(up)}", path.read_bytes())
    sanitize(up, tmp_path / "local")
    ran = ckptool("sanitize", "s3://models/up", "--out", OUT)
    assert ran.code == 1, ran.err
    there = bucket.all("out/")
    assert set(there) == files_in(tmp_path / "local")
    for name in ("a.safetensors", "a.yaml", "sub/evil.safetensors", "SHA256SUMS"):
        assert there[name] == (tmp_path / "local" / name).read_bytes()
    assert "2 of them done already" in ckptool("sanitize", "s3://models/up", "--out", OUT).err


def test_a_whole_bucket_takes_outputs(bucket: Objects, up: Path) -> None:
    assert run(up, out="s3://models")[0] == 1
    assert "a.safetensors.receipt.json" in bucket.all()
    assert ckptool("receipt", "verify", "s3://models/").code == 0


def test_the_receipt_is_put_last_and_the_next_run_puts_nothing(bucket: Objects, up: Path) -> None:
    run(up, "--workers", 1)
    own = [path.rpartition("/out/")[2] for path in bucket.door.puts() if "/out/a." in path]
    assert own == ["a.safetensors", "a.yaml", "a.safetensors.receipt.json"]
    bucket.door.seen.clear()
    code, reports = run(up)
    assert (code, actions((code, reports))) == (1, {"a.pt": "skipped", "sub/evil.pt": "skipped"})
    assert reports["a.pt"]["output"]["path"] == f"{OUT}/a.safetensors"
    assert [path.rpartition("/")[2] for path in bucket.door.puts()] == ["SHA256SUMS"]


@pytest.mark.parametrize("what", ["source", "time", "output", "output cut", "receipt", "receipt broken", "forced"])
def test_what_is_not_as_its_receipt_says_is_done_again(what: str, bucket: Objects, up: Path) -> None:
    run(up)
    before, expected = bucket.all("out/"), "released"
    match what:
        case "source":
            (up / "a.pt").write_bytes(packed({"emb_params": noise("F32", (2, 768), "other")}))
        case "time":
            os.utime(up / "a.pt", (1, 1))
            expected = "skipped"
        case "output":
            bucket.delete("out/a.safetensors")
        case "output cut":
            bucket.put("out/a.safetensors", before["a.safetensors"][:100])
        case "receipt":
            bucket.delete("out/a.safetensors.receipt.json")
        case "receipt broken":
            bucket.put("out/a.safetensors.receipt.json", b"[" * 100_000)
    again = actions(run(up, *(("--force",) if what == "forced" else ())))
    assert again == {"a.pt": expected, "sub/evil.pt": "released" if what == "forced" else "skipped"}
    assert verify().code == 0
    assert what in ("source", "receipt") or bucket.all("out/")["a.safetensors"] == before["a.safetensors"]


def test_what_was_made_of_a_source_goes_when_it_is_refused_now(bucket: Objects, up: Path) -> None:
    run(up)
    (up / "a.pt").write_bytes(b"PK\x03\x04")
    (up / "sub/evil.pt").unlink()
    (up / "sub/evil.pt").symlink_to("/etc/passwd")
    assert actions(run(up)) == {"a.pt": "refused", "sub/evil.pt": "refused"}
    assert bucket.all("out/") == {"SHA256SUMS": b""}


def test_what_is_quarantined_now_is_released_no_longer(bucket: Objects, up: Path) -> None:
    run(up)
    run(up, "--dangerous", "quarantine")
    assert {name for name in bucket.all("out/") if "evil" in name} == {
        "quarantine/sub/evil.safetensors", "quarantine/sub/evil.safetensors.receipt.json",
    }  # fmt: skip
    assert verify().code == 0


@pytest.mark.parametrize(
    "what", ["changed", "gone", "stranger", "broken", "huge", "forged", "sums", "upwards", "receipt as folder"]
)
def test_outputs_that_were_touched_are_told(what: str, bucket: Objects, up: Path) -> None:
    run(up)
    data, paper = bucket.get("out/a.safetensors"), bucket.get("out/a.safetensors.receipt.json")
    match what:
        case "changed":
            bucket.put("out/a.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
        case "gone":
            bucket.delete("out/a.safetensors")
        case "stranger":
            bucket.put("out/b.safetensors", data)
        case "broken":
            bucket.put("out/a.safetensors.receipt.json", b"[" * 100_000)
        case "huge":
            bucket.put("out/a.safetensors.receipt.json", paper + b" " * MOST)
        case "forged":
            found = json.loads(paper)
            found["output"]["name"] = "../../up/a.pt"
            bucket.put("out/a.safetensors.receipt.json", json.dumps(found).encode())
        case "sums":
            bucket.put("out/SHA256SUMS", b"")
        case "upwards":
            bucket.put("out/../../x.safetensors", data)
        case "receipt as folder":
            bucket.put("out/a.safetensors.receipt.json/x.safetensors", data)
    ran = verify("--json")
    problems = json.loads(ran.out)["problems"]
    assert (ran.code, all(problem["path"].startswith(f"{OUT}/") for problem in problems)) == (1, True)
    assert problems


def test_a_large_output_is_sent_in_parts(bucket: Objects, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"big.pt": big()})
    local = sanitize(up, tmp_path / "local")
    assert actions(run(up)) == local.actions == {"big.pt": "released"}
    assert bucket.get("out/big.safetensors") == (tmp_path / "local/big.safetensors").read_bytes()
    assert len([path for path in bucket.door.puts() if "partNumber" in path]) == 3
    assert verify().code == 0


@pytest.mark.parametrize("what", ["partNumber=2", "POST"])
def test_an_upload_that_fails_leaves_no_part(what: str, bucket: Objects, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"big.pt": big(), "a.pt": embedding()})

    def rule(method: str, path: str) -> str | None:
        ends = what == "POST" and method == "POST" and "uploadId" in path
        return "AccessDenied" if ends or (method == "PUT" and what in path) else None

    bucket.door.rule = rule
    code, reports = run(up)
    assert (code, actions((code, reports))) == (3, {"a.pt": "released", "big.pt": "refused"})
    assert f"{OUT}/big.safetensors" in reports["big.pt"]["error"]["message"]
    assert "secret-of-s3" not in json.dumps(reports)
    assert (bucket.uploads(), [name for name in bucket.all("out/") if "big" in name]) == ([], [])
    bucket.door.rule = lambda method, path: None
    assert actions(run(up)) == {"a.pt": "skipped", "big.pt": "released"}
    assert verify().code == 0


def test_an_upload_ends_with_its_run_and_leaves_no_part(bucket: Objects, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"big.pt": bigger()})
    process: list[subprocess.Popen[bytes]] = []
    sent = threading.Event()

    def rule(method: str, path: str) -> str | None:
        if "partNumber" in path and process and not sent.is_set():
            sent.set()
            process[0].send_signal(signal.SIGINT)
            time.sleep(1)  # it hears of it before this part has arrived
        return None

    bucket.door.rule = rule
    (tmp_path / "work").mkdir()
    command = [*COMMAND, str(up), "--out", OUT, "-q"]
    process.append(subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path / "work")}))
    assert (process[0].wait(), sent.is_set()) == (130, True)
    assert (bucket.uploads(), bucket.all("out/"), list((tmp_path / "work").iterdir())) == ([], {"SHA256SUMS": b""}, [])


def test_parts_that_a_killed_run_left_are_removed_by_the_next(bucket: Objects, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"big.pt": big()})
    for key in ("out/big.safetensors", "out/big.safetensors2"):
        bucket.client.create_multipart_upload(Bucket=BUCKET, Key=key)
    assert actions(run(up)) == {"big.pt": "released"}
    assert [upload["Key"] for upload in bucket.uploads()] == ["out/big.safetensors2"]


def test_an_answer_that_is_lost_is_no_failure(bucket: Objects, tmp_path: Path) -> None:
    """Each request that keeps something is done, and its answer lost the first time."""
    up = write(tmp_path / "up", {"big.pt": big()})
    lost: set[str] = set()

    def rule(method: str, path: str) -> str | None:
        first = method in ("PUT", "POST") and path not in lost
        lost.add(path)
        return "lost" if first else None

    bucket.door.rule = rule
    assert actions(run(up)) == {"big.pt": "released"}
    assert verify().code == 0


def test_a_broken_connection_is_tried_again(bucket: Objects, up: Path) -> None:
    broken: set[tuple[str, str]] = set()

    def rule(method: str, path: str) -> str | None:
        first = (method, path) not in broken
        broken.add((method, path))
        return "break" if first else None

    bucket.door.rule = rule
    assert actions(run(up)) == {"a.pt": "released", "sub/evil.pt": "released"}
    assert verify().code == 0


def test_where_a_server_fails_again_and_again_the_file_is_refused_and_the_run_goes_on(
    bucket: Objects, up: Path
) -> None:
    bucket.door.rule = lambda method, path: "InternalError" if method == "PUT" and path.endswith("/a.yaml") else None
    code, reports = run(up)
    assert (code, actions((code, reports))) == (3, {"a.pt": "refused", "sub/evil.pt": "released"})
    assert reports["a.pt"]["error"]["message"].endswith(f"{OUT}/a.yaml: its host gives no proper answer: InternalError")
    assert sum("a.yaml" in path for path in bucket.door.puts()) == 5
    assert {name for name in bucket.all("out/") if name.startswith("a")} == {"a.safetensors"}


def test_a_server_that_refuses_receipts_leaves_outputs_that_nobody_takes_for_done(bucket: Objects, up: Path) -> None:
    bucket.door.rule = lambda method, path: "AccessDenied" if method == "PUT" and "receipt" in path else None
    code, reports = run(up)
    assert (code, set(actions((code, reports)).values())) == (3, {"refused"})
    assert [finding["reference"] for finding in reports["sub/evil.pt"]["findings"]] == ["posix.system"]
    assert bucket.get("out/SHA256SUMS") == b""
    assert verify().code == 2
    bucket.door.rule = lambda method, path: None
    assert set(actions(run(up)).values()) == {"released"}
    assert verify().code == 0


def test_files_are_told_when_the_server_is_gone_before_the_sums(bucket: Objects, up: Path, tmp_path: Path) -> None:
    """Every file is in the report, though the run ends with an error."""

    def rule(method: str, path: str) -> str | None:
        done = sum("receipt" in put for put in bucket.door.puts()) == 2
        return "AccessDenied" if done and "receipt" not in path else None

    bucket.door.rule = rule
    ran = ckptool("sanitize", up, "--out", OUT, "--report", tmp_path / "report.json", "-q")
    assert (ran.code, "may not" in ran.err) == (3, True), ran.err
    assert [item["action"] for item in json.loads((tmp_path / "report.json").read_text())] == ["released"] * 2


def test_a_run_that_is_killed_before_a_receipt_is_finished_by_the_next(bucket: Objects, up: Path) -> None:
    """Killed in a process of its own, when its output is there and its receipt is on the way."""
    process: list[subprocess.Popen[bytes]] = []

    def rule(method: str, path: str) -> str | None:
        if method == "PUT" and "a.safetensors.receipt" in path and process:
            process[0].kill()
            process[0].wait()
            return "break"
        return None

    bucket.door.rule = rule
    command = [*COMMAND, str(up / "a.pt"), "--out", OUT, "-q"]
    process.append(subprocess.Popen(command, env=os.environ | {"TMPDIR": str(up.parent)}))
    process[0].wait()
    assert set(bucket.all("out/")) == {"SHA256SUMS", "a.safetensors", "a.yaml"}
    assert verify().code == 2
    bucket.door.rule = lambda method, path: None
    assert actions(run(up / "a.pt")) == {"a.pt": "released"}
    assert verify().code == 0


def test_of_two_runs_that_end_together_the_sums_hold_all(bucket: Objects, up: Path) -> None:
    """The second run begins and ends while the sums of the first, made before, are on their way."""
    other: list[int] = []

    def rule(method: str, path: str) -> str | None:
        done = any("receipt" in put for put in bucket.door.puts())
        if method == "PUT" and path.endswith("SHA256SUMS") and done and not other:
            other.append(0)
            subprocess.run([*COMMAND, str(up / "sub/evil.pt"), "--out", OUT, "-q"], env=os.environ)
        return None

    def sums() -> bytes:
        return bucket.all("out/").get("SHA256SUMS", b"")

    bucket.door.rule = rule
    assert actions(run(up / "a.pt")) == {"a.pt": "released"}
    assert other, "the other run was started"
    assert [line.split()[1] for line in sums().splitlines()] == [b"a.safetensors", b"a.yaml", b"evil.safetensors"]
    assert verify().code == 0


def test_shards_into_one_prefix_are_what_one_run_is(bucket: Objects, up: Path) -> None:
    write(up, {f"{i}.pt": embedding() for i in range(6)})
    command = [*COMMAND, str(up), "--out", OUT, "-q", "--shard"]
    runs = [subprocess.Popen([*command, f"{i}/3"], env=os.environ) for i in (1, 2, 3)]
    assert {process.wait() for process in runs} <= {0, 1}
    parts = bucket.all("out/")
    run(up, out="s3://models/whole")
    assert parts == bucket.all("whole/")
    assert verify().code == 0


def test_a_cluster_puts_the_same_into_a_bucket(bucket: Objects, up: Path, tmp_path: Path) -> None:
    write(up, {"bad.pt": b"PK\x03\x04"})
    with dask(tmp_path / "dask", 1) as cluster:
        code, reports = run(up, "--cluster", cluster.address)
    assert (code, reports["a.pt"]["output"]["path"]) == (3, f"{OUT}/a.safetensors")
    parts = bucket.all("out/")
    run(up, out="s3://models/whole")
    assert parts == bucket.all("whole/")
    assert "secret-of-s3" not in "".join(path.read_text() for path in (tmp_path / "dask").glob("*.log"))


def test_what_a_killed_process_left_to_work_in_goes_with_the_next_run(
    bucket: Objects, up: Path, tmp_path: Path
) -> None:
    left, busy, new = (tmp_path / "tmp" / f"{BEGIN}{name}" for name in ("left", "busy", "new"))
    for folder in (left, busy, new):
        write(folder, {"quarantine/a.safetensors": b"x"})
    for folder in (left, busy):
        os.utime(folder, (1, 1))
    lock = os.open(busy, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    sweep.cache_clear()
    run(up)
    os.close(lock)
    assert {path.name for path in (tmp_path / "tmp").iterdir()} == {busy.name, new.name}
    shutil.rmtree(busy)
    shutil.rmtree(new)


def test_links_that_a_process_left_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "way").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "way/file", "pipe", "none", "folder"):
        with pytest.raises(OSError, match=r"link|regular|No such|Too many"), opened(tmp_path / name):
            pass
    with opened(tmp_path / "folder/file") as fd:
        assert os.read(fd, 9) == b"x"


def test_signed_receipts_in_a_bucket(bucket: Objects, up: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key)]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)], check=True)
    run(up)
    assert verify("--key", public).code == 1
    code, reports = run(up, "--sign", key)
    assert set(actions((code, reports)).values()) == {"released"}, "nobody knows who put the unsigned ones there"
    assert reports["a.pt"]["signature"] == f"{OUT}/a.safetensors.receipt.json.sig"
    assert (verify("--key", public).code, "SHA256SUMS.sig" in bucket.all("out/")) == (0, True)
    assert set(actions(run(up, "--sign", key)).values()) == {"skipped"}
    (up / "a.pt").write_bytes(trained())
    run(up)
    assert "SHA256SUMS.sig" not in bucket.all("out/")
    assert "a.safetensors.receipt.json.sig" not in bucket.all("out/")


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("s3://nobody/x", "there is no such bucket"),
        ("s3://models/strangers", "holds objects that sanitize did not put there"),
        ("s3:///x", "is no address"),
        ("s3://models/../x", "is no address"),
        ("gs://models/x", "in a bucket of S3"),
        ("hf://owner/repo", "in a bucket of S3"),
        ("https://example.org/x", "in a bucket of S3"),
    ],
)
def test_where_nothing_can_be_put_nothing_is_begun(out: str, told: str, bucket: Objects, up: Path) -> None:
    bucket.put("strangers/a.bin", b"x")
    ran = ckptool("sanitize", up, "--out", out)
    assert (ran.code, told in ran.err, ran.err.count("\n")) == (2, True, 2), ran.err


@pytest.mark.parametrize("source", ["s3://models/out", "s3://models/out/x.pt", "s3://models", "s3://models/out/up"])
def test_outputs_lie_apart_from_the_sources(source: str, bucket: Objects) -> None:
    bucket.put("out/up/x.pt", embedding())
    ran = ckptool("sanitize", source, "--out", OUT)
    assert (ran.code, "among the sources" in ran.err) == (2, True), ran.err


def test_without_credentials_it_is_said_so(bucket: Objects, up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget()
    ran = ckptool("sanitize", up, "--out", OUT)
    assert (ran.code, "credentials" in ran.err, ran.err.count("\n")) == (2, True, 2), ran.err
    forget()


def test_without_the_extra_it_is_said_how_to_get_it(bucket: Objects, up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    forget()
    ran = ckptool("sanitize", up, "--out", OUT)
    assert (ran.code, "pip install 'ckptool[s3]'" in ran.err) == (2, True), ran.err


def test_names_that_no_object_can_have_are_refused(bucket: Objects, tmp_path: Path) -> None:
    up = write(tmp_path / "up", {"/".join(["d" * 200] * 5) + "/a.pt": embedding(), "b.pt": embedding()})
    (up / os.fsdecode(b"c\xff.pt")).write_bytes(embedding())
    code, reports = run(up)
    assert (code, sorted(actions((code, reports)).values())) == (3, ["refused", "refused", "released"])
