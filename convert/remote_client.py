"""One HTTP request and its answer: connections that are kept, proxies, time limits, and what broke in words."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ckptool import __version__
from ckptool.address import is_loopback
from ckptool.convert.remote_patience import Passing, Patience

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

CONNECTIONS = 64
"""As many as there can be readers at once: more would be closed after each answer."""
PIECE = 1 << 18


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
                    maxsize=CONNECTIONS,
                    timeout=timeout,
                    headers=agent,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=auth),
                )
            else:
                self._managers[proxy] = urllib3.PoolManager(maxsize=CONNECTIONS, timeout=timeout, headers=agent)
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
        case urllib3.exceptions.NewConnectionError() | ConnectionRefusedError():
            return "its host takes no connection"
        case urllib3.exceptions.ConnectTimeoutError() | urllib3.exceptions.ReadTimeoutError() | TimeoutError():
            return "its host does not answer"
        case urllib3.exceptions.SSLError():
            return "the certificate of its host is not valid here"
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
