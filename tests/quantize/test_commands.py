"""fp16, bf16 and fp8 from end to end: the bytes that they write, from every kind of source."""

import json
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from fixtures.models import hypernetwork, lightning, state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import Tensors, ckptool, conventional, equal, header_of, random
from tests.convert.test_archives import big_endian, rezip, torch_zip
from tests.quantize.casting import figures, reasons, refused, run, save


def weights(dtype: torch.dtype = torch.float32) -> Tensors:
    """Weights without anything that is kept, tiny ones and empty ones among them."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "a.weight": (64, 33),
        "a.bias": (64,),
        "b.weight": (3, 5, 3, 3),
        "c.weight": (1,),
        "d.scalar": (),
        "e": (0, 4),
    }
    return {name: (torch.randn(shape, generator=generator) * 0.03).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize(("command", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("source", [torch.float32, torch.float64])
def test_the_file_is_the_one_that_torch_and_safetensors_write(
    command: str, dtype: torch.dtype, source: torch.dtype, tmp_path: Path
) -> None:
    path = save(weights(source), tmp_path / "m.safetensors")
    assert ckptool(command, path).code == 0
    written = (tmp_path / f"m-{command}.safetensors").read_bytes()
    assert written == conventional({name: tensor.to(dtype) for name, tensor in weights(source).items()})


@pytest.mark.parametrize("architecture", ["sd1", "sdxl-base", "controlnet-sd1", "vae"])
def test_a_checkpoint_is_half_of_what_it_was(architecture: str, tmp_path: Path) -> None:
    save_zip(lightning(state_dict(architecture, factor=32)), tmp_path / "m.ckpt")
    ckptool("convert", tmp_path / "m.ckpt")
    plain = load_file(tmp_path / "m.safetensors")
    made, report = run("fp16", tmp_path / "m.ckpt")
    kept = reasons(report)
    assert made.keys() == plain.keys()
    for name, tensor in plain.items():
        assert equal(made[name], tensor if name in kept or not tensor.is_floating_point() else tensor.half()), name
    assert all("position_ids" in name or "." not in name or name.endswith((".sigmas", ".logit_scale")) for name in kept)


@pytest.mark.parametrize("command", ["fp16", "bf16", "fp8"])
def test_again_changes_nothing(command: str, tmp_path: Path) -> None:
    path = save(weights(), tmp_path / "m.safetensors", modelspec="x")
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    assert ckptool(command, path, once).code == 0
    assert ckptool(command, once, twice).code == 0
    assert once.read_bytes() == twice.read_bytes()
    assert ckptool(command, path, twice, "--force").code == 0
    assert once.read_bytes() == twice.read_bytes()


def test_metadata_are_kept(tmp_path: Path) -> None:
    path = save(weights(), tmp_path / "m.safetensors", ss_tag_frequency='{"a": 1}', author="me")
    run("fp16", path)
    written = header_of((tmp_path / "m-out.safetensors").read_bytes())["__metadata__"]
    assert written == {"format": "pt", "ss_tag_frequency": '{"a": 1}', "author": "me"}


def test_narrow_tensors_are_copied(tmp_path: Path) -> None:
    tensors = {
        name: random(dtype, (8, 8), seed)
        for seed, (name, dtype) in enumerate(
            {"h": torch.float16, "b": torch.bfloat16, "e": torch.float8_e4m3fn, "i": torch.int64, "u": torch.uint8,
             "t": torch.bool, "c": torch.complex64}.items()
        )
    }  # fmt: skip
    made, report = run("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert all(equal(made[name], tensors[name]) for name in tensors)
    assert report["cast"] == []
    assert reasons(report) == {"i": "integers", "c": "complex numbers"}


def test_views_and_byte_orders_are_cast_as_what_they_mean(tmp_path: Path) -> None:
    storage = torch.randn(40, 50)
    views = {"t.weight": storage.t(), "s.weight": storage[::3, 1::2], "x.weight": storage[2].expand(4, 50)}
    torch.save(views, tmp_path / "m.ckpt")
    made, _ = run("fp16", tmp_path / "m.ckpt")
    assert all(equal(made[name], view.half()) for name, view in views.items())
    tensors = {name: tensor for name, tensor in weights().items() if tensor.numel()}
    big_endian(tmp_path / "big.ckpt", tensors)
    made, _ = run("fp16", tmp_path / "big.ckpt")
    assert all(equal(made[name], tensor.half()) for name, tensor in tensors.items())


def test_a_deflated_checkpoint_is_cast(tmp_path: Path) -> None:
    data = torch_zip({**weights(), "big.weight": torch.full((9, 9), 1e6)})
    rezip(data, tmp_path / "m.ckpt", compression=zipfile.ZIP_DEFLATED)
    made, report = run("fp16", tmp_path / "m.ckpt")
    assert all(equal(made[name], tensor.half()) for name, tensor in weights().items())
    assert made["big.weight"].dtype == torch.float32
    assert "81 values beyond" in reasons(report)["big.weight"]


def test_a_large_tensor_is_cast_in_parts(tmp_path: Path) -> None:
    tensors = {"w.weight": torch.randn(3_000_001), "v.weight": torch.randn(1000, 2100)}
    made, report = run("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert all(equal(made[name], tensor.half()) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        error = (tensor.double() - made[name].double()).abs().max().item()
        assert figures(report)[name]["max_abs_error"] == error


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    shared = torch.randn(30, 30) * 1e-4
    torch.save({"a.weight": shared, "b.weight": shared}, tmp_path / "m.ckpt")
    made, report = run("fp16", tmp_path / "m.ckpt")
    assert made.keys() == {"a.weight", "b.weight"}
    one, other = figures(report).values()
    assert {**one, "name": ""} == {**other, "name": ""}
    assert one["subnormal"] == int(((made["a.weight"] != 0) & (made["a.weight"].abs() < 2**-14)).sum())
    made, report = run("fp16", tmp_path / "m.ckpt", "--tied", "alias")
    assert made.keys() == {"a.weight"}
    assert figures(report)["a.weight"] == one


def test_shards_are_cast(tmp_path: Path) -> None:
    path = save(weights(), tmp_path / "m.safetensors")
    assert ckptool("fp16", path, tmp_path / "n.safetensors", "--max-shard-size", "4500").code == 0
    parts = [load_file(part) for part in tmp_path.glob("n-0*.safetensors")]
    assert len(parts) > 1
    made = {name: tensor for part in parts for name, tensor in part.items()}
    assert all(equal(made[name], tensor.half()) for name, tensor in weights().items())
    assert ckptool("fp16", tmp_path / "n.safetensors.index.json", tmp_path / "one.safetensors").code == 0


@pytest.mark.parametrize(("command", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_hypernetwork_is_cast_into_a_pt(command: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_zip(hypernetwork(), tmp_path / "h.pt")
    assert ckptool(command, tmp_path / "h.pt", tmp_path / "out" / "h.pt").code == 2
    (tmp_path / "out").mkdir()
    ran = ckptool(command, tmp_path / "h.pt", tmp_path / "out" / "h.pt")
    assert ran.code == 0, ran.err
    before, after = torch.load(tmp_path / "h.pt"), torch.load(tmp_path / "out" / "h.pt")
    assert after["layer_structure"] == before["layer_structure"]
    assert equal(after[320][0]["linear.0.weight"], before[320][0]["linear.0.weight"].to(dtype))


def test_a_dry_run_reads_no_values(tmp_path: Path) -> None:
    path = save({"w.weight": torch.tensor([1e9]), "betas": torch.ones(3)}, tmp_path / "m.safetensors")
    ran = ckptool("fp16", path, "--dry-run", "--json")
    (item,) = json.loads(ran.out)["cast"]
    assert item == {
        "name": "w.weight", "from": "F32", "to": "F16", "max_abs_error": None, "relative_error": None,
        "overflowed": None, "underflowed": None, "subnormal": None, "nan": None, "inf": None,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]


def test_people_are_told_what_happened(tmp_path: Path) -> None:
    tensors = {
        "first_stage_model.decoder.conv_in.weight": torch.tensor([1e-9, 1.0, float("nan")]),
        "model.diffusion_model.out.2.weight\x1b[31m": torch.tensor([1e6, 1.0]),
        "betas": torch.ones(3),
    }
    ran = ckptool("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert "1 tensor cast to F16" in ran.out
    assert "too small, now zero: 1 value in 1 tensor, most in first_stage_model.decoder.conv_in.weight" in ran.out
    assert "NaN, as before: 1 value" in ran.out
    assert "1 value beyond the range of F16, the largest 1e+06" in ran.out
    assert "schedule buffer: betas" in ran.out
    assert "--vae keep" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("name", ["scaled_fp8", "model.x.scale_weight", "model.x.weight_scale", "a.comfy_quant"])
@pytest.mark.parametrize("command", ["fp16", "bf16", "fp8"])
def test_a_quantised_file_is_refused(command: str, name: str, tmp_path: Path) -> None:
    path = save({**weights(), name: torch.ones(1)}, tmp_path / "m.safetensors")
    ran = refused(command, path)
    assert ran.code == 3
    assert "quantised" in ran.err
    assert name in ran.err


def test_an_interrupted_cast_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(OrderedDict(weights()), path)
    path.write_bytes(path.read_bytes()[:-10])
    assert refused("fp16", path).code == 3


def test_load_agrees_about_what_was_written(tmp_path: Path) -> None:
    made, _ = run("bf16", save(weights(), tmp_path / "m.safetensors"))
    assert all(equal(made[n], t) for n, t in load((tmp_path / "m-out.safetensors").read_bytes()).items())
