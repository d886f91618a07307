"""Ranges of a file over HTTP: redirects, answers that are not what was asked for, and what is worth another try."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ckptool import __version__
from ckptool.address import is_loopback
from ckptool.convert.remote_bytes import Part, Passing, Patience
from ckptool.errors import CkptoolError, Truncated, Unreachable, UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 8
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What the address that a redirect gave answers when its time is over."""
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
EMPTY = re.compile(r"bytes \*/0")
SECONDS = re.compile(r"\d{1,9}")
CHANGED = "it was changed on the other machine: run it again"
PIECE = 1 << 18

Explain = Callable[[int, Mapping[str, str]], CkptoolError | None]
"""What a status means where the other side is known; None leaves it to `refusal`."""


def nothing_known(_: int, __: Mapping[str, str]) -> None:
    return None


@dataclass(slots=True, eq=False)
class Http:
    """Requests to any host, over connections that are kept. Used by several threads at once."""

    patience: Patience
    _managers: dict[str, "PoolManager"] = field(default_factory=dict)

    def get(self, url: str, headers: Mapping[str, str]) -> "BaseHTTPResponse":
        """One request, no redirect followed, nothing of the body read. Raises Passing."""
        import urllib3

        try:
            return self._manager(url).request(
                "GET", url, headers=headers, preload_content=False, decode_content=False, redirect=False, retries=False
            )
        except urllib3.exceptions.LocationValueError:
            raise Unreachable("an address that is none", "check it") from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Passing(reason(error)) from error

    def _manager(self, url: str) -> "PoolManager":
        """Through a proxy where the environment names one."""
        from urllib.request import getproxies, proxy_bypass

        import urllib3

        parts = urlsplit(url)
        host = parts.hostname or ""
        proxy = "" if is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme, "")
        if proxy not in self._managers:
            patience = self.patience.timeout
            timeout = urllib3.Timeout(connect=patience, read=patience)
            agent = {"user-agent": f"ckptool/{__version__}"}
            if proxy:
                login = urlsplit(proxy).username
                auth = f"{login}:{urlsplit(proxy).password or ''}" if login else None
                self._managers[proxy] = urllib3.ProxyManager(
                    proxy,
                    maxsize=32,
                    timeout=timeout,
                    headers=agent,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=auth),
                )
            else:
                self._managers[proxy] = urllib3.PoolManager(maxsize=32, timeout=timeout, headers=agent)
        return self._managers[proxy]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.clear()


def reason(error: BaseException) -> str:
    """What broke, in words that hold no address: those of redirects open what they lead to."""
    import urllib3

    match error:
        case urllib3.exceptions.NameResolutionError():
            return "its host has no address (no network, or no such host)"
        case urllib3.exceptions.ConnectTimeoutError() | urllib3.exceptions.ReadTimeoutError() | TimeoutError():
            return "its host does not answer"
        case urllib3.exceptions.SSLError():
            return "the certificate of its host is not valid here"
        case urllib3.exceptions.NewConnectionError() | ConnectionRefusedError():
            return "its host takes no connection"
        case urllib3.exceptions.ProxyError():
            return "the proxy gives no connection"
        case _:
            return "the connection broke"


@dataclass(slots=True, eq=False)
class HttpPart:
    """The body of one answer, exactly as long as it was asked for."""

    response: "BaseHTTPResponse"
    left: int
    patience: Patience
    started: float = field(default_factory=time.monotonic)
    taken: int = 0

    def take(self, buffer: memoryview) -> int:
        data = self.next(min(len(buffer), self.left))
        if not data:
            raise Passing("the connection broke before the end")
        buffer[: len(data)] = data
        if not self.left and self.response.headers.get("content-length") is None and self.next(1):
            raise Passing("its host sends more than was asked for")
        return len(data)

    def next(self, most: int) -> bytes:
        """At most so many bytes, as they come; none at the end."""
        import urllib3

        try:
            data = self.response.read1(min(most, PIECE), decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Passing(reason(error)) from error
        self.left -= len(data)
        self.taken += len(data)
        passed = time.monotonic() - self.started
        if passed > self.patience.timeout and self.taken < passed * self.patience.slowest:
            raise Passing(f"its host sends less than {self.patience.slowest:,} bytes a second")
        return data

    def rest(self) -> Iterator[bytes]:
        """All that comes, until there are more than `left` bytes: of an answer whose length is not known."""
        while self.left > 0 and (data := self.next(self.left)):
            yield data

    def close(self) -> None:
        """A connection in which something is left is not used again."""
        self.response.close()

    def shut(self) -> None:
        with suppress(OSError, ValueError, AttributeError, RuntimeError):  # it may be done already
            self.response.shutdown()


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
        target = urljoin(here, location)
        try:
            before, after = urlsplit(here), urlsplit(target)
            good = bool(location and after.hostname) and "@" not in after.netloc
            local = before.scheme == "http" and is_loopback(before.hostname or "")
            good = good and (after.scheme == "https" or (after.scheme == "http" and local))
            good = good and (local or not is_loopback(after.hostname or ""))
        except ValueError:
            good = False
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
