"""Pictures show what differs, on a scale that they state, and replace nothing."""

from pathlib import Path

import numpy
import pytest

from ckptool.errors import UsageError
from ckptool.verify.pictures import amplification, check_free, drawn, pictures_of, plane, preview, write_pictures
from ckptool.verify.png import EDGE, png, size_of
from tests.convert.converting import ckptool
from tests.verify.models import changed, save, tensors
from tests.verify.pages import QUICK, pixels

UNET = "model.diffusion_model."


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_has_the_values_that_it_was_made_of(channels: int) -> None:
    shares = numpy.linspace(0, 1, 300 * 260 * channels).reshape(300, 260, channels)
    found = pixels(png(shares))
    assert found.shape == (300, 260, channels)
    assert (found[0, 0, 0], found[-1, -1, -1], found[150, 0, 0]) == (0, 255, 128)


def test_a_small_picture_is_enlarged_by_whole_pixels() -> None:
    shares = numpy.zeros((3, 2, 3))
    shares[2, 1] = (1, 0.5, 2)
    data = png(shares)
    times = EDGE // 3
    assert size_of(data) == (2 * times, 3 * times)
    found = pixels(data)
    assert found[2 * times, times].tolist() == [255, 128, 255]
    assert not found[2 * times - 1, times].any()
    assert not found[2 * times, times - 1].any()


def test_the_difference_is_amplified_as_far_as_it_says() -> None:
    before = numpy.zeros((256, 256, 1))
    before[::2] = 1.0
    before[1::2] = -1.0
    after = before.copy()
    after[10, 20] += 3e-3
    after[11, 20] += 1e-3
    found = drawn(before, after, "test", True)
    assert (found.low, found.high, found.factor, found.broken) == (-1, 1, 500, 0)
    shown = pixels(found.difference)
    assert shown[10, 20, 0] == round(3e-3 * 500 / 2 * 255)
    assert shown[11, 20, 0] == round(1e-3 * 500 / 2 * 255)
    assert numpy.count_nonzero(shown) == 2
    assert found.amplified == "difference × 500"


@pytest.mark.parametrize(
    ("span", "largest", "factor"), [(2, 2, 1), (2, 3, 1), (1, 0.5, 2), (1, 0.19, 5), (2, 2e-6, 1e6)]
)
def test_amplification_is_1_2_or_5_and_never_too_much(span: float, largest: float, factor: float) -> None:
    assert amplification(span, largest, False) == factor


def test_equal_outputs_give_a_black_difference_that_says_so() -> None:
    values = numpy.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype("<f4")
    values[0, 0, 0, 0] = numpy.nan
    found = pictures_of("unet", values, values.copy())
    assert found.factor is None
    assert not pixels(found.difference).any()
    assert found.amplified == "no difference: black"


def test_what_is_no_number_is_white_in_the_difference_and_counted() -> None:
    before = numpy.ones((8, 8, 1))
    after = before.copy()
    after[0, 0], after[0, 1], after[7, 7] = numpy.nan, numpy.inf, 1.25
    found = drawn(before, after, "test", False)
    shown = pixels(found.difference)[:: EDGE // 8, :: EDGE // 8, 0]
    assert found.broken == 2
    assert shown[0, 0] == shown[0, 1] == 255
    assert 0 < shown[7, 7] < 255
    assert pixels(found.candidate)[0, 0, 0] == 0


def test_the_preview_of_a_latent_has_the_colours_of_its_base() -> None:
    latent = numpy.zeros((1, 4, 2, 2))
    latent[0, 0, 1, 0] = 1.0
    one, other = preview(latent, "sd2"), preview(latent, "sdxl")
    assert one.shape == (2, 2, 3)
    assert one[1, 0].tolist() == [0.298, 0.207, 0.208]
    assert other[1, 0].tolist() == [0.392, 0.4054, 0.4549]
    assert not one[0].any()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 77, 32), (77, 32, 1)), ((1, 32), (1, 32, 1)), ((1, 16, 8, 8), (8, 8, 3)), ((5,), (1, 5, 1))],
)
def test_any_output_can_be_drawn(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert plane(numpy.zeros(shape)).shape == expected


def test_no_picture_is_replaced_unless_it_is_asked_for(tmp_path: Path) -> None:
    made = pictures_of("unet", numpy.zeros((1, 4, 8, 8)), numpy.ones((1, 4, 8, 8)))
    paths = write_pictures(tmp_path, "unet", made, False)
    assert [path.name for path in paths] == ["unet-original.png", "unet-candidate.png", "unet-difference.png"]
    paths[1].write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        check_free(tmp_path)
    with pytest.raises(UsageError, match="exists"):
        write_pictures(tmp_path, "unet", made, False)
    assert paths[1].read_bytes() == b"mine"
    write_pictures(tmp_path, "unet", made, True)
    assert paths[1].read_bytes() == made.candidate


def test_the_command_writes_pictures_and_refuses_to_replace_them(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    one = save(values, tmp_path / "one.safetensors")
    two = save(changed(values, f"{UNET}out.2.bias", lambda t: t + 1), tmp_path / "two.safetensors")
    folder = tmp_path / "pictures"
    folder.mkdir()
    args = ("verify", one, two, "-q", "--pictures", folder, *QUICK)
    assert ckptool(*args).code == 4
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(made) == {f"unet-{side}.png" for side in ("original", "candidate", "difference")}
    assert all(pixels(data).shape == (256, 256, 3) for data in made.values())
    assert pixels(made["unet-difference.png"]).any()
    again = ckptool(*args)
    assert again.code == 2
    assert "exists already" in again.err
    assert ckptool(*args, "--force").code == 4
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
