"""Words for people: sizes that are short, and strings that cannot move a terminal."""

import pytest

from ckptool.text import escape, plural, size


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 模型 😀", "plain é 模型 😀"),
        ("", ""),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x1b[31m\x07\x00\x7f\x9b", "\\x1b[31m\\x07\\x00\\x7f\\x9b"),
        ("\u202e\u2066\u200b\ufeff\u2028", "\\u202e\\u2066\\u200b\\ufeff\\u2028"),
        ("\U000e0041\U0010ffff", "\\U000e0041\\U0010ffff"),
        ("\ud800\udfff", "\\ud800\\udfff"),
        ("\u00a0\u3000", "\\xa0\\u3000"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_what_is_escaped_is_one_printable_line() -> None:
    every = "".join(
        map(chr, [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0080)])
    )
    shown = escape(every, len(every))
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 10_000_000])
def test_a_long_text_is_cut_and_says_so(length: int) -> None:
    assert escape("x" * length, 10) == "x" * min(length, 10) + ("…" if length > 10 else "")


def test_the_limit_counts_what_is_read_not_what_it_becomes() -> None:
    assert escape("\n" * 11, 10) == "\\n" * 10 + "…"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"), (1, "1 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_499, "999 kB"),
        (999_500, "1 MB"), (4_265_380_512, "4.27 GB"), (999_500_000, "1 GB"), (10**12, "1 TB"), (10**15, "1e+03 TB"),
    ],
)  # fmt: skip
def test_sizes_are_decimal_and_short(count: int, shown: str) -> None:
    assert size(count) == shown


def test_one_is_singular() -> None:
    assert [plural(n, "tensor") for n in (0, 1, 2, 1000)] == ["0 tensors", "1 tensor", "2 tensors", "1,000 tensors"]
