"""What a SRC names: a path on this machine, or an address on another one."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from ckptool.errors import UsageError
from ckptool.text import CUT, escape

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SCHEMES = ("hf", "https", "http", "s3")
MAX_LENGTH = 8192
LOGIN = re.compile(r"(?<=://)[^/?#]*@")
NO_NAMES = frozenset({"", ".", ".."})
"""Parts of a path that are the name of no file."""
# What no file's name has on any system; the name becomes that of the output.
FORBIDDEN = frozenset('/\\:*?"<>|')
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".index.json")
# Revisions of pull requests and conversions have slashes of their own; in any other a slash is written as %2F.
HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/@]+))?(?:/+(.*?))?/*")


@dataclass(frozen=True, slots=True)
class Address:
    """A source on another machine. Nothing is asked of that machine before the source is read."""

    url: str
    """With everything that was given: never shown, since a query may hold a password."""

    def __str__(self) -> str:
        """As it was given, but for its query."""
        plain, mark, _ = self.url.partition("?")
        return plain + (mark and mark + CUT)

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def name(self) -> str:
        """The last part of it, fit to be the name of a file."""
        whole = self.url.partition("?")[0]
        if self.scheme == "hf" and (hub := HUB.fullmatch(whole)):
            whole = hub[3] or hub[1]
        last = unquote(whole.rstrip("/").rpartition("/")[2])
        safe = "".join("_" if c in FORBIDDEN or not c.isprintable() else c for c in last).lstrip(". ")
        return safe.encode("utf-8", "replace")[:200].decode("utf-8", "ignore") or "model"

    @property
    def stem(self) -> str:
        """The name without the ending of a model's file; a version's dot, as in `sd-v1.5`, is part of it."""
        ending = next((ending for ending in ENDINGS if self.name.endswith(ending)), "")
        return self.name.removesuffix(ending) or self.name

    def is_file(self) -> bool:
        """Not on this machine, whatever it is there."""
        return False

    def is_dir(self) -> bool:
        return False


Source = Path | Address


def source_of(text: str) -> Source:
    """A path, or an address where it begins with a scheme. Raises UsageError for one that cannot be read."""
    scheme = SCHEME.match(text)
    if scheme is None:
        return Path(text)
    shown = escape(LOGIN.sub(CUT + "@", text.partition("?")[0]), 1000)
    name = scheme[1].lower()
    if name not in SCHEMES:
        raise UsageError(
            f"{shown}: nothing is read from {name}://",
            f"give a path, or {', '.join(s + '://…' for s in SCHEMES if s != 'http')}",
        )
    address = Address(name + text[len(scheme[1]) :])
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise UsageError(f"{shown}: is no address", "check it")
    if name in ("http", "https"):
        return checked_web(address, shown)
    if name == "hf" and not HUB.fullmatch(address.url):
        raise UsageError(f"{shown}: is no address of a model", "write it as hf://owner/repo@revision/path")
    return address


def checked_web(address: Address, shown: str) -> Address:
    """Raises UsageError for a login in the address, and for bytes that anybody on the way could change."""
    if not address.url.isascii() or " " in address.url:
        raise UsageError(f"{shown}: is no address", "write other characters than plain ones as %XX")
    try:
        parts = address.parts
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise UsageError(f"{shown}: is no address", "write it as https://host/path")
    if "@" in parts.netloc:
        raise UsageError(f"{shown}: holds a login, which would stand in logs and histories", "leave it out")
    if not is_private(parts):
        raise UsageError(f"{shown}: what comes over http can be changed on the way", "use https")
    return Address(address.url.partition("#")[0])


def is_private(parts: SplitResult) -> bool:
    """Whether nobody on the way can read along, or change anything: https, or http within this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
