"""Things in folders that are no files, names that are no names, and links that lead elsewhere."""

import json
import os
import socket
from pathlib import Path

import torch

from tests.convert.converting import ckptool, state_dict


def model(path: Path) -> Path:
    torch.save(state_dict(), path)
    return path


def test_a_hash_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    ran = ckptool("scan", tmp_path / "pipe.ckpt", "--json", "--hash")
    assert ran.code == 3
    assert json.loads(ran.out)["sha256"] is None


def test_what_has_a_model_s_name_and_is_no_file_is_refused_in_a_folder(tmp_path: Path) -> None:
    model(tmp_path / "good.ckpt")
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "zeros.pt").symlink_to("/dev/zero")
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket.pth"))
    os.mkfifo(tmp_path / "pipe")
    ran = ckptool("scan", tmp_path, "--json", "--hash")
    assert ran.code == 3
    verdicts = {Path(report["path"]).name: report["verdict"] for report in json.loads(ran.out)}
    others = dict.fromkeys(("gone.bin", "pipe.ckpt", "socket.pth", "zeros.pt"), "refused")
    assert verdicts == {"good.ckpt": "clean"} | others


def test_a_shard_of_an_impossible_name_is_refused_and_the_next_file_is_scanned(tmp_path: Path) -> None:
    for name in ("x" * 300, "\ud800", "a\0b"):
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        ran = ckptool("scan", index, model(tmp_path / "good.ckpt"), "--json")
        assert ran.code == 3, ran.err
        assert [report["verdict"] for report in json.loads(ran.out)] == ["refused", "clean"]
        assert ckptool("convert", index, tmp_path / "out.safetensors").code == 3


def test_a_sidecar_that_leads_out_of_the_folder_is_not_carried(tmp_path: Path) -> None:
    secret = tmp_path / "secrets" / "token.yaml"
    secret.parent.mkdir()
    secret.write_text("token: 1")
    source = tmp_path / "upload" / "model.ckpt"
    source.parent.mkdir()
    model(source).with_suffix(".yaml").symlink_to(secret)
    ran = ckptool("convert", source, tmp_path / "model.safetensors")
    assert ran.code == 0, ran.err
    assert "a link out of the model's folder" in ran.out
    assert not (tmp_path / "model.yaml").exists()


def test_a_sidecar_in_a_download_cache_is_carried(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    model(blobs / "abc")
    (blobs / "def").write_text("parameterization: v")
    (snapshot / "model.ckpt").symlink_to("../../blobs/abc")
    (snapshot / "model.yaml").symlink_to("../../blobs/def")
    ran = ckptool("convert", snapshot / "model.ckpt", tmp_path / "model.safetensors")
    assert ran.code == 0, ran.err
    assert (tmp_path / "model.yaml").read_text() == "parameterization: v"
