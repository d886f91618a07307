"""The page over all files in a real browser: it sorts, folds, fits, breaks no word, and asks nobody for anything."""

import json
import subprocess
from html import escape
from typing import Any

import pytest

from tests.sanitize.sanitizing import embedding, evil, sanitize, trained, write
from tests.verify.pages import read_page
from tests.verify.test_page_browser import FLAGS, browser, requests

WIDTHS = (1200, 400)
HOSTILE = "<img src=http://127.0.0.1:9/x onerror=\"document.title='taken'\">.pt"
# The page stands in frames as wide as a screen; what looks at it from outside has a script of its own.
LOOK = """
const told = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement, scroll = page.querySelector(".scroll");
  const rows = () => [...page.querySelectorAll(".all tbody tr")];
  const column = (at) => rows().map((row) => row.cells[at].textContent);
  const buttons = [...page.querySelectorAll(".all button")], seen = {};
  seen.fits = root.scrollWidth <= root.clientWidth && scroll.scrollWidth <= scroll.clientWidth;
  seen.broken = [...page.querySelectorAll(".all .badge")].filter((node) => node.getClientRects().length > 1).length;
  seen.first = column(0);
  buttons[1].click(); seen.up = column(1);
  buttons[1].click(); seen.down = column(1);
  buttons[4].click(); seen.sizes = rows().map((row) => Number(row.cells[4].dataset.key));
  seen.open = [...page.querySelectorAll("details[id]")].filter((file) => file.open).map((file) => file.textContent);
  seen.targets = rows().every((row) => page.querySelector(row.querySelector("a").getAttribute("href")));
  seen.images = page.images.length;
  told[frame.width] = seen;
}
document.title = JSON.stringify(told);
"""


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What was seen at each width, and every address that was asked for."""
    chromium = browser()
    folder = tmp_path_factory.mktemp("page")
    long = "a/very/deep/folder/" + "a-name-of-many-words-" * 9 + ".pt"
    files = {"clean.pt": embedding(), "evil.pt": evil(), HOSTILE.replace("/", "\u2215"): evil(), long: embedding(),
             "cut.ckpt": trained()[:9000], "whole.ckpt": trained()}  # fmt: skip
    page = folder / "page.html"
    sanitize(write(folder / "up", files), folder / "out", "--dangerous", "quarantine", "--report", page)
    frames = "".join(
        f'<iframe width="{width}" height="900" src="{escape(page.as_uri())}"></iframe>' for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(f"<!doctype html>{frames}<script>onload = () => {{{LOOK}}}</script>", "utf-8")
    log = folder / "net.json"
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom"]
    ran = subprocess.run([*command, around.as_uri()], capture_output=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr.decode("utf-8", "replace")[-2000:]
    (folder / "seen.html").write_bytes(ran.stdout)
    title = next(node.text for node in read_page(folder / "seen.html").all("title"))
    return json.loads(title), list(requests(log))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_screen_and_breaks_no_result(visited: Any, width: int) -> None:
    seen = visited[0][str(width)]
    assert (seen["fits"], seen["broken"]) == (True, 0)


def test_the_worst_stands_first_and_every_column_sorts(visited: Any) -> None:
    seen = visited[0]["1200"]
    assert seen["first"] == ["refused", "quarantined", "quarantined", "clean", "clean", "clean"]
    assert (sorted(seen["up"]), seen["up"][::-1]) == (sorted(seen["down"]), seen["down"])
    assert seen["up"] != seen["down"]
    assert seen["sizes"] == sorted(seen["sizes"])
    assert len(set(seen["sizes"])) > 1


def test_each_file_is_folded_with_what_was_found_and_a_row_leads_to_it(visited: Any) -> None:
    seen = visited[0]["1200"]
    assert seen["targets"]
    assert len(seen["open"]) == 3  # what was refused or quarantined lies open
    assert sum("posix.system" in text for text in seen["open"]) == 2


def test_no_name_becomes_markup_and_nobody_is_asked(visited: Any) -> None:
    assert (visited[0]["400"]["images"], visited[1]) == (0, [])
