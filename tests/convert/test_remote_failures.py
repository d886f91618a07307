"""What goes wrong on the way: broken, slow and lying servers, refusals, and a user who wants to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ckptool.address import Address
from ckptool.convert.remote import located
from ckptool.convert.remote_bytes import Remote
from ckptool.convert.remote_client import Http
from ckptool.convert.remote_http import HttpOrigin
from ckptool.convert.remote_patience import Patience
from ckptool.convert.remote_web import opened
from ckptool.errors import CkptoolError, Unreachable, UsageError
from ckptool.source import File, Record
from tests.convert.converting import Ran, ckptool, random
from tests.convert.hub_server import TOKEN, Server, serving

FILE = "hf://owner/model/model.bin"
HASTY = Patience(timeout=0.4, first=0.01, longest=0.2)
DATA = random(torch.uint8, (3_000_000,)).numpy().tobytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving() as server:
        server.files["model.bin"] = DATA
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


def read(server: Server, patience: Patience = HASTY) -> bytes:
    """All of the file, by one impatient reader; faults begin after the first answer."""
    faults, server.faults = server.faults, [""]
    with open_here(server, patience) as source:
        server.faults = faults
        return Record.whole(source).read(0, source.size)


def open_here(server: Server, patience: Patience = HASTY) -> Remote | File:
    return opened(HttpOrigin(Http(patience), f"{server.endpoint}/web/model.bin", "model", {}), patience)


# --- what is tried again -------------------------------------------------------------------------------------------


def test_a_broken_connection_goes_on_where_it_stopped(hub: Server) -> None:
    hub.faults = ["broken 1000000", "broken 500000", ""]
    assert read(hub) == DATA
    assert [offset for _, offset, _ in hub.asked] == [0, 0, 1_000_000, 1_500_000]


@pytest.mark.parametrize(
    "fault", ["hangs", "garbage", "500", "502", "503", "504", "408", "429", "429 0", "chunked-more"]
)
def test_what_may_pass_is_tried_again(fault: str, hub: Server) -> None:
    hub.faults = [fault, fault, ""]
    assert read(hub) == DATA


@pytest.mark.parametrize("fault", ["hangs 0", "503", "429", "broken 0"])
def test_there_is_an_end_to_trying(fault: str, hub: Server) -> None:
    hub.faults = [fault] * 20
    with pytest.raises(Unreachable, match="model: "):
        read(hub, Patience(timeout=0.1, first=0.01, in_a_row=3))
    assert len(hub.asked) == 4


def test_failures_count_even_when_a_few_bytes_come_between(hub: Server) -> None:
    hub.faults = ["broken 10"] * 30
    with pytest.raises(Unreachable):
        read(hub, Patience(timeout=0.4, first=0.001, in_all=8))
    assert len(hub.asked) == 10


def test_a_host_that_says_when_is_asked_then(hub: Server) -> None:
    hub.faults = ["429 1", ""]
    begun = time.monotonic()
    assert read(hub, Patience(first=0.01)) == DATA
    assert time.monotonic() - begun >= 1


def test_nobody_waits_as_long_as_a_host_likes(hub: Server) -> None:
    hub.faults = ["429 86400"]
    with pytest.raises(Unreachable) as caught:
        read(hub)
    assert "86,400 s" in caught.value.hint


def test_a_trickle_is_as_good_as_nothing(hub: Server) -> None:
    hub.faults = ["trickles"] * 9
    with pytest.raises(Unreachable, match="bytes a second"):
        read(hub, Patience(timeout=0.3, first=0.01, in_all=2))


def test_a_redirect_whose_time_is_over_is_asked_for_anew(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults = ["", "403", ""]
    ran = ckptool("scan", FILE)
    assert "no torch, pickle or safetensors file" in ran.err or ran.code == 0  # random bytes, but all could be read
    origin = HttpOrigin(Http(HASTY), f"{hub.endpoint}/owner/model/resolve/main/model.bin", "model", {})
    hub.faults = ["", "403", ""]
    with opened(origin, HASTY) as source:
        assert Record.whole(source).read(0, source.size) == DATA


# --- what is not believed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("changed", "another file than before"),
        ("grown", "another file than before"),
        ("ignores", "another file than before"),
        ("other-range", "another range than was asked for"),
        ("more", "more or less than it says"),
        ("packed", "compressed"),
        ("404", "no such file"),
        ("418", "answers with 418"),
        ("to loop", "redirected more than"),
        ("to http://example.invalid/x", "redirected to where nothing is read from"),
        ("to file:///etc/passwd", "redirected to where nothing is read from"),
        ("to https://user:password@example.invalid/", "redirected to where nothing is read from"),
        ("to //[", "redirected to where nothing is read from"),
    ],
)
def test_an_answer_that_is_not_the_one_asked_for_is_refused(fault: str, words: str, hub: Server) -> None:
    hub.faults = [fault] * 12
    with pytest.raises(CkptoolError) as caught:
        read(hub)
    assert words in caught.value.message
    assert "password" not in caught.value.message + caught.value.hint


def test_a_hostile_index_leads_to_no_other_place(hub: Server) -> None:
    index = b'{"weight_map": {"a": "x?a=b#c %0d%0ahost: evil"}}'
    hub.files["m.safetensors.index.json"] = index
    ran = ckptool("convert", f"{hub.endpoint}/web/m.safetensors.index.json", "out.safetensors")
    assert (ran.code, ran.err.count("\n")) == (2, 2), ran.err
    assert hub.seen[-1][1] == "/web/x%3Fa%3Db%23c%20%250d%250ahost%3A%20evil"


def test_a_small_file_is_taken_whole_where_there_are_no_ranges(hub: Server) -> None:
    hub.faults = ["ignores"]
    with open_here(hub) as source:
        assert isinstance(source, File)
        assert Record.whole(source).read(0, source.size) == DATA


def test_a_large_file_is_not(hub: Server) -> None:
    hub.files["model.bin"] = bytes((1 << 26) + 1)
    hub.faults = ["ignores"]
    with pytest.raises(Unreachable, match="gives no ranges"):
        open_here(hub)


def test_an_empty_file_is_empty(hub: Server) -> None:
    hub.files["model.bin"] = b""
    ran = ckptool("scan", FILE)
    assert (ran.code, "the file is empty" in ran.err) == (3, True)


def test_a_file_that_is_cut_off_is_refused_as_a_local_one_is(hub: Server, tmp_path: Path) -> None:
    from safetensors.torch import save

    hub.files["model.safetensors"] = save({"a": random(torch.float32, (100, 100))})[:-10]
    ran = ckptool("convert", "hf://owner/model/model.safetensors")
    assert ran.code == 3
    assert ran.err.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


# --- what people are told ------------------------------------------------------------------------------------------


def refused(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code
    assert ran.err.count("\n") == 2, ran.err
    assert all(word in ran.err for word in words), ran.err


def test_no_such_repository_revision_or_file(hub: Server) -> None:
    refused(
        ckptool("convert", "hf://owner/other/model.bin"), 2, "no such repository, or it is private", "hf auth login"
    )
    refused(ckptool("convert", "hf://owner/model@v2/model.bin"), 2, "no such revision")
    refused(ckptool("convert", "hf://owner/model/other.bin"), 2, "no such file")
    refused(ckptool("convert", f"{hub.endpoint}/web/other.bin"), 2, "no such file")
    refused(ckptool("inspect", f"{hub.endpoint}/web/other.bin"), 2, "no such file")
    refused(ckptool("scan", "hf://owner/other/model.bin"), 2, "no such repository")


def test_a_gated_repository_says_how_to_get_in(hub: Server) -> None:
    hub.needs_token = True
    refused(ckptool("convert", FILE), 2, "only to those who ask", f"{hub.endpoint}/owner/model", "HF_TOKEN")


def test_a_token_that_is_not_good_is_not_shown(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.needs_token = True
    monkeypatch.setenv("HF_TOKEN", TOKEN + "_old")
    ran = ckptool("convert", FILE, "--report", "report.json")
    refused(ran, 2, "only to those who ask")
    assert TOKEN not in ran.err + Path("report.json").read_text()


def test_a_host_that_is_not_there() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x.bin"
    with pytest.raises(Unreachable, match="takes no connection"):
        opened(HttpOrigin(Http(HASTY), url, "x", {}), HASTY)


def test_offline_nothing_is_asked(hub: Server) -> None:
    ran = run(hub, "convert", FILE, HF_HUB_OFFLINE="1")
    assert (ran.returncode, ran.stderr.count("\n"), hub.seen) == (2, 2, [])
    assert "HF_HUB_OFFLINE" in ran.stderr


def test_an_endpoint_in_the_open_gets_no_token(hub: Server) -> None:
    ran = run(hub, "convert", FILE, HF_ENDPOINT="http://hub.example", HF_TOKEN=TOKEN)
    assert (ran.returncode, "https://" in ran.stderr, TOKEN in ran.stderr) == (2, True, False)


def run(hub: Server, *args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ckptool.cli", *args]
    settings = {**os.environ, "HF_ENDPOINT": hub.endpoint, **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)


def test_ctrl_c_ends_at_once_while_a_host_is_silent(hub: Server, tmp_path: Path) -> None:
    from safetensors.torch import save

    hub.files["m.safetensors"] = save({f"l{i}": random(torch.uint8, (2_000_000,), i) for i in range(8)})
    hub.faults = ["", *["hangs"] * 40]
    command = [sys.executable, "-m", "ckptool.cli", "convert", "hf://owner/model/m.safetensors"]
    process = subprocess.Popen(
        command, env={**os.environ, "HF_ENDPOINT": hub.endpoint}, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    while len(hub.asked) < 2:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=15)  # the host would be waited for twice as long
    assert (process.returncode, told.strip().count("\n")) == (130, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_a_source_of_one_place() -> None:
    assert str(Address("https://host/a?b")) == "https://host/a?…"
    with pytest.raises(UsageError):
        located(Address("hf://datasets/owner"))
