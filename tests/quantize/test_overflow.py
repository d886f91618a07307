"""Values beyond the range: kept, clamped or refused, and never lost without a word."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixtures.models import hypernetwork
from fixtures.torchfile import save_zip
from tests.convert.converting import Tensors, ckptool, equal
from tests.quantize.casting import figures, reasons, refused, run, save

COMMANDS = [("fp16", (), 1e5, 65504.0), ("bf16", (), 3.4e38, 3.3895313892515355e38),
            ("fp8", (), 500.0, 448.0), ("fp8", ("--format", "e5m2"), 62000.0, 57344.0)]  # fmt: skip
TO = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def model(large: float) -> Tensors:
    """Two tensors with a value that does not fit, one before and one after a tensor where all do."""
    first, second, third = torch.full((8, 8), 0.5), torch.full((8, 8), 0.25), torch.full((1000, 8), 0.125)
    first[3, 3], third[999, 7], third[0, 0] = large, -large, large
    return {"a.weight": first, "b.weight": second, "c.weight": third}


@pytest.mark.parametrize(("command", "args", "large", "_"), COMMANDS)
def test_keep_leaves_every_such_tensor_as_it_is(
    command: str, args: tuple[str, ...], large: float, _: float, tmp_path: Path
) -> None:
    tensors = model(large)
    made, report = run(command, save(tensors, tmp_path / "m.safetensors"), *args)
    assert equal(made["a.weight"], tensors["a.weight"])
    assert equal(made["c.weight"], tensors["c.weight"])
    assert figures(report).keys() == {"b.weight"}
    assert made["b.weight"].dtype != torch.float32
    kept = reasons(report)
    assert kept["a.weight"].startswith("1 value beyond the range")
    assert kept["c.weight"].startswith("2 values beyond the range")
    assert f"{large:.6g}" in kept["a.weight"]


@pytest.mark.parametrize(("command", "args", "large", "largest"), COMMANDS)
def test_clamp_writes_the_largest_there_is(
    command: str, args: tuple[str, ...], large: float, largest: float, tmp_path: Path
) -> None:
    path = save(model(large), tmp_path / "m.safetensors")
    made, report = run(command, path, "--on-overflow", "clamp", *args)
    assert made["a.weight"].float()[3, 3] == largest
    assert made["c.weight"].float()[999, 7] == -largest
    assert [figures(report)[name]["overflowed"] for name in made] == [1, 0, 2]
    error = abs(torch.tensor(large, dtype=torch.float32).double().item() - largest)
    assert figures(report)["a.weight"]["max_abs_error"] == pytest.approx(error)
    assert reasons(report) == {}


@pytest.mark.parametrize(("command", "args", "large", "_"), COMMANDS)
def test_fail_writes_nothing_and_names_the_tensor(
    command: str, args: tuple[str, ...], large: float, _: float, tmp_path: Path
) -> None:
    ran = refused(command, save(model(large), tmp_path / "m.safetensors"), "--on-overflow", "fail", *args)
    assert ran.code == 3
    assert "tensor a.weight: 1 value beyond the range" in ran.err
    assert "1 other tensor" in ran.err
    assert "--on-overflow keep" in ran.err


@pytest.mark.parametrize("policy", ["keep", "clamp", "fail"])
def test_what_rounds_into_the_range_is_no_overflow(policy: str, tmp_path: Path) -> None:
    tensors = {"w.weight": torch.tensor([65519.0, -65519.99, 65504.0])}
    made, report = run("fp16", save(tensors, tmp_path / "m.safetensors"), "--on-overflow", policy)
    assert equal(made["w.weight"], tensors["w.weight"].half())
    assert figures(report)["w.weight"]["overflowed"] == 0


@pytest.mark.parametrize("policy", ["keep", "clamp", "fail"])
@pytest.mark.parametrize("command", ["fp16", "bf16"])
def test_nan_and_infinity_stay_what_they_are(command: str, policy: str, tmp_path: Path) -> None:
    tensors = {"w.weight": torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0, float("-nan")])}
    made, report = run(command, save(tensors, tmp_path / "m.safetensors"), "--on-overflow", policy)
    assert equal(made["w.weight"], tensors["w.weight"].to(TO[command]))
    item = figures(report)["w.weight"]
    assert (item["nan"], item["inf"], item["overflowed"], item["max_abs_error"]) == (2, 2, 0, 0)


def test_an_infinity_has_no_place_in_e4m3(tmp_path: Path) -> None:
    tensors = {"w.weight": torch.tensor([[float("inf"), 1.0], [float("nan"), -float("inf")]])}
    path = save(tensors, tmp_path / "m.safetensors")
    made, report = run("fp8", path)
    assert equal(made["w.weight"], tensors["w.weight"])
    assert "2 values beyond" in reasons(report)["w.weight"]
    made, report = run("fp8", path, "--on-overflow", "clamp")
    assert made["w.weight"].float().nan_to_num(7.0).tolist() == [[448.0, 1.0], [7.0, -448.0]]
    assert figures(report)["w.weight"]["overflowed"] == 2
    assert refused("fp8", path, "--on-overflow", "fail", "--force").code == 3
    made, _ = run("fp8", path, "--format", "e5m2")
    assert made["w.weight"].float().isinf().sum() == 2


@pytest.mark.parametrize("value", [65519.99999999, 65520.0, 1e300])
def test_f64_overflows_as_f32_would(value: float, tmp_path: Path) -> None:
    """65519.99999999 rounds to 65520 in F32, which is how torch gets to F16."""
    tensors = {"w.weight": torch.tensor([value, 1.0], dtype=torch.float64)}
    assert tensors["w.weight"].half().isinf().any()
    made, report = run("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert equal(made["w.weight"], tensors["w.weight"])
    assert "1 value beyond" in reasons(report)["w.weight"]


def test_one_value_among_millions_is_found(tmp_path: Path) -> None:
    for place in (0, 1_499_999, 2_999_999):
        tensor = torch.zeros(3_000_000)
        tensor[place] = -7e4
        made, _ = run("fp16", save({"w.weight": tensor}, tmp_path / "m.safetensors"))
        assert equal(made["w.weight"], tensor)


def test_many_such_tensors_take_no_more_passes(tmp_path: Path) -> None:
    tensors = {f"{index}.weight": torch.full((3,), 1e9) for index in range(3000)}
    made, report = run("fp16", save(tensors, tmp_path / "m.safetensors"))
    assert len(reasons(report)) == len(made) == 3000


def test_a_dry_run_tells_what_it_cannot_know(tmp_path: Path) -> None:
    path = save(model(1e5), tmp_path / "m.safetensors")
    ran = ckptool("fp16", path, "--dry-run", "--on-overflow", "fail")
    assert ran.code == 0
    assert "3 tensors cast to F16" in ran.out


def test_a_hypernetwork_keeps_what_does_not_fit_too(tmp_path: Path) -> None:
    save_zip(hypernetwork(), tmp_path / "plain.pt")
    network = torch.load(tmp_path / "plain.pt")
    network[320][1]["linear.0.weight"][0, 0] = 1e6
    torch.save(network, tmp_path / "h.pt")
    ran = ckptool("fp16", tmp_path / "h.pt", tmp_path / "out.pt")
    assert ran.code == 0, ran.err
    made = torch.load(tmp_path / "out.pt")
    assert equal(made[320][1]["linear.0.weight"], network[320][1]["linear.0.weight"])
    assert equal(made[320][0]["linear.0.weight"], network[320][0]["linear.0.weight"].half())


def test_shards_keep_what_does_not_fit_too(tmp_path: Path) -> None:
    path = save(model(1e5), tmp_path / "m.safetensors")
    assert ckptool("fp16", path, tmp_path / "n.safetensors", "--max-shard-size", "32100").code == 0
    made = {name: tensor for part in tmp_path.glob("n-0*.safetensors") for name, tensor in load_file(part).items()}
    assert {name for name in made if made[name].dtype == torch.float32} == {"a.weight", "c.weight"}
    assert len(list(tmp_path.glob("n-0*"))) == 2
