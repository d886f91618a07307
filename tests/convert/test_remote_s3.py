"""Objects of a bucket, from an S3-compatible server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer
from safetensors.torch import save

from ckptool.convert.remote import open_at
from ckptool.convert.remote_bytes import Remote
from ckptool.convert.remote_s3 import Bucket
from ckptool.errors import Unreachable
from tests.convert.converting import ckptool, random

WHOLE = {"a": random(torch.float32, (700, 500)), **{f"b{i}": random(torch.float16, (30,), i) for i in range(40)}}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Its address; `botocore` starts slowly, so there is one for all tests."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-s3",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.chdir(tmp_path)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    return client


def put(bucket: Any, key: str, data: bytes) -> None:
    bucket.put_object(Bucket="models", Key=key, Body=data)


def test_an_object_converts_to_the_same_bytes(bucket: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": WHOLE}, tmp_path / "local.ckpt")
    put(bucket, "sub/model.ckpt", (tmp_path / "local.ckpt").read_bytes())
    ran = ckptool("convert", "s3://models/sub/model.ckpt", "--report", "report.json")
    assert ran.code == 0, ran.err
    assert Path("model.safetensors").read_bytes() == save(WHOLE, {"format": "pt"})
    assert json.loads(Path("report.json").read_text())["source"] == "s3://models/sub/model.ckpt"
    assert ckptool("scan", "s3://models/sub/model.ckpt").code == 0
    assert ckptool("inspect", "s3://models/sub/model.ckpt").code == 0


def test_a_prefix_is_a_folder(bucket: Any) -> None:
    put(bucket, "pipe/model_index.json", b"{}")
    put(bucket, "pipe/unet/diffusion_pytorch_model.safetensors", save({"x": WHOLE["a"]}))
    assert ckptool("convert", "s3://models/pipe").code == 0
    assert Path("pipe.safetensors").read_bytes() == save({"unet.x": WHOLE["a"]}, {"format": "pt"})


def test_an_index_beside_its_shards(bucket: Any) -> None:
    put(bucket, "parts/one.safetensors", save({"x": WHOLE["a"]}))
    put(bucket, "parts/m.safetensors.index.json", json.dumps({"weight_map": {"x": "one.safetensors"}}).encode())
    ran = ckptool("convert", "s3://models/parts/m.safetensors.index.json", "out.safetensors")
    assert ran.code == 0, ran.err
    put(bucket, "parts/m.safetensors.index.json", json.dumps({"weight_map": {"x": "two.safetensors"}}).encode())
    ran = ckptool("convert", "s3://models/parts/m.safetensors.index.json", "out.safetensors", "--force")
    assert (ran.code, "its shard two.safetensors is missing" in ran.err) == (3, True)


@pytest.mark.parametrize("address", ["s3://models/none.ckpt", "s3://nobody/x.ckpt", "s3://models/../x.ckpt", "s3:///x"])
def test_what_is_not_there_is_said_in_two_lines(address: str, bucket: Any) -> None:
    ran = ckptool("convert", address)
    assert (ran.code, ran.err.count("\n")) == (2, 2), ran.err
    assert "secret-of-s3" not in ran.err


def test_an_object_that_is_replaced_meanwhile_is_refused(bucket: Any) -> None:
    put(bucket, "m.bin", b"a" * 2_000_000)
    place = Bucket("models", "m.bin", s3fs.S3FileSystem(use_listings_cache=False))
    source = place.open("m.bin")
    with source:
        assert isinstance(source, Remote)
        buffer = memoryview(bytearray(2_000_000))
        source.read_into(buffer, 0)
        source.check_unchanged()
        put(bucket, "m.bin", b"b" * 2_000_000)
        with pytest.raises(Unreachable, match="another object"):
            source.check_unchanged()


def test_only_what_is_read_is_asked_for(bucket: Any) -> None:
    put(bucket, "m.bin", bytes(range(256)) * 40_000)
    from ckptool.address import Address
    from ckptool.convert.remote import located

    with open_at(located(Address("s3://models/m.bin"))) as source:
        assert isinstance(source, Remote)
        buffer = memoryview(bytearray(300))
        source.read_into(buffer, 5_000_000)
        assert bytes(buffer[:4]) == bytes((64, 65, 66, 67))
        assert source.asked <= 8192
