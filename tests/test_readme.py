"""The help texts in README.md are those that the program prints; run as a script, this file rewrites them."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ckptool.cli import COMMANDS

README = Path(__file__).parent.parent / "README.md"
CKPTOOL = Path(sysconfig.get_path("scripts"), "ckptool")
# A fenced block that begins with `$ ckptool … --help`: the words between, then what is printed.
BLOCK = re.compile(r"^```text\n\$ ckptool (?P<words>(?:\S+ )*)--help\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def printed(words: str) -> str:
    command = [CKPTOOL, *words.split(), "--help"]
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def written() -> dict[str, str]:
    return {block["words"].strip(): block["text"] for block in BLOCK.finditer(README.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert command in written()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("receipt", "sanitize")])
def test_every_command_that_reads_a_model_says_that_it_may_be_elsewhere(command: str) -> None:
    words = " ".join(printed(command).split())
    assert "may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://." in words


@pytest.mark.parametrize("words", written())
def test_help_in_the_readme_is_what_is_printed(words: str) -> None:
    assert written()[words] == printed(words), "run `make readme`"


def refresh(block: re.Match[str]) -> str:
    return f"```text\n$ ckptool {block['words']}--help\n{printed(block['words'])}```"


if __name__ == "__main__":
    README.write_text(BLOCK.sub(refresh, README.read_text(encoding="utf-8")), encoding="utf-8")
