"""Whole modules, TorchScript archives and embeddings give the tensors of their state dicts."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import nn

from fixtures.models import textual_inversion
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import ckptool, contents, conventional, convert, convert_by_library, equal, header_of


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4)]),
        nn.ModuleDict({"emb": nn.Embedding(5, 3), "drop": nn.Dropout()}),
        nn.MultiheadAttention(4, 2),
        nn.LSTM(4, 3),
        nn.ParameterList([torch.ones(2), torch.zeros(3)]),
        nn.ParameterDict({"a": torch.ones(2)}),
        nn.GroupNorm(2, 4),
        nn.TransformerEncoderLayer(4, 2, 8),
    )


@pytest.mark.parametrize("modern", [True, False])
def test_a_module_of_known_layers(modern: bool, tmp_path: Path) -> None:
    net = network()
    torch.save(net, tmp_path / "m.pt", _use_new_zipfile_serialization=modern)
    assert convert(tmp_path / "m.pt") == conventional(net.state_dict())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_module_in_a_plain_pickle(protocol: int, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(net, protocol=protocol))
    assert convert(tmp_path / "m.pkl") == conventional(net.state_dict())


def test_a_layer_that_stands_twice_is_written_twice(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, layer)
    torch.save(net, tmp_path / "m.pt")
    assert convert(tmp_path / "m.pt") == conventional(net.state_dict())


def test_a_module_under_a_wrapper_beside_its_optimizer(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4))
    adam = {
        "state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(4, 3)}},
        "param_groups": [{"lr": 1e-4, "params": [0]}],
    }
    torch.save({"model": net, "optimizer": adam, "epoch": 3}, tmp_path / "m.pt")
    assert convert(tmp_path / "m.pt") == conventional(net.state_dict(), {"epoch": "3"})


class OwnLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def test_a_module_of_a_class_that_is_not_known_is_refused_by_its_name(tmp_path: Path) -> None:
    OwnLayer.__module__ = "company.layers"
    import sys
    from types import ModuleType

    module = ModuleType("company.layers")
    module.OwnLayer = OwnLayer  # type: ignore[attr-defined]
    sys.modules["company"], sys.modules["company.layers"] = ModuleType("company"), module
    try:
        torch.save(nn.Sequential(OwnLayer()), tmp_path / "m.pt")
    finally:
        del sys.modules["company"], sys.modules["company.layers"]
    ran = ckptool("convert", tmp_path / "m.pt")
    assert ran.code == 3
    assert "company.layers.OwnLayer" in ran.err


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.inner = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4))
        self.register_buffer("steps", torch.arange(3))
        self.scale = 2.0
        self.names = ["a", "b"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_torchscript(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Scripted().eval()
    made: Any = torch.jit.trace(net, torch.ones(1, 3)) if kind == "trace" else torch.jit.script(net)
    if kind == "freeze":
        made = torch.jit.freeze(made)
    made.save(str(tmp_path / "m.pt"))
    ran = ckptool("convert", tmp_path / "m.pt")
    assert ran.code == 0, ran.err
    loaded = load((tmp_path / "m.safetensors").read_bytes())
    if kind == "freeze":  # the weights have become constants of the graph
        wanted = {contents(net.linear.weight), contents(net.linear.bias)}
        assert wanted <= {contents(tensor) for tensor in loaded.values()}
    else:
        state = made.state_dict()
        assert all(name in state or name.startswith("constants.") for name in loaded)
        assert all(equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_textual_inversion(save: Any, as_module: bool, tmp_path: Path) -> None:
    value = textual_inversion(as_module)
    save(value, tmp_path / "m.pt")
    data = convert(tmp_path / "m.pt")
    metadata = {
        "format": "pt",
        "name": "style",
        "step": "2000",
        "sd_checkpoint": "fe4efff1e1",
        "sd_checkpoint_name": "model",
    }
    assert header_of(data)["__metadata__"] == metadata
    vectors: Any = textual_inversion()["string_to_param"]
    loaded = load(data)
    assert {name: contents(tensor) for name, tensor in loaded.items()} == {"string_to_param.*": vectors["*"].tobytes()}


def test_textual_inversion_by_a_new_torch(tmp_path: Path) -> None:
    vectors = torch.randn(2, 8)
    value = {
        "string_to_token": {"*": 265},
        "string_to_param": nn.ParameterDict({"*": nn.Parameter(vectors)}),
        "name": "a",
    }
    torch.save(value, tmp_path / "m.pt")
    assert convert(tmp_path / "m.pt") == conventional({"string_to_param.*": vectors}, {"name": "a"})


UNSUPPORTED = {
    "complex128": lambda: torch.ones(2, dtype=torch.complex128),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(2, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_tensor_that_safetensors_cannot_hold_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    torch.save({"good": torch.ones(1), "bad.one": UNSUPPORTED[kind]()}, tmp_path / "m.pt")
    ran = ckptool("convert", tmp_path / "m.pt")
    assert ran.code == 3
    assert "bad.one" in ran.err
    assert kind in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


@pytest.mark.filterwarnings("ignore")
def test_such_a_tensor_in_the_state_of_the_training_is_left_out(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "optimizer": UNSUPPORTED["complex128"]()}, tmp_path / "m.pt")
    assert convert_by_library(tmp_path / "m.pt", tmp_path / "m.safetensors") == conventional({"w": torch.ones(1)})
