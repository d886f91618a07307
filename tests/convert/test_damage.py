"""A file that was cut off or damaged is refused wherever the damage is, and says where it ends and where it should."""

import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.convert.converting import ckptool, conventional, random
from tests.convert.test_archives import rezip, torch_zip

TENSORS = {f"t{i}": random(torch.uint8, (size,), i) for i, size in enumerate((3, 100, 70_000, 300_000, 5))}


def legacy() -> bytes:
    file = io.BytesIO()
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def deflated() -> bytes:
    """As `zip` makes it: with records that deflate does not make smaller, too. Without a byte order."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_zip(TENSORS))) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            if not name.endswith("byteorder"):
                new.writestr(name, old.read(name))
    return file.getvalue()


FORMS = {
    "zip": torch_zip(TENSORS),
    "deflated": deflated(),
    "legacy": legacy(),
    "pickle": pickle.dumps({name: tensor.numpy() for name, tensor in TENSORS.items()}),
    "pickle of torch": pickle.dumps(TENSORS, protocol=2),
    "safetensors": save(TENSORS),
}


def cuts(data: bytes) -> list[int]:
    """Every place near the begin and the end, and some forty between."""
    size = len(data)
    return sorted({*range(1, 24), *range(size - 24, size), *range(24, size, size // 40)})


@pytest.mark.parametrize("form", FORMS)
def test_whole_it_converts(form: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(FORMS[form])
    assert ckptool("convert", tmp_path / "m.bin").code == 0
    assert (tmp_path / "m.safetensors").read_bytes() == conventional(TENSORS)


@pytest.mark.parametrize("form", FORMS)
def test_cut_off_anywhere_it_is_refused(form: str, tmp_path: Path) -> None:
    data = FORMS[form]
    for cut in cuts(data):
        (tmp_path / "m.bin").write_bytes(data[:cut])
        ran = ckptool("convert", tmp_path / "m.bin")
        assert ran.code == 3, (cut, ran)
        assert len(ran.err.splitlines()) == 2, (cut, ran)
        assert os.listdir(tmp_path) == ["m.bin"]


@pytest.mark.parametrize("form", FORMS)
def test_cut_off_in_the_tensors_it_says_where_it_ends_and_where_it_should(form: str, tmp_path: Path) -> None:
    data = FORMS[form]
    for part in (0.3, 0.5, 0.9):
        cut = int(len(data) * part)
        (tmp_path / "m.bin").write_bytes(data[:cut])
        message = ckptool("convert", tmp_path / "m.bin").err.splitlines()[0]
        numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]*", message.split("m.bin")[1])]
        assert cut in numbers, message
        if form != "deflated":  # what a deflated archive should come to cannot be known without its directory
            assert any(cut < number <= len(data) for number in numbers) or "more" in message, message


def test_a_zip_that_lacks_its_last_bytes_is_not_said_to_lack_tensors(tmp_path: Path) -> None:
    data = FORMS["zip"]
    (tmp_path / "m.bin").write_bytes(data[:-30])
    message = ckptool("convert", tmp_path / "m.bin").err.splitlines()[0]
    numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]{3,}", message.split("m.bin")[1])]
    assert numbers[0] == len(data) - 30
    assert all(number >= len(data) - 30 for number in numbers), message


@pytest.mark.parametrize("size", [1, 100, 65_536, 65_537, 3 << 20])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_record_with_a_wrong_checksum(size: int, place: int, packed: bool, tmp_path: Path) -> None:
    """The sum is right in the zip and its records are not: a flipped bit, found wherever it is."""
    tensors = {"before": torch.ones(3), "w": random(torch.uint8, (size,), 3), "view": torch.ones(2)}
    path = tmp_path / "m.ckpt"
    stored = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    data = bytearray(torch_zip(tensors))
    at = data.index(tensors["w"].numpy().tobytes(), data.index(b"data/1")) + (0 if place == 0 else size - 1)
    if not packed:
        data[at] ^= 0x40
        path.write_bytes(data)
    else:
        changed = bytearray(tensors["w"].numpy().tobytes())
        changed[place] ^= 0x40
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", stored) as new:
            for name in old.namelist():
                if not name.endswith("byteorder"):
                    new.writestr(name, bytes(changed) if name.endswith("data/1") else old.read(name))
        swap_sum(path, "archive/data/1", tensors["w"].numpy().tobytes())
    ran = ckptool("convert", path)
    assert ran.code == 3, ran
    assert "CRC" in ran.err
    assert "data/1" in ran.err
    assert os.listdir(tmp_path) == ["m.ckpt"]


def swap_sum(path: Path, name: str, data: bytes) -> None:
    """Put the CRC of `data` where that of the record `name` is, in both headers."""
    from zlib import crc32

    with zipfile.ZipFile(path) as archive:
        old = archive.getinfo(name).CRC
    content = path.read_bytes()
    assert content.count(old.to_bytes(4, "little")) == 2
    path.write_bytes(content.replace(old.to_bytes(4, "little"), crc32(data).to_bytes(4, "little")))


@pytest.mark.parametrize("view", ["transposed", "stepped", "part", "twice"])
def test_a_wrong_checksum_outside_of_what_a_view_shows(view: str, tmp_path: Path) -> None:
    base = random(torch.uint8, (600, 500), 1)
    made = {"transposed": base.t(), "stepped": base[::2], "part": base[:2], "twice": base[:300]}[view]
    tensors = {"w": made} | ({"v": base[300:]} if view == "twice" else {})
    data = bytearray(torch_zip(tensors))
    data[data.index(base.numpy().tobytes()) + 500 * 600 - 1] ^= 1
    (tmp_path / "m.ckpt").write_bytes(data)
    assert ckptool("convert", tmp_path / "m.ckpt").code == 3
    assert os.listdir(tmp_path) == ["m.ckpt"]


def test_a_wrong_checksum_of_the_pickle(tmp_path: Path) -> None:
    data = FORMS["zip"].replace(b"X\x02\x00\x00\x00t1", b"X\x02\x00\x00\x00tX")
    assert data != FORMS["zip"]
    (tmp_path / "m.ckpt").write_bytes(data)
    ran = ckptool("convert", tmp_path / "m.ckpt")
    assert ran.code == 3
    assert "data.pkl" in ran.err


@pytest.mark.parametrize("form", ["zip", "deflated", "safetensors", "legacy", "pickle"])
def test_a_flipped_bit_anywhere_gives_the_tensors_or_a_refusal(form: str, tmp_path: Path) -> None:
    """Never a traceback. With checksums never other tensors either; the other forms cannot know."""
    data, whole = FORMS[form], conventional(TENSORS)
    places = torch.randint(0, len(data) * 8, (40,), generator=torch.Generator().manual_seed(7)).tolist()
    places += [bit * 8 + 3 for bit in range(0, 400, 11)] + [(len(data) - byte) * 8 - 5 for byte in range(1, 400, 11)]
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "m.bin").write_bytes(changed)
        ran = ckptool("convert", tmp_path / "m.bin", "--force")
        assert ran.code in (0, 3), (place, ran)
        if ran.code == 0 and form in ("zip", "deflated"):
            assert (tmp_path / "m.safetensors").read_bytes() == whole, place


def test_a_shorter_file_under_an_old_directory(tmp_path: Path) -> None:
    """A hole in the middle: the end is there, but not what it points to."""
    data = FORMS["zip"]
    (tmp_path / "m.bin").write_bytes(data[:50_000] + data[60_000:])
    assert ckptool("convert", tmp_path / "m.bin").code == 3
    assert os.listdir(tmp_path) == ["m.bin"]


def test_a_file_of_the_right_length_whose_end_never_came(tmp_path: Path) -> None:
    """As a download manager leaves it that reserves room first."""
    data = FORMS["zip"]
    (tmp_path / "m.bin").write_bytes(data[:200_000] + bytes(len(data) - 200_000))
    assert ckptool("convert", tmp_path / "m.bin").code == 3


def test_rezipped_records_are_still_checked(tmp_path: Path) -> None:
    rezip(FORMS["zip"], tmp_path / "m.ckpt")
    data = bytearray((tmp_path / "m.ckpt").read_bytes())
    data[data.index(TENSORS["t3"].numpy().tobytes()) + 5] ^= 1
    (tmp_path / "m.ckpt").write_bytes(data)
    assert "data/3: wrong CRC" in ckptool("convert", tmp_path / "m.ckpt").err
