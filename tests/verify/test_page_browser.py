"""The page in a real browser: nothing is asked of any network, its one script runs, and it fits a narrow screen."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.verify.models import changed, save, tensors
from tests.verify.pages import QUICK, page_of, read_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000",
)  # fmt: skip
WIDTHS = (1200, 400)
OF_ITSELF = "not an origin"
OWN = ("file:", "data:", "about:", "chrome:", "chrome-extension:", "devtools:", "blob:")
# The page stands in a frame as wide as a screen; only what looks at it from outside has a script of its own.
LOOK = """
const told = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement, field = page.getElementById("filter");
  const shown = () => [...page.querySelectorAll(".tensors tr")].filter((row) => !row.hidden).length;
  const seen = {width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight, rows: shown()};
  seen.wide = [...page.querySelectorAll("main *")].filter(
    (node) => node.getBoundingClientRect().right > root.clientWidth + 1 && !node.closest("svg"),
  ).map((node) => node.tagName + "." + node.className);
  seen.images = [...page.images].map((image) => image.complete && image.naturalWidth);
  seen.field = !field.closest("p").hidden;
  field.value = WORD;
  field.dispatchEvent(new Event("input"));
  seen.found = shown();
  seen.open = [...page.querySelectorAll(".group")].filter((group) => group.open && !group.hidden).length;
  told.push(seen);
}
document.title = JSON.stringify(told);
"""


@dataclass(frozen=True, slots=True)
class Visit:
    """What a browser saw of a page at each width, and what it asked for."""

    seen: dict[int, dict[str, Any]]
    asked: list[str]


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None and os.environ.get("CKPTOOL_BROWSER"):
        pytest.fail("no Chromium, and pages have to be looked at: apt-get install -y chromium")
    if found is None:
        pytest.skip("no Chromium: apt-get install -y chromium")
    return found


def visit(page: Path, folder: Path, word: str) -> Visit:
    """Open a page at all widths at once."""
    frames = "".join(
        f'<iframe width="{width}" height="900" src="{escape(page.as_uri())}"></iframe>' for width in WIDTHS
    )
    script = LOOK.replace("WORD", json.dumps(word))
    around = folder / "around.html"
    around.write_text(f"<!doctype html>{frames}<script>onload = () => {{{script}}}</script>", "utf-8")
    log = folder / "net.json"
    places = (f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}")
    command = [browser(), *FLAGS, *places, "--dump-dom", around.as_uri()]
    ran = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr.decode("utf-8", "replace")[-2000:]
    (folder / "seen.html").write_bytes(ran.stdout)
    title = next(n.text for n in read_page(folder / "seen.html").all("title"))
    return Visit({seen["width"]: seen for seen in json.loads(title)}, list(requests(log)))


def requests(log: Path) -> Iterator[str]:
    """Every address that a page asked for, but for files and what stands in the page.

    What a browser asks for of its own accord (the time, its updates) has no page as its origin.
    """
    for event in json.loads(log.read_text("utf-8", "replace"))["events"]:
        asked = event.get("params", {})
        url = asked.get("url", "")
        if asked.get("initiator", OF_ITSELF) != OF_ITSELF and not url.startswith(OWN):
            yield url


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """The page of a checkpoint of 3,000 and more tensors with a mismatch, whose names are as long as they come."""
    browser()
    folder = tmp_path_factory.mktemp("visited")
    values = tensors("sd1")
    values |= {f"extra.{'a_name_without_a_break' * 6}.{number}": torch.ones(2) for number in range(2000)}
    name = "model.diffusion_model.out.2.bias"
    one = save(values, folder / "one.safetensors")
    two = save(changed(values, name, lambda tensor: tensor + 1), folder / "two.safetensors")
    page_of(one, two, *QUICK, code=4)
    return visit(folder / "two.html", folder, "OUT.2.bias")


def test_nothing_is_asked_of_a_network(visited: Visit) -> None:
    assert visited.asked == []


def test_a_page_that_asks_for_something_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><main><p hidden><input id="filter"></p><img src="http://example.org/x.png"></main>', "utf-8"
    )
    assert "http://example.org/x.png" in visit(page, tmp_path, "x").asked


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_screen(visited: Visit, width: int) -> None:
    # The scroll bar at the side takes some of the frame's width.
    seen = next(seen for shown, seen in visited.seen.items() if width - 20 <= shown <= width)
    assert seen["scroll"] == seen["width"]
    assert seen["wide"] == []
    assert seen["height"] > 3000


def test_every_picture_is_shown(visited: Visit) -> None:
    for seen in visited.seen.values():
        assert len(seen["images"]) == 9
        assert all(seen["images"])


def test_the_filter_finds_a_tensor_among_thousands(visited: Visit) -> None:
    for seen in visited.seen.values():
        assert seen["field"]
        assert seen["rows"] > 3000
        assert seen["found"] == seen["open"] == 1
