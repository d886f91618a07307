"""A commit to the Hub as a pull request: by the Hub's own library, which is kept silent and does not wait for ever."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ckptool.address import is_private
from ckptool.convert.remote_http import PASSING, SECONDS, origin_of
from ckptool.convert.remote_hub import LOGIN, Hub
from ckptool.convert.remote_patience import Passing
from ckptool.errors import CkptoolError, Refused, Unreachable
from ckptool.sanitize.pull.files import Offer
from ckptool.text import escape

TIMES = {"connect": 30.0, "write": 60.0, "read": 300.0, "pool": 30.0}
"""Seconds of silence. The Hub puts the parts of a large file together before it answers."""
LONGEST = 60
"""More seconds than this are not waited, whoever asks for them."""
AGAIN = "outputs and receipts stay: run it again later, and it only opens the pull request"
RESET = re.compile(r";\s*t\s*=\s*(\d{1,9})")


def send(hub: Hub, token: str, title: str, body: str, offers: list[Offer]) -> int:
    """The number of the pull request. Raises Passing where it may work the next time, else what is final.

    Files go in pieces, whatever their size. What was sent in an earlier attempt is not sent again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    endpoint = hub.checked_endpoint()
    with guarded(endpoint):
        files = [CommitOperationAdd(offer.goal, str(offer.output)) for offer in offers]
        for file, offer in zip(files, offers, strict=True):
            check_bytes(file.upload_info.sha256.hex(), offer)
        try:
            made = HfApi(endpoint, token).create_commit(
                hub.repo, files, commit_message=title, commit_description=body, parent_commit=hub.commit,
                create_pr=True, num_threads=2,
            )  # fmt: skip
        except Exception as error:  # of four libraries, and what they make of an answer that is none
            raise meaning(hub, error, token) from error
    if made.pr_num is None:
        raise Refused(f"{hub.label('')}: the Hub made no pull request of it", "check the repository's settings")
    return int(made.pr_num)


def check_bytes(sha256: str, offer: Offer) -> None:
    """Raises Refused for bytes that nobody proved."""
    if sha256 != offer.sha256:
        raise Refused(
            f"{escape(str(offer.output), 1000)}: is not what its receipt says", "sanitize its source again with --force"
        )


@contextmanager
def guarded(endpoint: str) -> Iterator[None]:
    """The library of the Hub, for a time: silent, since addresses to upload to hold signatures; patient, not for ever;
    and with the token for the Hub alone."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    def client() -> Any:
        made: Any = _http.default_client_factory()
        made.timeout = type(made.timeout)(**TIMES)
        made.event_hooks = {
            "request": [*made.event_hooks["request"], lambda request: check_request(request, endpoint)],
            "response": [*made.event_hooks["response"], check_response],
        }
        return made

    logger, bars = logging.getLogger("huggingface_hub"), not are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    disable_progress_bars()
    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(_http.default_client_factory)
        logger.setLevel(level)
        if bars:
            enable_progress_bars()


def check_request(request: Any, endpoint: str) -> None:
    """Before it is sent. Raises Unreachable where the bytes would go over an open wire."""
    url = str(request.url)
    if not is_private(urlsplit(url)):
        raise Unreachable("the Hub wants the files sent over an open connection", "check HF_ENDPOINT")
    if origin_of(url) != origin_of(endpoint):
        request.headers.pop("authorization", None)


def check_response(response: Any) -> None:
    """Raises Unreachable where the library would sleep for longer than anybody waits."""
    asked = response.headers.get("retry-after", "")
    reset = RESET.search(response.headers.get("ratelimit", ""))
    waits = [int(asked)] if SECONDS.fullmatch(asked) else []
    waits += [int(reset[1])] if reset and response.status_code == 429 else []
    if response.status_code in PASSING and max(waits, default=0) > LONGEST:
        raise Unreachable(f"it answers with {response.status_code}", f"run it again in {max(waits):,} s")


def meaning(hub: Hub, error: Exception, token: str) -> CkptoolError | Passing:
    """What an error of the library says, in words without addresses."""
    label = escape(hub.label(""), 1000)
    causes = list(chain(error))
    for cause in causes:
        if isinstance(cause, CkptoolError):
            return type(cause)(f"{label}: no pull request: {cause.message}", cause.hint)
    answered = next((cause for cause in causes if status_of(cause)), None)
    if answered is None:
        return unanswered(label, error, causes)
    status, request = status_of(answered), urlsplit(str(answered.response.request.url))  # type: ignore[attr-defined]
    if status in PASSING and "/commit/" in request.path:
        asked = answered.response.headers.get("retry-after", "")  # type: ignore[attr-defined]
        return Passing(f"the Hub answers with {status}", float(asked) if SECONDS.fullmatch(asked) else None)
    if status in PASSING:
        return Unreachable(f"{label}: no pull request: the Hub answers with {status}", AGAIN)
    if origin_of(request.geturl()) != origin_of(hub.checked_endpoint()):
        return Passing(f"the host that keeps its files answers with {status}")  # what it signed has a time
    said = escape(getattr(answered, "server_message", None) or "", 300).replace(token, "…")
    message = f"{label}: the Hub makes no pull request of it ({status}{': ' if said else ''}{said})"
    if status in (401, 403):
        return Refused(message, f"{LOGIN}; its token has to be one that may write or open pull requests")
    return Refused(message, AGAIN)


def unanswered(label: str, error: Exception, causes: list[BaseException]) -> CkptoolError | Passing:
    """Where no status came back. The library asks again by itself for all but the commit."""
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    if not names & {"TransportError", "ConnectionError", "TimeoutError"}:
        return Unreachable(f"{label}: no pull request: {type(error).__name__} of the Hub's library", AGAIN)
    if isinstance(error, RuntimeError):  # in which it wraps what happens to a file
        return Unreachable(f"{label}: no pull request: the connection broke, again and again", AGAIN)
    if any(type(cause) is ConnectionError for cause in causes):  # Python's own, as the part for Xet raises it
        return Passing("the connection broke where files are sent by Xet: HF_HUB_DISABLE_XET=1 sends them by plain LFS")
    return Passing("the connection broke")


def status_of(error: BaseException) -> int:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status if isinstance(status, int) else 0


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
