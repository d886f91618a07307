"""Ranges of a file over HTTP: redirects, answers that are not what was asked for, and what is worth another try."""

import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ckptool.address import is_loopback, is_private
from ckptool.convert.remote_bytes import Part
from ckptool.convert.remote_client import Http, HttpPart
from ckptool.convert.remote_patience import Passing
from ckptool.errors import CkptoolError, Truncated, Unreachable, UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 8
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What the address that a redirect gave answers when its time is over."""
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
EMPTY = re.compile(r"bytes \*/0")
SECONDS = re.compile(r"\d{1,9}")
CHANGED = "it was changed on the other machine: run it again"

Explain = Callable[[int, Mapping[str, str]], CkptoolError | None]
"""What a status means where the other side is known; None leaves it to `refusal`."""


def nothing_known(_: int, __: Mapping[str, str]) -> None:
    return None


class HttpOrigin:
    """One file at one address; where that redirects to is kept until it is no longer good."""

    def __init__(
        self, http: Http, url: str, label: str, headers: Mapping[str, str], explain: Explain = nothing_known
    ) -> None:
        """`headers` go to the host of `url` alone, and no further than to the first other one."""
        self.http = http
        self.url = url
        self.label = label
        self.headers = headers
        self.explain = explain
        self.size: int | None = None
        self.linked: dict[str, str] = {}
        """What the first host says of the file that it redirects to: it has to stay."""
        self._target = ""
        self._versions: dict[str, str] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self.http.close()

    @property
    def version(self) -> str:
        """As the host that sends the bytes calls the one that it sent; empty where it does not."""
        return next(iter(self._versions.values()), "")

    def check_unchanged(self) -> None:
        """Every answer was held against the first one."""

    def part(self, offset: int, length: int) -> Part:
        assert self.size is not None  # `first` came before
        response = self.answer(range_of(offset, length))
        try:
            if response.status != 206:
                raise self.not_partial(response)
            self.check_range(response, offset, length)
        except BaseException:
            response.close()
            raise
        return HttpPart(response, length, self.http.patience)

    def first(self, length: int) -> "BaseHTTPResponse":
        """The answer to a request for the first bytes: 206 or, of an empty file, 416, with `size` known; else 200."""
        response = self.answer(range_of(0, length))
        try:
            if response.status == 206:
                found = RANGE.fullmatch(response.headers.get("content-range", ""))
                self.size = int(found[3]) if found else None
                self.check_range(response, 0, min(length, self.size or 0))
            elif response.status == 416 and EMPTY.fullmatch(response.headers.get("content-range", "")):
                self.size = 0
            elif response.status != 200:
                raise self.refusal(response)
        except BaseException:
            response.close()
            raise
        return response

    def whole(self, most: int) -> tuple[bytes, Mapping[str, str]]:
        """A small answer (a list, a record) with its headers. Raises Unreachable for one of more than `most` bytes."""
        response = self.answer({})
        try:
            part = HttpPart(response, most + 1, self.http.patience)
            data = b"".join(part.rest())
        finally:
            response.close()
        if len(data) > most:
            raise Unreachable(f"{self.label}: its host answers with more than {most:,} bytes", "check the address")
        return data, response.headers

    def answer(self, own: Mapping[str, str]) -> "BaseHTTPResponse":
        """The answer behind all redirects: 200, 206 or 416. Raises Passing, or what is final."""
        own = {**own, "accept-encoding": "identity"}
        kept = self._target
        target, secret = kept or self.url, {} if kept else dict(self.headers)
        for _ in range(MAX_REDIRECTS + 1):
            response = self.http.get(target, own | secret)
            if response.status not in REDIRECTS:
                break
            following = self.following(target, response)
            if origin_of(following) != origin_of(self.url):
                secret = {}
            target = following
        else:
            raise Unreachable(f"{self.label}: is redirected more than {MAX_REDIRECTS} times", "check the address")
        if kept and response.status in EXPIRED:
            response.close()
            self._target = ""
            raise Passing("the address that it was redirected to is no longer good", 0.0)
        if response.status not in (200, 206, 416):
            response.close()
            raise self.refusal(response)
        if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            response.close()
            raise Unreachable(f"{self.label}: its host sends it compressed", "download it first, then give its path")
        self._target = "" if origin_of(target) == origin_of(self.url) else target
        return response

    def following(self, here: str, response: "BaseHTTPResponse") -> str:
        """Where a redirect leads. Raises Unreachable where nobody may be led, or when another file stands there now."""
        location = response.headers.get("location", "")
        stated = {
            name: response.headers[name]
            for name in ("x-linked-etag", "x-linked-size", "x-repo-commit")
            if name in response.headers
        }
        response.close()
        try:
            target = urljoin(here, location)
            before, after = urlsplit(here), urlsplit(target)
            good = bool(location and after.hostname) and "@" not in after.netloc
            local = before.scheme == "http" and is_loopback(before.hostname or "")
            back = is_loopback(after.hostname or "")
            good = good and is_private(after) and (local or not back)
        except ValueError:
            good, target = False, ""
        if not good or not target.isascii():
            raise Unreachable(f"{self.label}: is redirected to where nothing is read from", "check the address")
        if here == self.url:
            with self._lock:
                if any(self.linked.setdefault(name, value) != value for name, value in stated.items()):
                    raise Unreachable(f"{self.label}: is another file than before", CHANGED)
        return target

    def check_range(self, response: "BaseHTTPResponse", offset: int, length: int) -> None:
        """Raises Unreachable when the answer is not the range of the file that was asked for."""
        found = RANGE.fullmatch(response.headers.get("content-range", ""))
        stated = response.headers.get("content-length")
        host = urlsplit(self._target or self.url).netloc
        version = response.headers.get("etag") or response.headers.get("last-modified") or ""
        with self._lock:
            first = self._versions.setdefault(host, version)
        if found is None or (int(found[1]), int(found[2])) != (offset, offset + length - 1):
            raise Unreachable(
                f"{self.label}: its host sends another range than was asked for",
                "download it first, then give its path",
            )
        if stated is not None and int_of(stated) != length:
            raise Unreachable(f"{self.label}: its host sends more or less than it says", "download it first")
        linked = self.linked.get("x-linked-size")
        if int(found[3]) != self.size or version != first or (linked is not None and int_of(linked) != self.size):
            raise Unreachable(f"{self.label}: is another file than before", CHANGED)

    def not_partial(self, response: "BaseHTTPResponse") -> CkptoolError:
        if response.status == 416:
            return Truncated(f"{self.label}: is shorter than before", CHANGED)
        return Unreachable(f"{self.label}: is another file than before, or its host stopped giving ranges", CHANGED)

    def refusal(self, response: "BaseHTTPResponse") -> CkptoolError | Passing:
        """What a status that is no answer means."""
        status = response.status
        if status in PASSING:
            wait = response.headers.get("retry-after", "")
            return Passing(f"its host answers with {status}", float(wait) if SECONDS.fullmatch(wait) else None)
        known = self.explain(status, response.headers)
        if known is not None:
            return known
        if status in (401, 403):
            return UsageError(f"{self.label}: needs a login ({status})", "download it with its site's own tool first")
        if status in (404, 410):
            return UsageError(f"{self.label}: there is no such file ({status})", "check the address")
        return Unreachable(f"{self.label}: its host answers with {status}", "check the address")


def range_of(offset: int, length: int) -> dict[str, str]:
    return {"range": f"bytes={offset}-{offset + length - 1}"}


def origin_of(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def int_of(text: str | None) -> int:
    """A length as a header states it, -1 when it states none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else -1
