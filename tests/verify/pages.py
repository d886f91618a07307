"""What the tests of verify's page share: the page of a real run, taken apart."""

import struct
import zlib
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.convert.converting import ckptool

VOID = frozenset({"meta", "img", "input", "br", "line", "circle"})
QUICK = ("--steps", "1", "--size", "8")
Attributes = dict[str, str]


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """An element, with the text in it and in all below it."""

    tag: str
    attributes: Attributes
    parents: tuple["Node", ...]
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def within(self, tag: str, **wanted: str) -> bool:
        return any(
            node.tag == tag and all(node.attributes.get(name) == value for name, value in wanted.items())
            for node in self.parents
        )


@dataclass(slots=True, eq=False, repr=False)
class Page:
    """Its elements in the order that they begin."""

    source: str
    nodes: list[Node] = field(default_factory=list)

    def all(self, tag: str, kind: str = "") -> list[Node]:
        """Elements by tag, and by one of their classes."""
        return [n for n in self.nodes if n.tag == tag and (not kind or kind in n.attributes.get("class", "").split())]

    def rows(self, group: str) -> list[list[str]]:
        """The cells of the rows of one group of tensors."""
        inside = next((n for n in self.all("details", "group") if group == self.heading(n)), None)
        rows: dict[Node, list[str]] = {}
        for cell in self.all("td"):
            if inside in cell.parents:
                rows.setdefault(cell.parents[-1], []).append(cell.text)
        return list(rows.values())

    def heading(self, group: Node) -> str:
        return next(n.text for n in self.all("b") if group in n.parents)

    def groups(self) -> list[str]:
        return [self.heading(n) for n in self.all("details", "group")]

    def section(self, name: str) -> str:
        """All the text of a part of the page; empty where it has none."""
        return next((n.text for n in self.all("section") if n.attributes.get("id") == name), "")

    def pictures(self, component: str) -> list[bytes]:
        """PNGs: before, after, difference."""
        images = [n for n in self.all("img") if n.attributes["alt"].startswith(f"{component}: ")]
        return [decoded_uri(n.attributes["src"]) for n in images]


class Reader(HTMLParser):
    """Takes a page apart, and insists that every element is closed."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page(source)
        self.open: list[Node] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, tuple(self.open))
        self.page.nodes.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop().tag == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.nodes.append(Node(tag, {name: value or "" for name, value in attrs}, tuple(self.open)))

    def handle_data(self, data: str) -> None:
        for node in self.open:
            node.parts.append(data)


def read_page(path: Path) -> Page:
    reader = Reader(path.read_text("utf-8"))
    assert [node.tag for node in reader.open] == []
    return reader.page


def page_of(original: Path, candidate: Path, *args: object, code: int = 0) -> Page:
    """The page that the command writes."""
    path = candidate.with_suffix(".html")
    ran = ckptool("verify", original, candidate, "-q", "--report", path, *args)
    assert ran.code == code, (ran.code, ran.err)
    return read_page(path)


def decoded_uri(uri: str) -> bytes:
    from base64 import b64decode

    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return b64decode(data, validate=True)


def pixels(data: bytes) -> Any:
    """Rows, columns and channels of a PNG whose lines are not filtered, each chunk held against its sum."""
    import numpy

    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (total,) = struct.unpack_from(">I", data, at + 8 + length)
        assert total == zlib.crc32(kind + body)
        found[kind] = body
        at += 12 + length
    assert list(found) == [b"IHDR", b"IDAT", b"IEND"]
    columns, rows, depth, colour, *rest = struct.unpack(">IIBBBBB", found[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    lines = numpy.frombuffer(zlib.decompress(found[b"IDAT"]), "u1").reshape(rows, 1 + columns * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(rows, columns, channels)
