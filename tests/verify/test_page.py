"""The page of a real run says what was found, holds all that it shows, and lets nothing of a file become markup."""

import json
import re
import shlex
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from tests.convert.converting import ckptool
from tests.verify.models import changed, halved, save, tensors
from tests.verify.pages import QUICK, Page, page_of, pixels, read_page
from tests.verify.verifying import checkpoint, made

UNET = "model.diffusion_model."
BIAS = f"{UNET}out.2.bias"
ONLY = ("--tensors-only",)
ADDRESSES = frozenset({"src", "href", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href"})
HOSTILE = (
    '<img src=https://example.org/x onerror=alert(1)>',
    '"><script>alert(1)</script>',
    "'</style><style>*{background:url(https://example.org)}",
    "</details></main>&lt;b&gt;",
    "turned\u202eround\x00\x1b[31m\nline\u2028",
    "long." * 2000,
)  # fmt: skip


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    """The page of an F16 copy of a whole checkpoint, and its folder."""
    folder = tmp_path_factory.mktemp("rounded")
    values = tensors("sd1")
    one = save(values, folder / "original.safetensors")
    two = save(halved(values), folder / "candidate.safetensors")
    return page_of(one, two, *QUICK), folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a UNet by itself, one of whose tensors is wrong and one of which is gone."""
    folder = tmp_path_factory.mktemp("broken")
    values = tensors("sd1", only=UNET)
    wrong = changed(values, BIAS, lambda tensor: tensor + 1)
    one = save(values, folder / "one.safetensors")
    return page_of(one, save(wrong, folder / "two.safetensors"), *QUICK, code=4)


def external(page: Page) -> list[str]:
    """Everything in a page by which a browser would load something, or run what is not the page's own."""
    found = [
        f"{node.tag} {name}={value}"
        for node in page.nodes
        for name, value in node.attributes.items()
        if name.startswith("on")
        or (name == "style" and "url" in value)
        or (name in ADDRESSES and not value.startswith(("#", "data:image/png;base64,")))
    ]
    found += [n.tag for n in page.nodes if n.tag in ("link", "base", "iframe", "object", "embed", "form", "use", "a:")]
    found += [n.tag for n in page.all("meta") if n.attributes.get("http-equiv", "").lower() == "refresh"]
    found += [word for style in page.all("style") for word in re.findall(r"url\(|@import|image-set", style.text)]
    found += ["script" for script in page.all("script") if script.attributes or digest(script.text) not in page.source]
    return found


def digest(script: str) -> str:
    return f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def test_the_verdict_stands_first(rounded: tuple[Page, Path], broken: Page) -> None:
    for page, verdict in ((rounded[0], "Parity shown"), (broken, "Parity not shown")):
        body = [node for node in page.nodes if node.within("main")]
        assert body[0].tag == "header"
        assert next(n for n in body if n.tag == "h1").text == verdict
    assert broken.all("p", "why")[0].text.startswith("1 tensor of ")
    assert next(n.text for n in broken.all("li") if n.within("header")) == f"{BIAS}: its values differ"


def test_nothing_in_a_page_points_outside(rounded: tuple[Page, Path], broken: Page) -> None:
    for page in (rounded[0], broken):
        assert external(page) == []
        policy = next(n.attributes["content"] for n in page.all("meta") if "http-equiv" in n.attributes)
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-")
        assert len(page.all("script")) == 1


def test_a_page_that_points_outside_is_found_out(tmp_path: Path, broken: Page) -> None:
    for more in ('<img src="https://example.org/x">', "<a href='//example.org'>x</a>", "<script>1</script>",
                 "<p onclick='1'>x</p>", "<style>p { background: url(x) }</style>"):  # fmt: skip
        path = tmp_path / "x.html"
        path.write_text(broken.source.replace("</main>", f"{more}</main>"), "utf-8")
        assert len(external(read_page(path))) == 1, more


def test_every_component_has_its_figures(rounded: tuple[Page, Path]) -> None:
    page, _ = rounded
    table = page.all("table", "components")[0]
    rows = {}
    for row in (n for n in page.all("tr") if table in n.parents):
        name, *_ = [n.text for n in page.all("th") if row in n.parents]
        rows[name] = [n.text for n in page.all("td") if row in n.parents]
    assert set(rows) == {"Component", "unet", "vae", "text_encoder", "other"}
    for name in ("unet", "vae", "text_encoder"):
        tensors_explained, error, _, decibels, cosine, _ = rows[name]
        count, _, every = tensors_explained.partition(" of ")
        assert count == every
        assert "10⁻⁴" in error
        assert 70 < float(decibels.removesuffix(" dB")) < 100
        assert cosine.startswith("0.9999")
    assert rows["other"][1] == "no network"


def test_the_error_of_each_block_is_drawn_in_the_order_that_they_run(broken: Page) -> None:
    chart = broken.all("ol", "blocks")[0]
    names = [n.text for n in broken.all("span", "name") if chart in n.parents]
    assert names[0] == "time_embedding"
    assert names[-1] == "conv_out"
    values = [n.text for n in broken.all("span", "value") if chart in n.parents]
    assert values[:-1] == ["0"] * (len(values) - 1)
    assert values[-1] != "0"
    marks = [n.attributes["class"] for n in broken.all("circle")]
    assert marks == ["none"] * (len(names) - 1) + ["over"]
    places = [float(n.attributes["cx"].removesuffix("%")) for n in broken.all("circle")]
    assert places[0] < places[-1] <= 98


def test_pictures_are_named_by_what_made_them(rounded: tuple[Page, Path], broken: Page) -> None:
    whole, alone = rounded[0].section("pictures"), broken.section("pictures")
    assert "decoded by each file's own VAE" in whole
    assert "linear preview" not in whole
    assert "The encoded prompt, as numbers" in whole
    assert "linear preview" in alone
    assert "VAE" not in alone
    assert re.search(r"The difference is amplified [125]0*(,000)* times\.", whole)
    for page in (rounded[0], broken):
        before, after, difference = map(pixels, page.pictures("unet"))
        assert before.shape == after.shape == difference.shape
        assert before.any()
        assert difference.any()
    assert all(pixels(picture).any() for picture in rounded[0].pictures("vae"))


def test_equal_files_have_a_black_difference_and_say_so(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    one, two = (save(values, tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    page = page_of(one, two, *QUICK)
    assert "to the bit" in page.all("p", "why")[0].text
    assert not pixels(page.pictures("unet")[2]).any()
    assert "Both are equal to the last bit, so that the difference is black." in page.section("pictures")
    assert "No block differs" in page.section("blocks")
    assert page.groups() == ["Identical"]
    assert len(page.rows("Identical")) == len(values)


def test_a_layer_that_overflows_is_named_with_the_advice(tmp_path: Path) -> None:
    values = tensors("vae")
    name = "decoder.conv_in"
    values[f"{name}.weight"] *= 1e7
    one, two = (save(values, tmp_path / f"{part}.safetensors") for part in ("one", "two"))
    page = page_of(one, two, *QUICK)
    assert "would overflow: keep the VAE in F32" in page.all("p", "warning")[0].text
    named = [n.text for n in page.all("span", "name") if n.within("ol", **{"class": "layers"})]
    assert name in named
    over = page.all("rect", "over")
    assert len(over) == len(named) > 0
    assert any(n.text.startswith(f"{name}: ") for n in page.all("title") if n.within("rect", **{"class": "over"}))


def test_a_layer_within_the_range_does_not_overflow(rounded: tuple[Page, Path]) -> None:
    page, _ = rounded
    assert not page.all("rect", "over")
    assert not page.all("p", "warning")
    assert page.section("activations").count("overflows; the largest value, ") == 3


def test_the_threshold_is_drawn_where_it_was_used(tmp_path: Path) -> None:
    values = tensors("sd1")
    one = save(values, tmp_path / "one.safetensors")
    two, report = made("prune", one, tmp_path / "two.safetensors", "--threshold", "0.003")
    page = page_of(one, two, *ONLY, "--expect", report, "--threshold", "0.003")
    assert "The threshold, 0.003, is drawn in" in page.section("weights")
    said = [n for n in page.all("text", "said") if n.text == "threshold 0.003"]
    used = {row[1] for row in page.rows("Zeroed")}
    assert used == {"unet", "text_encoder"}
    assert len(said) == len(used)
    zeros = sum(int(row[2].split()[0].replace(",", "")) for row in page.rows("Zeroed") if row[1] == "unet")
    assert f"exactly 0: 0 before, {zeros:,} now" in page.section("weights")


def test_every_tensor_stands_in_the_group_of_what_happened_to_it(tmp_path: Path) -> None:
    one = checkpoint(tmp_path / "one.ckpt", "sd1-full-ema")
    two, _ = made("prune", one, tmp_path / "two.safetensors", "--ema", "drop")
    three, _ = made("fp16", two, tmp_path / "three.safetensors")
    page = page_of(one, three, *ONLY)
    assert page.groups() == ["Cast", "Left out", "Identical"]
    cast = {row[0]: row for row in page.rows("Cast")}
    assert cast[BIAS][1:3] == ["unet", "F32 → F16"]
    assert cast[BIAS][3].startswith("F16 ")
    gone = page.rows("Left out")
    assert len([row for row in gone if row[0].startswith("model_ema.") and row[3] == "gone"]) == 688
    assert all(row[2] for row in gone)


def test_the_average_is_a_group_of_its_own(tmp_path: Path) -> None:
    one = checkpoint(tmp_path / "one.ckpt", "sd1-full-ema")
    two, _ = made("prune", one, tmp_path / "two.safetensors", "--ema", "use")
    page = page_of(one, two, *ONLY)
    rows = page.rows("Average (EMA)")
    assert rows
    assert all(row[2].startswith("from model_ema.") for row in rows)


def test_unexplained_tensors_stand_first_in_full_and_open(tmp_path: Path) -> None:
    values = {f"layer.{number}.weight": torch.full((2, 3), float(number + 1)) for number in range(40)}
    wrong = {name: tensor * (1.5 if int(name.split(".")[1]) % 2 else 1) for name, tensor in values.items()}
    one, two = save(values, tmp_path / "one.safetensors"), save(wrong, tmp_path / "two.safetensors")
    page = page_of(one, two, *ONLY, code=4)
    assert page.groups() == ["Unexplained", "Identical"]
    rows = {row[0]: row for row in page.rows("Unexplained")}
    assert len(rows) == 20
    assert "at [0, 0]: 2 → 3; 6 of 6 differ" in rows["layer.1.weight"][3]
    first, second = page.all("details", "group")
    assert "open" in first.attributes
    assert "open" not in second.attributes


def test_names_that_are_markup_stay_words(tmp_path: Path) -> None:
    values = {f"{name}{number}": torch.ones(3) for number, name in enumerate(HOSTILE)}
    plain = {f"name{number}": tensor for number, tensor in enumerate(values.values())}
    pages = []
    for folder, some in (("hostile", values), ("plain", plain)):
        (tmp_path / folder).mkdir()
        one, two = tmp_path / folder / "one.safetensors", tmp_path / folder / "two.safetensors"
        bad = {name: tensor * (2 if place % 2 else 1) for place, (name, tensor) in enumerate(some.items())}
        save(some, one, {"a<b>": "<script>1</script>"} if folder == "hostile" else {"a": "b"})
        pages.append(page_of(one, save(bad, two), *ONLY, code=4))
    hostile, other = pages
    assert [node.tag for node in hostile.nodes] == [node.tag for node in other.nodes]
    assert external(hostile) == []
    assert {row[0] for row in hostile.rows("Identical")} >= {HOSTILE[0] + "0", HOSTILE[2] + "2"}
    assert not [c for c in hostile.source if c in "\u202e\x00\x1b\u2028"]


def test_three_thousand_tensors_are_all_there(tmp_path: Path) -> None:
    values = {f"block.{number}.weight": torch.full((2,), float(number)) for number in range(3000)}
    one = save(values, tmp_path / "one.safetensors")
    page = page_of(one, save({**values, "block.7.weight": torch.zeros(2)}, tmp_path / "two.safetensors"), *ONLY, code=4)
    assert [row[0] for row in page.rows("Unexplained")] == ["block.7.weight"]
    assert {row[0] for row in page.rows("Identical")} == values.keys() - {"block.7.weight"}
    assert len(page.source) < 1_000_000


def test_the_command_on_a_page_gives_its_figures_again(rounded: tuple[Page, Path]) -> None:
    page, folder = rounded
    words = shlex.split(page.all("pre")[0].text)
    assert words[:2] == ["ckptool", "verify"]
    assert words[2:4] == [str(folder / f"{name}.safetensors") for name in ("original", "candidate")]
    ran = ckptool(*words[1:], "--json", "-q")
    report = json.loads(ran.out)
    for path, digested in report["sha256"].items():
        assert path in page.section("repeat")
        assert digested in page.section("repeat")
    shown = page.all("table", "components")[0].text
    for result in report["denoise"].values():
        assert f"{result['psnr']:.1f} dB" in shown


def test_a_report_as_json_holds_no_pictures(rounded: tuple[Page, Path]) -> None:
    _, folder = rounded
    path = folder / "report.json"
    ran = ckptool(
        "verify", folder / "original.safetensors", folder / "candidate.safetensors", *QUICK, "-q", "--report", path
    )
    assert ran.code == 0
    text = path.read_text("utf-8")
    assert "iVBOR" not in text
    assert not {"pictures", "histograms", "activations"} & json.loads(text).keys()


def test_a_component_that_was_not_run_says_why(tmp_path: Path) -> None:
    values = tensors("sd1", only=UNET)
    gone = {name: tensor for name, tensor in values.items() if name != f"{UNET}input_blocks.1.1.proj_out.weight"}
    one, two = save(values, tmp_path / "one.safetensors"), save(gone, tmp_path / "two.safetensors")
    page = page_of(one, two, *QUICK, code=4)
    assert "not run: the candidate: missing, or of another shape" in page.all("table", "components")[0].text
    assert page.section("blocks") == page.section("pictures") == page.section("activations") == ""
    assert "proj_out.weight" in page.section("tensors")


def test_a_report_that_is_a_page_replaces_an_earlier_one(rounded: tuple[Page, Path]) -> None:
    _, folder = rounded
    assert b"ckptool" in (folder / "candidate.html").read_bytes()[:1000]
    one, two = folder / "original.safetensors", folder / "candidate.safetensors"
    assert page_of(one, two, *ONLY).section("pictures") == ""


def test_what_is_no_number_in_f32_is_no_matter_of_half_precision(tmp_path: Path) -> None:
    values = tensors("vae")
    one = save(values, tmp_path / "one.safetensors")
    broken = changed(values, "decoder.conv_out.bias", lambda tensor: tensor.fill_(torch.nan))
    page = page_of(one, save(broken, tmp_path / "two.safetensors"), *QUICK, code=4)
    assert [n.text for n in page.all("p", "warning")] == ["Even in F32 1 layer of the vae came out infinite or NaN."]
    assert pixels(page.pictures("vae")[2]).min() == 255
    assert "infinite or NaN, and white in the difference." in page.section("pictures")
