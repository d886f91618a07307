"""What became zero is explained by one threshold, stated or found, and by nothing less."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ckptool.identify.components import component_of
from tests.verify.verifying import Tensors, changed, made, parity, plain, unexplained, verify

WEIGHT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
THRESHOLDS = [("--threshold", "1e-3"), ("--threshold", "0.01", "--relative")]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("original") / "model.safetensors")


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_prune_zeroes_is_explained(original: Path, tmp_path: Path, threshold: tuple[str, ...]) -> None:
    target, report = made("prune", original, tmp_path / "p.safetensors", *threshold)
    for options in ((), threshold, ("--expect", report)):
        tensors = parity(original, target, *options)
        assert set(tensors["zeroed"]) == {"unet", "text_encoder"}
        assert bool(tensors["inferred"]) == (options != threshold)


def test_the_figures_are_those_that_prune_reports(original: Path, tmp_path: Path) -> None:
    import json

    target, report = made("prune", original, tmp_path / "p.safetensors", "--threshold", "1e-3")
    said = json.loads(report.read_text())["zeroed"]
    for component, found in parity(original, target)["zeroed"].items():
        assert {key: found[key] for key in ("values", "of", "fraction")} == {
            key: said[component][key] for key in ("values", "of", "fraction")
        }
        assert found["relative_error"] == pytest.approx(said[component]["relative_error"], rel=1e-5)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("order", [("prune", "fp16"), ("fp16", "prune")])
def test_zeroed_and_rounded_in_either_order_is_explained(
    original: Path, tmp_path: Path, threshold: tuple[str, ...], order: tuple[str, str]
) -> None:
    path = original
    reports: list[object] = []
    for number, command in enumerate(order):
        options = threshold if command == "prune" else ()
        path, report = made(command, path, tmp_path / f"{number}.safetensors", *options)
        reports += ["--expect", report]
    if order == ("prune", "fp16") or "--relative" not in threshold:
        assert parity(original, path)["zeroed"]
        assert parity(original, path, *reports)["zeroed"]
    assert parity(original, path, *threshold)["zeroed"]


def test_a_smaller_value_that_stayed_shows_that_no_threshold_was_at_work(original: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        weight = tensors[WEIGHT]
        weight[weight.abs() < 0.01] = 0

    candidate = changed(original, tmp_path / "z.safetensors", change)
    found = unexplained(original, candidate)
    assert list(found) == [WEIGHT]
    assert "no threshold explains that" in found[WEIGHT]["why"]
    assert parity(original, candidate, "--threshold", "0.01")["zeroed"]["unet"]["tensors"] == 1


def test_a_component_that_is_all_zeros_is_no_threshold(original: Path, tmp_path: Path) -> None:
    def wipe(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if name.startswith("model.diffusion_model."):
                tensor.zero_()

    found = unexplained(original, changed(original, tmp_path / "z.safetensors", wipe))
    assert len(found) == 686


def test_a_stated_threshold_is_held(original: Path, tmp_path: Path) -> None:
    target, _ = made("prune", original, tmp_path / "p.safetensors", "--threshold", "1e-3")
    found = unexplained(original, target, "--threshold", "5e-4")
    assert len(found) > 10
    assert all("the threshold is 0.0005" in item["why"] for item in found.values())


def test_zeros_where_no_threshold_belongs_are_found(original: Path, tmp_path: Path) -> None:
    name = "first_stage_model.decoder.conv_in.weight"

    def change(tensors: Tensors) -> None:
        tensors[name][tensors[name].abs() < 0.01] = 0

    candidate = changed(original, tmp_path / "z.safetensors", change)
    assert list(unexplained(original, candidate)) == [name]


def test_more_zeros_than_the_report_says_are_unexplained(original: Path, tmp_path: Path) -> None:
    _, report = made("prune", original, tmp_path / "p.safetensors", "--threshold", "1e-4")
    target, _ = made("prune", original, tmp_path / "q.safetensors", "--threshold", "1e-3")
    found = unexplained(original, target, "--expect", report)
    assert all("and the report says" in item["why"] for item in found.values())


def test_a_wrong_value_among_zeroed_ones_is_found(original: Path, tmp_path: Path) -> None:
    target, report = made("prune", original, tmp_path / "p.safetensors", "--threshold", "1e-3")

    def change(tensors: Tensors) -> None:
        tensors[WEIGHT].view(-1)[tensors[WEIGHT].view(-1).abs().argmax()] *= 1.01

    candidate = changed(target, tmp_path / "q.safetensors", change)
    for options in ((), ("--threshold", "1e-3"), ("--expect", report)):
        assert list(unexplained(original, candidate, *options)) == [WEIGHT]


@pytest.mark.parametrize("cast", [False, True])
def test_a_swap_is_named_among_zeroed_values_too(original: Path, tmp_path: Path, cast: bool) -> None:
    target, _ = made("prune", original, tmp_path / "p.safetensors", "--threshold", "1e-3")
    if cast:
        target, _ = made("fp16", target, tmp_path / "h.safetensors")
    other = WEIGHT.replace("to_q", "to_k")

    def change(tensors: Tensors) -> None:
        tensors[WEIGHT], tensors[other] = tensors[other], tensors[WEIGHT]

    candidate = changed(target, tmp_path / "s.safetensors", change)
    for options in ((), ("--threshold", "1e-3")):
        found = unexplained(original, candidate, *options)
        assert {name: item["why"] for name, item in found.items()} == {
            WEIGHT: f"holds the values of {other}",
            other: f"holds the values of {WEIGHT}",
        }


def test_a_zero_of_another_sign_is_a_difference(tmp_path: Path) -> None:
    source = changed(plain(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", lambda t: zero(t, 0.0))
    other = changed(source, tmp_path / "c.safetensors", lambda t: zero(t, -0.0))
    found = unexplained(source, other)
    assert {name: item["why"] for name, item in found.items()} == {WEIGHT: "the sign of zeros changed"}


def zero(tensors: Tensors, value: float) -> None:
    tensors[WEIGHT].view(-1)[5] = value


def test_max_error_is_held_against_what_became_zero(original: Path, tmp_path: Path) -> None:
    target, _ = made("prune", original, tmp_path / "p.safetensors", "--threshold", "1e-2")
    assert verify(original, target, "--max-error", "0.5")[0].code == 0
    ran, report = verify(original, target, "--max-error", "0.001")
    assert ran.code == 4
    assert not report["tensors"]["unexplained"]
    assert "more than --max-error" in ran.err


def test_values_that_rounding_makes_zero_are_no_zeroing(tmp_path: Path) -> None:
    source = changed(
        plain(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", lambda t: void(t[WEIGHT].mul_(1e-6))
    )
    target, _ = made("fp16", source, tmp_path / "c.safetensors")
    assert (load_file(target)[WEIGHT] == 0).any()
    tensors = parity(source, target)
    assert not tensors["zeroed"]
    assert component_of(WEIGHT, "checkpoint") == "unet"


def void(_: torch.Tensor) -> None:
    """For a lambda that is a statement."""
