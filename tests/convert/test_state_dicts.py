"""A state dict is found wherever it sits, and what stands beside it neither hurts nor comes along."""

import argparse
import pathlib
from collections import OrderedDict, defaultdict
from pathlib import Path
from pickle import NEWOBJ
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from fixtures.assembler import Call, Code, Global
from fixtures.models import lightning
from fixtures.models import state_dict as architecture
from fixtures.torchfile import save_legacy, save_zip
from fixtures.training import config
from tests.convert.converting import ckptool, contents, conventional, convert, header_of, state_dict

WRAPPERS = (
    "state_dict", "model_state_dict", "params_ema", "params", "model", "module", "net", "adapter", "state_dict_ema",
    "ema",
)  # fmt: skip


def saved(value: Any, folder: Path, name: str = "m.ckpt") -> Path:
    torch.save(value, folder / name)
    return folder / name


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_name_that_a_state_dict_sits_under(wrapper: str, tmp_path: Path) -> None:
    path = saved({wrapper: state_dict(), "iter": 3, "config": None}, tmp_path)
    assert convert(path) == conventional(state_dict())


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda sd: defaultdict(dict, sd)])
def test_every_kind_of_dict(kind: Any, tmp_path: Path) -> None:
    assert convert(saved({"state_dict": kind(state_dict())}, tmp_path)) == conventional(state_dict())


def test_a_state_dict_with_the_version_of_its_modules(tmp_path: Path) -> None:
    value = OrderedDict(state_dict())
    value._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    assert convert(saved(value, tmp_path)) == conventional(state_dict())


def test_params_ema_is_preferred_to_params(tmp_path: Path) -> None:
    plain, ema = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    expected = {"w": torch.ones(2), "params.w": torch.zeros(2)}
    assert convert(saved({"params": plain, "params_ema": ema}, tmp_path)) == conventional(expected)


def test_a_layer_named_like_a_wrapper_is_no_wrapper(tmp_path: Path) -> None:
    tensors = {"model": torch.ones(2), "net": torch.zeros(1), "w": torch.ones(3)}
    assert convert(saved(tensors, tmp_path)) == conventional(tensors)


def test_nested_dicts_are_flattened_with_dots(tmp_path: Path) -> None:
    value = {
        "unet": {"a": torch.ones(2), "b": {"c": torch.zeros(1)}},
        "te": [torch.ones(1), (torch.ones(3),)],
        "x.y": {},
    }
    expected = {"unet.a": torch.ones(2), "unet.b.c": torch.zeros(1), "te.0": torch.ones(1), "te.1.0": torch.ones(3)}
    assert convert(saved(value, tmp_path)) == conventional(expected)


def test_keys_that_are_integers(tmp_path: Path) -> None:
    value = {320: {0: torch.ones(1), -1: torch.zeros(2)}, 10**20: torch.ones(3)}
    expected = {"320.0": torch.ones(1), "320.-1": torch.zeros(2), f"{10**20}": torch.ones(3)}
    assert convert(saved(value, tmp_path)) == conventional(expected)


def test_two_tensors_of_one_flat_name_are_refused(tmp_path: Path) -> None:
    for value in ({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, {1: torch.ones(1), "1": torch.zeros(1)}):
        ran = ckptool("convert", saved(value, tmp_path))
        assert ran.code == 3
        assert "two tensors would be named" in ran.err


@pytest.mark.parametrize("key", [("a", 1), None, 1.5, b"bytes", True], ids=repr)
def test_a_tensor_under_a_key_that_is_no_text_is_refused(key: Any, tmp_path: Path) -> None:
    ran = ckptool("convert", saved({"w": torch.ones(1), key: torch.zeros(1)}, tmp_path))
    assert ran.code == 3
    assert "under a key that is no text" in ran.err


def test_such_keys_without_tensors_are_left_out(tmp_path: Path) -> None:
    value = {"w": torch.ones(1), ("a", 1): 3, None: "x", 1.5: []}
    assert convert(saved(value, tmp_path)) == conventional({"w": torch.ones(1)})


def test_lightning_counters_are_kept_as_texts_and_training_state_is_dropped(tmp_path: Path) -> None:
    value = {
        "epoch": 23, "global_step": 470_000, "pytorch-lightning_version": "1.9", "state_dict": state_dict(),
        "callbacks": {"c": torch.ones(1)}, "optimizer_states": [{"state": {0: torch.ones(9)}}], "lr_schedulers": [{}],
        "loops": {"fit": 1}, "hyper_parameters": {"lr": 1e-4}, "hparams_name": "kwargs", "NativeMixedPrecision": {},
    }  # fmt: skip
    data = convert(saved(value, tmp_path))
    assert data == conventional(state_dict(), {"epoch": "23", "global_step": "470000"})


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_real_lightning_checkpoint(save: Any, tmp_path: Path) -> None:
    """With callbacks under classes, omegaconf, argparse, pathlib and numpy scalars as their libraries pickle them."""
    tensors = architecture("sd1", factor=64)
    save(lightning(tensors), tmp_path / "m.ckpt")
    data = convert(tmp_path / "m.ckpt")
    assert header_of(data)["__metadata__"] == {"epoch": "23", "format": "pt", "global_step": "470000"}
    loaded = load(data)
    assert loaded.keys() == tensors.keys()
    assert all(contents(loaded[name]) == tensor.tobytes() for name, tensor in tensors.items())


def test_objects_beside_the_state_dict(tmp_path: Path) -> None:
    value = {
        "state_dict": state_dict(),
        "args": argparse.Namespace(lr=1e-4, out=pathlib.PurePosixPath("logs/a")),
        "path": pathlib.PosixPath("/tmp/x"),
        "seen": {1, 2, 3},
        "frozen": frozenset("ab"),
        "rng": np.random.get_state(),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "complex": 1j,
        "range": range(3),
        "bytes": b"\x00\xff",
    }
    assert convert(saved(value, tmp_path)) == conventional(state_dict())


def test_unknown_objects_beside_the_state_dict(tmp_path: Path) -> None:
    plugin = Call(Global("some.company.plugin", "Plugin"), ("a", 1), state={"cache": [1, 2]}, opcode=NEWOBJ)
    save_zip(
        {"state_dict": architecture("textual-inversion-a1111"), "plugin": plugin, "cls": Global("x", "Y")},
        tmp_path / "m.pt",
    )
    ran = ckptool("convert", tmp_path / "m.pt")
    assert ran.code == 0
    assert "some.company.plugin.Plugin" in ran.out


def test_omegaconf_inside_the_state_dict_itself(tmp_path: Path) -> None:
    tensors = architecture("textual-inversion-a1111")
    save_zip({**tensors, "config": config({"unet": {"heads": 8}})}, tmp_path / "m.pt")
    assert load(convert(tmp_path / "m.pt")).keys() == tensors.keys()


def test_plain_values_of_a_bare_state_dict_become_metadata(tmp_path: Path) -> None:
    path = saved(
        {"w": torch.ones(1), "sd_checkpoint": "fe4e", "step": 5, "rate": 0.5, "none": None, "on": True}, tmp_path
    )
    metadata = {"rate": "0.5", "sd_checkpoint": "fe4e", "step": "5"}
    assert convert(path) == conventional({"w": torch.ones(1)}, metadata)


def test_texts_that_are_no_unicode_do_not_hurt(tmp_path: Path) -> None:
    """A lone surrogate can stand in a pickle's text and in no UTF-8."""
    for number, value in enumerate(({"w": torch.ones(1), "name": "\ud800"}, {"w": torch.ones(1), "na\udfffme": "x"})):
        ran = ckptool("convert", saved(value, tmp_path, f"{number}.pt"))
        assert ran.code in (0, 3), ran.err
    ran = ckptool("convert", saved({"w\ud800": torch.ones(1)}, tmp_path))
    assert ran.code == 3


def test_the_last_of_two_values_under_one_key_counts_as_in_a_dict(tmp_path: Path) -> None:
    first, last = architecture("textual-inversion-a1111"), architecture("textual-inversion-a1111")
    (tensor,) = last.values()
    save_zip(Code(b"}(", "w", next(iter(first.values())), "w", tensor, b"u"), tmp_path / "m.pt")
    assert contents(load(convert(tmp_path / "m.pt"))["w"]) == tensor.tobytes()


@pytest.mark.parametrize(
    "value", [{}, {"state_dict": {}}, [], 5, "text", None, {"a": 1}, {"optimizer": {"s": torch.ones(1)}}]
)
def test_a_file_without_tensors_is_refused(value: Any, tmp_path: Path) -> None:
    ran = ckptool("convert", saved(value, tmp_path))
    assert ran.code == 3
    assert "no tensors" in ran.err
