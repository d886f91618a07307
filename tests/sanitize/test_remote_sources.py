"""Sources on other machines: the process of a file borrows bytes, and holds neither a network nor a login."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptool.address import source_of
from ckptool.convert.remote import Place, located
from ckptool.errors import CkptoolError, Refused, UsageError
from ckptool.sanitize.process.borrowed import Borrowed, borrowed
from ckptool.sanitize.process.lender import Lender
from ckptool.sanitize.process.spool import Ranges, Spool
from ckptool.source import File
from fixtures.models import lightning, state_dict
from tests.convert.converting import ckptool
from tests.convert.hub_server import TOKEN, Server, serving
from tests.sanitize.dask_cluster import dask
from tests.sanitize.sanitizing import embedding, evil, files_in, lora, packed, sanitize, trained, write

REPO = "hf://owner/model"
OVERHEAD = 400_000
"""Bytes of the directory, the headers and the pickle of 1,831 tensors, however wide those are."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


def run(*arguments: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """The exit code, the reports by path, and what people were told."""
    ran = ckptool("sanitize", *arguments, "--json")
    return ran.code, {report["path"]: report for report in map(json.loads, ran.out.splitlines())}, ran.err


def test_a_repository_gives_what_its_files_give(hub: Server, tmp_path: Path) -> None:
    files = {"evil.pt": evil(), "a/lora.pt": lora(), "full.ckpt": trained(), "full.yaml": b"a: 1\n"}
    hub.files |= files | {"README.md": b"# A model\n", "config.json": b"{}"}
    code, reports, err = run(REPO, "--out", "remote", "--dtype", "fp16")
    assert code == 1, err
    assert {path: report["action"] for path, report in reports.items()} == {
        f"{REPO}/{name}": "released" for name in ("evil.pt", "a/lora.pt", "full.ckpt")
    }
    assert "3 files without a model passed over" in err
    sanitize(write(tmp_path / "up", files), tmp_path / "local", "--dtype", "fp16")
    assert files_in(Path("remote")) == files_in(Path("local"))
    for name in files_in(Path("local")):
        if not name.endswith(".receipt.json"):
            assert Path("remote", name).read_bytes() == Path("local", name).read_bytes()
    assert ckptool("receipt", "verify", "remote").code == 0


def test_a_receipt_says_which_commit_was_read(hub: Server) -> None:
    hub.files["model.pt"] = lora()
    run(f"{REPO}@main", "--out", "out")
    receipt = json.loads(Path("out/model.safetensors.receipt.json").read_text())
    assert receipt["address"] == f"{REPO}@main/model.pt"
    assert len(receipt["commit"]) == 40
    assert receipt["input"]["sha256"] == receipt["input"]["version"]


def test_only_what_is_kept_is_asked_for_and_only_once(hub: Server) -> None:
    """The proof reads everything again, but not from the other machine."""
    hub.files["model.ckpt"] = packed(lightning(state_dict("sd1-full-ema", 8)))
    code, reports, err = run(f"{REPO}/model.ckpt", "--out", "out", "--dtype", "fp16")
    assert code == 0, err
    report = reports[f"{REPO}/model.ckpt"]
    assert report["parity"]
    kept = 2 * report["output"]["bytes"]  # as F32
    assert kept < hub.bytes_asked < 1.02 * kept + OVERHEAD
    assert report["usage"]["asked"] == pytest.approx(hub.bytes_asked, abs=65_536)


def test_what_has_a_receipt_is_not_read_again(hub: Server) -> None:
    hub.files |= {"a.pt": lora(), "b.pt": embedding()}
    run(REPO, "--out", "out")
    hub.asked.clear()
    hub.files["b.pt"] = evil()
    code, reports, _ = run(REPO, "--out", "out")
    assert {path: report["action"] for path, report in reports.items()} == {
        f"{REPO}/a.pt": "skipped", f"{REPO}/b.pt": "released",
    }  # fmt: skip
    assert code == 1
    assert {name for name, _, _ in hub.asked} == {"b.pt"}


def test_a_private_repository_is_read_with_a_login_that_no_process_of_a_file_has(
    hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["model.pt"] = lora()
    hub.needs_token = True
    code, _, err = run(REPO, "--out", "out")
    assert code == 2
    assert "hf auth login" in err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, reports, err = run(REPO, "--out", "out")
    assert code == 0, err
    told = json.dumps(reports) + err + "".join(path.read_text() for path in Path("out").glob("*.json"))
    assert TOKEN not in told


def test_a_broken_connection_goes_on_where_it_broke(hub: Server) -> None:
    hub.files["model.ckpt"] = trained()
    hub.faults = ["", "", "broken 1000", "503 0", "broken 10"]
    code, _, err = run(REPO, "--out", "out")
    assert code == 0, err


def test_a_file_that_does_not_come_is_refused_and_harms_no_other(hub: Server) -> None:
    hub.files |= {"bad.ckpt": trained(), "good.pt": lora()}
    hub.cdn = False
    hub.faults = ["", *["500 0"] * 200]
    code, reports, err = run(f"{REPO}/bad.ckpt", "--out", "out")
    assert code == 3
    assert "answers with 500" in reports[f"{REPO}/bad.ckpt"]["error"]["message"], err
    assert files_in(Path("out")) == {"SHA256SUMS"}
    hub.faults = []
    code, reports, err = run(REPO, "--out", "out")
    assert code == 0, err


def test_a_file_that_changes_while_it_is_read_is_refused(hub: Server) -> None:
    hub.files["model.ckpt"] = trained()
    hub.faults = ["", "", "", "changed"]
    code, reports, _ = run(REPO, "--out", "out")
    assert code == 3
    assert "another file than before" in reports[f"{REPO}/model.ckpt"]["error"]["message"]
    assert files_in(Path("out")) == {"SHA256SUMS"}


def test_a_pattern_names_the_files_of_a_repository(hub: Server) -> None:
    hub.files |= {"a.pt": lora(), "sub/b.pt": lora(), "sub/deep/c.pt": lora(), "sub/d.bin": lora()}
    assert set(run(f"{REPO}/*.pt", "--out", "1")[1]) == {f"{REPO}/a.pt"}
    assert set(run(f"{REPO}/sub/*.pt", "--out", "2")[1]) == {f"{REPO}/sub/b.pt"}
    assert set(run(f"{REPO}/**/*.pt", "--out", "3")[1]) == {
        f"{REPO}/{n}" for n in ("a.pt", "sub/b.pt", "sub/deep/c.pt")
    }
    assert set(run(f"{REPO}/sub", "--out", "4")[1]) == {f"{REPO}/sub/{n}" for n in ("b.pt", "deep/c.pt", "d.bin")}
    code, _, err = run(f"{REPO}/*.ckpt", "--out", "5")
    assert code == 2
    assert "there is no such file" in err
    assert run("hf://owner/*", "--out", "6")[0] == 2


def test_a_model_in_parts_is_one(hub: Server) -> None:
    tensors = state_dict("lora-kohya-sd1", 64)
    names = sorted(tensors)
    parts = {"model-1.bin": names[: len(names) // 2], "model-2.bin": names[len(names) // 2 :]}
    hub.files |= {file: packed({name: tensors[name] for name in part}) for file, part in parts.items()}
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    hub.files["model.bin.index.json"] = json.dumps(index).encode()
    code, reports, err = run(REPO, "--out", "out")
    assert code == 0, err
    assert list(reports) == [f"{REPO}/model.bin.index.json"]
    receipt = json.loads(Path("out/model.safetensors.receipt.json").read_text())
    assert {part["name"] for part in receipt["parts"]} == {"model-1.bin", "model-2.bin"}
    assert run(REPO, "--out", "out")[1][f"{REPO}/model.bin.index.json"]["action"] == "skipped"


def test_a_file_of_a_web_server(hub: Server) -> None:
    hub.files["my model.pt"] = lora()
    address = f"{hub.endpoint}/web/my%20model.pt?key=secret"
    code, reports, err = run(address, "--out", "out")
    assert code == 0, err
    assert files_in(Path("out")) == {"my model.safetensors", "my model.safetensors.receipt.json", "SHA256SUMS"}
    assert "secret" not in json.dumps(reports) + err + Path("out/my model.safetensors.receipt.json").read_text()
    assert [report["action"] for report in run(address, "--out", "out")[1].values()] == ["skipped"]


def test_a_host_without_ranges_is_taken_whole_once(hub: Server) -> None:
    hub.files["model.pt"] = lora()
    hub.faults = ["ignores"]
    code, _, err = run(f"{hub.endpoint}/web/model.pt", "--out", "out")
    assert code == 0, err
    assert len(hub.asked) == 1


def test_what_is_too_large_is_refused_and_its_tensors_stay_where_they_are(hub: Server) -> None:
    hub.files["model.ckpt"] = trained()
    code, reports, _ = run(REPO, "--out", "out", "--max-size", "1MB")
    assert code == 3
    assert "the policy allows" in reports[f"{REPO}/model.ckpt"]["error"]["message"]
    assert hub.bytes_asked < len(trained()) / 2


def test_no_repository_is_a_wrong_use_and_makes_no_folder(hub: Server) -> None:
    code, _, err = run("hf://owner/nothing", "--out", "out")
    assert code == 2
    assert "there is no such repository" in err
    assert not Path("out").exists()


# --- what a process that a file took over may ask for ----------------------------------------------------------


@pytest.fixture
def lent(hub: Server, tmp_path: Path) -> Iterator[tuple[Lender, Borrowed]]:
    hub.files |= {
        "sub/model.pt": lora(),
        "sub/model.yaml": b"a: 1\n",
        "secret.bin": b"x" * 5000,
        "sub/deep/s.bin": b"x",
    }
    place = located(source_of(f"{REPO}/sub/model.pt"))
    assert isinstance(place, Place)
    with Lender(place, tmp_path) as lender:
        store = borrowed(lender.channel, place.path, str(place)).store
        assert isinstance(store, Borrowed)
        yield lender, store


def test_what_is_lent_is_the_file_and_what_lies_beside_it(lent: tuple[Lender, Borrowed]) -> None:
    _, store = lent
    assert set(store.files() or {}) == {"sub/model.pt", "sub/model.yaml"}
    data = bytearray(len(lora()))
    with store.open("sub/model.pt") as file:
        file.read_into(memoryview(data), 0)
    assert data == lora()


@pytest.mark.parametrize(
    "path", ["secret.bin", "sub/deep/s.bin", "sub/../secret.bin", "sub/..", "sub/", "", "/etc/passwd"]
)
@pytest.mark.parametrize("what", ["open", "part", "stated", "check"])
def test_nothing_else_is_lent(path: str, what: str, lent: tuple[Lender, Borrowed], hub: Server) -> None:
    _, store = lent
    with pytest.raises((Refused, UsageError)):
        store.ask(what, path, 0, 1)
    assert "secret.bin" not in {name for name, _, _ in hub.asked}


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, 0), (0, -1), (0, 1 << 62), (1 << 62, 1), (len(lora()), 1)])
def test_no_range_outside_the_file_is_lent(offset: int, length: int, lent: tuple[Lender, Borrowed]) -> None:
    with pytest.raises(CkptoolError):
        lent[1].ask("part", "sub/model.pt", offset, length)


@pytest.mark.parametrize(
    "question",
    [b"", b"{}", b"[]", b"\xff", b"[" * 9000, b'{"what": "part", "path": 1, "offset": 0, "length": 1}',
     b'{"what": "burn", "path": "sub/model.pt", "offset": 0, "length": 1}',
     b'{"what": "part", "path": "sub/model.pt", "offset": true, "length": 1e3}'],
)  # fmt: skip
def test_nonsense_is_answered_and_ends_nothing(question: bytes, lent: tuple[Lender, Borrowed]) -> None:
    lender, store = lent
    ours, theirs = socket.socketpair()
    with ours:
        with theirs, suppress(OSError):
            socket.send_fds(lender.channel, [question], [theirs.fileno()])
        if question:
            assert b'"error"' in ours.makefile("rb").readline()
    lender.channel.send(b"a question without an answer")
    assert store.open("sub/model.pt").size == len(lora())


def test_what_is_asked_for_in_vain_is_not_kept_without_end(
    lent: tuple[Lender, Borrowed], monkeypatch: pytest.MonkeyPatch
) -> None:
    lender, store = lent
    monkeypatch.setattr("ckptool.sanitize.process.lent.MAX_SHARDS", 20)
    for number in range(50):
        with pytest.raises(CkptoolError):
            store.ask("open", f"sub/{number}")
    assert len(lender.lent._failed) <= 21
    with pytest.raises(Refused, match="asks for something that there is not"):
        store.ask("open", "sub/\ud800")


def test_what_takes_no_answer_ends_nothing(lent: tuple[Lender, Borrowed]) -> None:
    """Pipes, files, devices, and sockets that lead elsewhere; none of them stays open."""
    lender, store = lent
    question = b'{"what": "open", "path": "sub/model.pt", "offset": 0, "length": 1}'
    before = len(os.listdir("/proc/self/fd"))
    pipe, pair = os.pipe(), socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    web, device = socket.socket(), os.open("/dev/zero", os.O_RDWR)
    for number in (*pipe, device, pair[0].fileno(), web.fileno(), lender.channel.fileno()) * 30:
        socket.send_fds(lender.channel, [question], [number])
    assert store.open("sub/model.pt").size == len(lora())
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(100)
    for number in (*pipe, device):
        os.close(number)
    for one in (*pair, web):
        one.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_answers_that_nobody_takes_end_with_the_job(hub: Server, tmp_path: Path) -> None:
    hub.files["model.ckpt"] = bytes(30 << 20)
    place = located(source_of(f"{REPO}/model.ckpt"))
    assert isinstance(place, Place)
    with Lender(place, tmp_path) as lender:
        store = borrowed(lender.channel, place.path, str(place)).store
        assert isinstance(store, Borrowed)
        held = [store.ask("part", "model.ckpt", 0, 30 << 20) for _ in range(60)]
    for reply in held:
        reply.close()
    assert not list(tmp_path.iterdir())


def test_ranges_that_are_kept_are_one_where_they_touch() -> None:
    kept = Ranges()
    for start, end in ((10, 20), (40, 50), (20, 30), (5, 12), (45, 60)):
        kept.add(start, end)
    assert kept.run(0, 100) == (5, False)
    assert kept.run(5, 100) == (30, True)
    assert kept.run(12, 20) == (20, True)
    assert kept.run(30, 35) == (35, False)
    assert kept.run(30, 100) == (40, False)
    assert kept.run(59, 100) == (60, True)
    assert kept.run(60, 100) == (100, False)
    kept.add(0, 100)
    assert kept.run(0, 100) == (100, True)


def test_what_was_read_once_is_read_from_the_file_that_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "source"
    data = bytes(range(256)) * 8192
    path.write_bytes(data)
    with File.open(path) as source, Spool(source, tmp_path) as spool:
        assert b"".join(map(bytes, spool.pieces(1000, 500_000))) == data[1000:501_000]
        path.write_bytes(bytes(len(data)))
        assert b"".join(map(bytes, spool.pieces(2000, 400_000))) == data[2000:402_000]
        mixed = b"".join(map(bytes, spool.pieces(0, len(data))))
        assert mixed == bytes(1000) + data[1000:501_000] + bytes(len(data) - 501_000)
    assert [name.name for name in tmp_path.iterdir()] == ["source"]


def test_the_machines_of_a_cluster_read_for_themselves(hub: Server, tmp_path: Path) -> None:
    files = {"evil.pt": evil(), "a/lora.pt": lora(), "full.ckpt": trained()}
    hub.files |= files | {"web.pt": lora()}
    sources = [
        f"{REPO}@main/*/lora.pt",
        f"{REPO}/evil.pt",
        f"{REPO}/full.ckpt",
        f"{hub.endpoint}/web/web.pt?key=secret",
    ]
    with dask(tmp_path / "dask", workers=2) as cluster:
        code, reports, err = run(*sources, "--out", "far", "--cluster", cluster.address)
        logs = "".join(path.read_text() for path in cluster.folder.glob("*.log"))
    assert code == 1, err
    assert {report["action"] for report in reports.values()} == {"released"}
    assert len(reports) == len(sources)
    run(*sources, "--out", "near")
    for name in files_in(Path("near")):
        assert Path("far", name).read_bytes() == Path("near", name).read_bytes()
    assert "secret" not in json.dumps(reports) + err + logs.replace("hf_secret", "")
