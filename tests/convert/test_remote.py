"""Every command reads from other machines: the same result as of a local file, and no more bytes than it needs."""

import io
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, cast

import pytest
import torch
from safetensors.torch import save

from ckptool.address import Address, source_of
from ckptool.convert.read import read
from ckptool.convert.remote import located
from ckptool.convert.writer import write
from ckptool.errors import UsageError
from ckptool.source import Distant
from fixtures.models import lightning, state_dict
from fixtures.tensors import noise
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import ckptool, random
from tests.convert.hub_server import TOKEN, Server, serving

FILE = "hf://owner/model/model.ckpt"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A Hub on this machine, and a folder of our own to write to."""
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


OVERHEAD = 2_000_000
"""Bytes of a directory, headers and a pickle of 1,831 tensors, however wide those are: of a real file 0.03 %."""


def checkpoint(legacy: bool = False, factor: int = 32) -> bytes:
    """A training checkpoint with EMA, its widths divided: 8 MB, or 31 with a factor of 16."""
    file = io.BytesIO()
    (save_legacy if legacy else save_zip)(lightning(state_dict("sd1-full-ema", factor)), file)
    return file.getvalue()


def local_result(data: bytes, folder: Path, *command: str) -> bytes:
    """What a command writes of the same bytes in a local file."""
    folder.mkdir()
    (folder / "model.ckpt").write_bytes(data)
    ran = ckptool(*command, folder / "model.ckpt", folder / "out.safetensors")
    assert ran.code == 0, ran.err
    return (folder / "out.safetensors").read_bytes()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_remote_file_converts_to_the_same_bytes(legacy: bool, hub: Server, tmp_path: Path) -> None:
    data = hub.files["model.ckpt"] = checkpoint(legacy, 16)
    ran = ckptool("convert", FILE)
    assert ran.code == 0, ran.err
    assert Path("model.safetensors").read_bytes() == local_result(data, tmp_path / "local", "convert")
    assert hub.bytes_asked < 1.005 * len(data) + OVERHEAD


def test_the_ema_that_prune_drops_is_never_asked_for(hub: Server, tmp_path: Path) -> None:
    data = hub.files["model.ckpt"] = checkpoint(factor=16)
    ran = ckptool("prune", FILE, "--ema", "drop", "--report", "prune.json")
    assert ran.code == 0, ran.err
    written = Path("model-pruned.safetensors").read_bytes()
    assert written == local_result(data, tmp_path / "local", "prune", "--ema", "drop")
    assert json.loads(Path("prune.json").read_text())["source"] == FILE
    assert len(written) < 0.6 * len(data)
    assert hub.bytes_asked < 1.02 * len(written) + OVERHEAD


def test_fp16_asks_for_each_byte_once(hub: Server, tmp_path: Path) -> None:
    data = hub.files["model.ckpt"] = checkpoint()
    assert ckptool("fp16", FILE).code == 0
    assert Path("model-fp16.safetensors").read_bytes() == local_result(data, tmp_path / "local", "fp16")
    assert hub.bytes_asked < 1.005 * len(data) + OVERHEAD


def test_inspect_says_of_a_remote_file_what_it_says_of_a_local_one(hub: Server, tmp_path: Path) -> None:
    data = hub.files["model.ckpt"] = checkpoint()
    (tmp_path / "model.ckpt").write_bytes(data)
    ours, theirs = (json.loads(ckptool("inspect", source, "--json", "--hash").out) for source in (FILE, "model.ckpt"))
    assert ours.pop("path") == FILE
    theirs.pop("path")
    assert ours == theirs


def test_verify_reads_both_sides_from_anywhere(hub: Server) -> None:
    hub.files["model.ckpt"] = checkpoint()
    assert ckptool("convert", FILE, "--quiet").code == 0
    ran = ckptool("verify", FILE, "model.safetensors", "--tensors-only")
    assert ran.code == 0, ran.err


# --- how little ----------------------------------------------------------------------------------------------------


class Holes:
    """A large file whose tensors are zeros, so that nobody has to hold them."""

    def __init__(self) -> None:
        self.size = 0
        self.starts: list[int] = []
        self.pieces: list[bytes] = []

    def write(self, data: bytes | memoryview) -> int:
        if isinstance(data, bytes) or len(data) < 1 << 16:  # of tensors, large chunks are views
            self.starts.append(self.size)
            self.pieces.append(bytes(data))
        self.size += len(data)
        return len(data)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self.size)
        data = bytearray(end - start)
        for number in range(max(bisect_right(self.starts, start) - 1, 0), len(self.starts)):
            first, piece = self.starts[number], self.pieces[number]
            if first >= end:
                break
            begin, stop = max(first, start), min(first + len(piece), end)
            if begin < stop:
                data[begin - start : stop - start] = piece[begin - first : stop - first]
        return bytes(data)


@pytest.mark.parametrize("save_as", [save_zip, save_legacy], ids=["zip", "legacy"])
def test_a_scan_of_two_gigabytes_asks_for_less_than_one_percent(save_as: Any, hub: Server) -> None:
    tensors = {name: noise("F16", t.shape, name) for name, t in state_dict("sd1").items()}
    file = Holes()
    save_as({"state_dict": OrderedDict(tensors)}, cast(BinaryIO, file))
    assert len(file) > 2_000_000_000
    hub.files["model.ckpt"] = cast(bytes, file)
    ran = ckptool("scan", FILE)
    assert (ran.code, ran.err) == (0, "")
    assert "clean" in ran.out
    assert hub.bytes_asked < 0.0005 * len(file)


def test_a_file_that_is_there_is_asked_for_once_from_the_hub_and_then_from_where_it_lies(hub: Server) -> None:
    hub.files["model.ckpt"] = checkpoint()
    assert ckptool("convert", FILE).code == 0
    redirected = [path for _, path, _ in hub.seen if "/resolve/" in path]
    assert len(redirected) < 4 < len(hub.asked)  # one for each thread that began before the answer came


# --- what is named -------------------------------------------------------------------------------------------------


def test_all_is_read_at_the_commit_that_the_revision_stands_for(hub: Server) -> None:
    hub.files["model.ckpt"] = checkpoint()
    assert ckptool("scan", "hf://owner/model@refs/pr/1/model.ckpt").code == 0
    paths = [path for _, path, _ in hub.seen]
    assert paths[0] == "/api/models/owner/model/revision/refs%2Fpr%2F1"
    assert "/owner/model/resolve/0123456789abcdef0123456789abcdef01234567/model.ckpt" in paths


def test_a_page_of_the_hub_is_its_file(hub: Server) -> None:
    hub.files["model.ckpt"] = checkpoint()
    ran = ckptool("scan", f"{hub.endpoint}/owner/model/blob/main/model.ckpt")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("page", ["", "/", "/tree/main", "/tree/main/", "/tree/main/sub", "/tree/refs%2Fpr%2F1/sub"])
def test_a_page_of_the_hub_with_a_list_of_files_is_that_repository_or_folder(hub: Server, page: str) -> None:
    hub.files["sub/model.ckpt"] = checkpoint()
    ran = ckptool("scan", f"{hub.endpoint}/owner/model{page}", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)[0]["path"].endswith("/sub/model.ckpt")


def test_a_name_may_hold_what_has_a_meaning_in_addresses(hub: Server) -> None:
    name = "a b#1?x=50%25 ü [c].ckpt"
    hub.files[name] = checkpoint()
    ran = ckptool("scan", f"hf://owner/model/{name}")
    assert ran.code == 0, ran.err
    assert ckptool("scan", "hf://owner/model").code == 0


def test_a_web_address_is_read_and_its_query_is_told_to_nobody(hub: Server) -> None:
    hub.files["model.ckpt"] = checkpoint()
    address = f"{hub.endpoint}/web/model.ckpt"
    ran = ckptool("scan", f"{address}?token=secret", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["path"] == f"{address}?…"
    assert "secret" not in ran.out + ran.err
    assert any(path.endswith("?token=secret") for _, path, _ in hub.seen)


def parts(files: dict[str, bytes], folder: str = "") -> dict[str, torch.Tensor]:
    """A sharded model in `files`: all of its tensors."""
    shards = [{"a": random(torch.float32, (40, 50))}, {"b": random(torch.float16, (30,))}]
    names = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    for name, tensors in zip(names, shards, strict=True):
        files[folder + name] = save(tensors)
    weight_map = {"a": names[0], "b": names[1]}
    files[f"{folder}model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return shards[0] | shards[1]


@pytest.mark.parametrize("place", ["hf://owner/model@main/sub/", "hf", "web"])
def test_an_index_and_its_shards(place: str, hub: Server) -> None:
    whole = parts(hub.files, "sub/")
    base = {"hf": "hf://owner/model/sub", "web": f"{hub.endpoint}/web/sub/model.safetensors.index.json"}.get(
        place, place
    )
    source = base + "model.safetensors.index.json" if base.endswith("/") else base
    ran = ckptool("convert", source, "out.safetensors")
    assert ran.code == 0, ran.err
    assert Path("out.safetensors").read_bytes() == save(whole, {"format": "pt"})


def test_a_repository_that_is_a_diffusers_folder(hub: Server, tmp_path: Path) -> None:
    hub.page = 2  # its list comes on several pages
    hub.files |= {
        "model_index.json": json.dumps({"_class_name": "StableDiffusionPipeline"}).encode(),
        "unet/diffusion_pytorch_model.safetensors": save({"conv_in.weight": random(torch.float32, (8, 4, 3, 3))}),
        "unet/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": save(
            {"encoder.conv_in.weight": random(torch.float32, (8, 3, 3, 3))}
        ),
    }
    folder = tmp_path / "local"
    for name, data in hub.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    assert ckptool("convert", "hf://owner/model").code == 0
    assert ckptool("convert", folder).code == 0
    assert Path("model.safetensors").read_bytes() == Path("local.safetensors").read_bytes()


def test_a_scan_of_a_repository_is_one_of_every_file_in_it(hub: Server) -> None:
    hub.files |= {"a.ckpt": checkpoint(), "sub/b.pkl": b"cos\nsystem\n(S'ls'\ntR.", "README.md": b"# a model"}
    ran = ckptool("scan", "hf://owner/model", "--json")
    assert ran.code == 1
    found = {each["path"]: each["verdict"] for each in json.loads(ran.out)}
    assert found == {"hf://owner/model/a.ckpt": "harmless", "hf://owner/model/sub/b.pkl": "dangerous"}


def test_the_yaml_beside_a_file_of_a_repository_goes_with_it(hub: Server) -> None:
    hub.files |= {"v2.ckpt": checkpoint(), "v2.yaml": b"model:\n  params:\n    parameterization: v\n"}
    assert ckptool("convert", "hf://owner/model/v2.ckpt", "out.safetensors").code == 0
    assert Path("out.yaml").read_bytes() == hub.files["v2.yaml"]


def test_place_copies_a_remote_file_and_links_none(hub: Server, tmp_path: Path) -> None:
    (tmp_path / "ui" / "models").mkdir(parents=True)
    hub.files["ti.safetensors"] = data = save({"emb_params": random(torch.float32, (2, 768))})
    command = ("place", "hf://owner/model/ti.safetensors", "--ui", "a1111", "--root", "ui")
    ran = ckptool(*command, "--link")
    assert (ran.code, "on another machine cannot be linked" in ran.err) == (2, True)
    assert ckptool(*command).code == 0
    assert Path("ui/embeddings/ti.safetensors").read_bytes() == data
    assert "already there" in ckptool(*command).out


@pytest.mark.parametrize(
    ("url", "name", "stem"),
    [
        ("hf://owner/sd-v1.5", "sd-v1.5", "sd-v1.5"),
        ("hf://owner/sd-v1.5@main", "sd-v1.5", "sd-v1.5"),
        ("hf://owner/repo@refs/pr/1/a/b.ckpt", "b.ckpt", "b"),
        ("https://host/a/b%20c.safetensors?x=y/z.ckpt", "b c.safetensors", "b c"),
        ("https://host/..%2f..%2fetc%2fpasswd", "_.._etc_passwd", "_.._etc_passwd"),
        ("https://host/%2e%2e", "model", "model"),
        ("https://host/", "host", "host"),
        ("s3://bucket/key/model.bin", "model.bin", "model"),
    ],
)
def test_the_name_of_an_address_is_fit_for_a_file_here(url: str, name: str, stem: str) -> None:
    address = source_of(url)
    assert isinstance(address, Address)
    assert (address.name, address.stem) == (name, stem)


@pytest.mark.parametrize(
    "url",
    ["http://host/x", "https://user:secret@host/x", "ftp://host/x", "hf://owner", "https:///x", "https://h:99999/x",
     "https://host/\x1b[2J", "file:///etc/passwd", "http://127.0.0.1.evil.example/x", "http://[::2]/x"],
)  # fmt: skip
def test_what_is_no_address_to_read_from_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        source_of(url)
    assert "secret" not in caught.value.message + caught.value.hint


def test_a_path_stays_a_path() -> None:
    assert source_of("./hf://x") == Path("hf:/x")
    assert source_of("C:/models/x") == Path("C:/models/x")


# --- how -----------------------------------------------------------------------------------------------------------


def test_several_threads_read_one_file_at_once(hub: Server) -> None:
    data = hub.files["model.bin"] = random(torch.uint8, (9_000_000,)).numpy().tobytes()
    with located(Address("hf://owner/model/model.bin")).store.open("model.bin") as remote:  # type: ignore[union-attr]
        assert isinstance(remote, Distant)
        wrong: list[int] = []

        def some(seed: int) -> None:
            for step in range(12):
                offset, length = (seed * 999_983 + step * 611_953) % 6_000_000, (1, 5_000, 3_000_000)[step % 3]
                if step % 2:
                    remote.expect(offset, length)
                buffer = memoryview(bytearray(length))
                half = length // 2
                remote.read_into(buffer[:half], offset)
                remote.read_into(buffer[half:], offset + half)
                if bytes(buffer) != data[offset : offset + length]:
                    wrong.append(offset)

        threads = [Thread(target=some, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_token_goes_to_the_hub_and_to_no_other_host(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.needs_token = True
    hub.files["model.ckpt"] = checkpoint()
    ran = ckptool("convert", FILE, "--report", "report.json")
    assert ran.code == 0, ran.err
    sent = {host.partition(":")[0]: secret for host, _, secret in hub.seen}
    assert sent == {"127.0.0.1": f"Bearer {TOKEN}", "localhost": ""}
    assert TOKEN not in ran.out + ran.err + Path("report.json").read_text()


def test_a_plan_outlives_nothing_but_its_stack(hub: Server, tmp_path: Path) -> None:
    hub.files["model.ckpt"] = checkpoint()
    with ExitStack() as stack:
        plan = read(source_of(FILE), stack)
        write(plan, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").stat().st_size > 1_000_000
