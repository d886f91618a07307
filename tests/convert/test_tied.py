"""`--tied alias` writes shared tensors once and names the others as safetensors' own `save_model` does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_model, save_model
from torch import nn

from tests.convert.converting import ckptool, conventional, equal, header_of
from tests.convert.test_archives import big_endian, rezip, torch_zip


class Tied(nn.Module):
    """The usual tie of a language model, a tie of three, and a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.c, self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.a.weight = self.b.weight = self.c.weight
        self.alone = nn.Parameter(torch.ones(3))


def aliased(value: Any, folder: Path, **options: Any) -> bytes:
    torch.save(value, folder / "m.ckpt", **options)
    ran = ckptool("convert", folder / "m.ckpt", "--tied", "alias", "--force")
    assert ran.code == 0, ran.err
    return (folder / "m.safetensors").read_bytes()


@pytest.mark.parametrize("modern", [True, False])
def test_the_file_is_that_of_save_model(modern: bool, tmp_path: Path) -> None:
    model = Tied()
    ours = aliased(model.state_dict(), tmp_path, _use_new_zipfile_serialization=modern)
    save_model(model, str(tmp_path / "theirs.safetensors"), metadata={"format": "pt"})
    theirs = (tmp_path / "theirs.safetensors").read_bytes()
    # Several keys of metadata: safetensors leaves their order to chance.
    assert header_of(ours) == header_of(theirs)
    length = int.from_bytes(ours[:8], "little")
    assert ours[:8] == theirs[:8]
    assert ours[8 + length :] == theirs[8 + length :]


def test_it_loads_with_load_model(tmp_path: Path) -> None:
    model, empty = Tied(), Tied()
    aliased(model.state_dict(), tmp_path)
    load_model(empty, str(tmp_path / "m.safetensors"))
    state = empty.state_dict()
    assert all(equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_the_report_says_which_are_tied(tmp_path: Path) -> None:
    aliased(Tied().state_dict(), tmp_path)
    ran = ckptool("convert", tmp_path / "m.ckpt", "--tied", "alias", "--force")
    assert "head.weight: tied to embed.weight" in ran.out


def test_copies_are_the_default(tmp_path: Path) -> None:
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "m.ckpt")
    assert ckptool("convert", tmp_path / "m.ckpt").code == 0
    assert (tmp_path / "m.safetensors").read_bytes() == conventional(model.state_dict())


def test_views_that_merely_overlap_stay(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "row": base[1], "turned": base.t(), "flat": base.reshape(-1), "shifted": base[1:]}
    assert aliased(tensors, tmp_path) == conventional(tensors)


def test_a_square_is_not_tied_to_its_transpose(tmp_path: Path) -> None:
    """Both begin at the same byte, and have the same shape."""
    square = torch.arange(9.0).reshape(3, 3)
    half = torch.arange(16.0).reshape(4, 4)
    tensors = {"a": square, "b": square.t(), "c": half[::2, ::2], "d": half.t()[::2, ::2], "e": half[:2, :2]}
    assert aliased(tensors, tmp_path) == conventional(tensors)


def test_equal_values_without_a_common_storage_stay(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3), "b": torch.ones(3), "empty": torch.empty(0), "void": torch.empty(0)}
    assert aliased(tensors, tmp_path) == conventional(tensors)


def test_equal_views_of_one_storage_are_one(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    data = aliased({"x": base.t(), "y": base.t(), "z": base[0]}, tmp_path)
    assert data == conventional({"x": base.t(), "z": base[0]}, {"y": "x"})


def test_tied_tensors_of_a_deflated_archive(tmp_path: Path) -> None:
    shared = torch.arange(300.0)
    rezip(torch_zip({"a": shared, "b": shared}), tmp_path / "m.ckpt", {"byteorder": b"little"})
    ran = ckptool("convert", tmp_path / "m.ckpt", "--tied", "alias")
    assert ran.code == 0, ran.err
    assert (tmp_path / "m.safetensors").read_bytes() == conventional({"a": shared}, {"b": "a"})


@pytest.mark.filterwarnings("ignore")
def test_tied_tensors_of_a_big_endian_archive(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    values = big_endian(tmp_path / "m.ckpt", {"a": shared, "b": shared})
    ran = ckptool("convert", tmp_path / "m.ckpt", "--tied", "alias")
    assert ran.code == 0, ran.err
    assert (tmp_path / "m.safetensors").read_bytes() == conventional({"a": values["a"]}, {"b": "a"})


def test_conjugate_twins_are_not_tied_to_their_originals(tmp_path: Path) -> None:
    shared = torch.randn(3, dtype=torch.complex64)
    data = aliased({"a": shared, "b": shared.conj()}, tmp_path)
    assert equal(load(data)["b"], shared.conj())
