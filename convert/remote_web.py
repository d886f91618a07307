"""Files of web servers: opened by ranges, or taken whole where they are small and the server knows no ranges."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from ckptool.address import ENDINGS, Address
from ckptool.convert.remote import Place, Stated
from ckptool.convert.remote_bytes import Remote
from ckptool.convert.remote_client import Http, HttpPart
from ckptool.convert.remote_http import HttpOrigin, int_of
from ckptool.convert.remote_patience import Patience, patiently
from ckptool.errors import Unreachable
from ckptool.source import File
from ckptool.text import escape, size

HEAD = 1 << 16
"""Bytes that the first request asks for: a small file, or what tells a large one's kind and size."""
MOST_WHOLE = 1 << 26
"""A file up to this size is taken whole from a host that gives no ranges."""
HUB = "https://huggingface.co"
PAGE = re.compile(r"/([\w.-]+/[\w.-]+)/(?:resolve|blob|raw)/([^/]+)/(.+)")
LIST = re.compile(r"/([\w.-]+/[\w.-]+)(?:/tree/([^/]+)(?:/(.*?))?)?/*")


def endpoint() -> str:
    """Where the Hub is: the address that its own tools take as well."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def hub_address(address: Address) -> Address | None:
    """The same on the Hub, where an address is that of a file's page or download, or of the list of a repository."""
    parts, hub = address.parts, urlsplit(endpoint())
    page = PAGE.fullmatch(parts.path) or (None if parts.path.endswith(ENDINGS) else LIST.fullmatch(parts.path))
    if page is None or (parts.scheme, parts.netloc.lower()) != (hub.scheme, hub.netloc.lower()):
        return None
    revision, path = page[2] and f"@{page[2]}", page[3] and f"/{unquote(page[3])}"
    return Address(f"hf://{page[1]}{revision or ''}{path or ''}")


def web_place(address: Address) -> Place:
    whole, _, query = address.url.partition("?")
    folder, _, name = whole.rpartition("/")
    return Place(Web(folder, name, query), name)


@dataclass(slots=True, eq=False)
class Web:
    """A folder of a web server, of which nobody knows what is in it."""

    folder: str
    given: str
    query: str
    patience: Patience = field(default_factory=Patience)

    def label(self, path: str) -> str:
        return str(Address(self.url(path)))

    def origin(self) -> tuple[str, str]:
        return self.url(self.given), ""

    def files(self) -> Mapping[str, Stated] | None:
        return None

    def stated(self, path: str) -> Stated:
        """By the first answer to a request for the file itself: nobody else can be asked."""
        with self.open(path) as file:
            return stated_of(file)

    def url(self, path: str) -> str:
        if path != self.given:
            return f"{self.folder}/{quote(path)}"  # a name that stands in an index, and may be any text
        return f"{self.folder}/{path}" + (f"?{self.query}" if self.query else "")

    def open(self, path: str) -> Remote | File:
        label = escape(self.label(path), 1000)
        return opened(HttpOrigin(Http(self.patience), self.url(path), label, {}), self.patience)


def stated_of(file: Remote | File) -> Stated:
    """What the host of an open file said of it; one that was taken whole has no version."""
    origin = file.origin if isinstance(file, Remote) else None
    return Stated(file.size, origin.version if isinstance(origin, HttpOrigin) else "")


def opened(origin: HttpOrigin, patience: Patience) -> Remote | File:
    """The file at an address. Raises UsageError when there is none, Unreachable when it is not to be had."""
    return patiently(lambda: opened_once(origin, patience), origin.label, patience)


def opened_once(origin: HttpOrigin, patience: Patience) -> Remote | File:
    response = origin.first(HEAD)
    try:
        if response.status == 200:
            return taken_whole(HttpPart(response, MOST_WHOLE + 1, patience), origin)
        assert origin.size is not None
        remote = Remote(origin, origin.label, origin.size, patience)
        if origin.size:
            part = HttpPart(response, min(HEAD, origin.size), patience)
            remote.keep(0, b"".join(part.rest()))
            remote.asked = HEAD
        return remote
    finally:
        response.close()


def taken_whole(part: HttpPart, origin: HttpOrigin) -> File:
    """A small file in an unnamed temporary one."""
    refusal = Unreachable(
        f"{origin.label}: its host gives no ranges, and more than {size(MOST_WHOLE)} are not taken whole",
        "download it first, then give its path",
    )
    if int_of(part.response.headers.get("content-length")) > MOST_WHOLE:
        raise refusal
    with tempfile.TemporaryFile() as spool:
        for data in part.rest():
            spool.write(data)
        if part.taken > MOST_WHOLE:
            raise refusal
        spool.flush()
        return File.adopt(spool.fileno(), origin.label)
