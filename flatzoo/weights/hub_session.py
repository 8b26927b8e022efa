"""Watches the session of `huggingface_hub`: answers that are not from a Hub, long waits, and missing answers.

The client sleeps as long as `Retry-After` says, waits for an answer without a limit, takes a login page for a success,
and makes paths of the cache from the ETag that a server sends. Hooks on its session check each answer before the client
sees it.
"""
import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import get_session

__all__ = ['PORTAL', 'HubError', 'HubUnwell', 'Watch', 'deadline', 'guard_session', 'within']

LONGEST_WAIT = 60  # seconds that a server may ask the client to wait before it tries again
ATTEMPTS = 3  # how often a request is sent that is not answered in time

_logger = logging.getLogger(__name__)
PORTAL = 'log in to this network (a captive portal) if it asks for that, or check HF_ENDPOINT and the proxy'


class HubError(OSError):
    """Files cannot be downloaded from the Hub or sent to it. The message says what to do."""


class HubUnwell(HubError):
    """The Hub cannot be reached or fails. Cached files may be used instead."""


def deadline() -> float:
    """Seconds in which the Hub must answer a first request. `HF_HUB_ETAG_TIMEOUT` sets them."""
    return constants.HF_HUB_ETAG_TIMEOUT


def within(seconds: float | None, call: Callable[[], Any], tick: Callable[[float], None] | None = None) -> Any:
    """The result of a call with a time limit. (Looking up the name of a host has no time limit of its own.)

    Args:
        seconds: Time limit. None for no limit.
        call: What to call, in a thread.
        tick: Called several times a second with the seconds that have passed.

    Raises:
        TimeoutError: If the call takes longer. Its thread is not stopped.
        Exception: What the call raises.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    start = time.monotonic()
    thread.start()
    while thread.is_alive() and not outcome:
        passed = time.monotonic() - start
        left = None if seconds is None else seconds - passed
        if left is not None and left <= 0:
            break
        if tick is not None:
            tick(passed)
            left = 0.2 if left is None else min(left, 0.2)
        thread.join(left)
    if not outcome:
        raise TimeoutError(f'no answer within {seconds:g} s')
    worked, value = outcome[0]
    if worked:
        return value
    raise value


def guard_session() -> Any:
    """Adds `_check_answer` to the client's present session, which may be a new one, and returns the session."""
    session = get_session()
    hooks = session.event_hooks
    if _check_answer not in hooks['response']:
        session.event_hooks = {**hooks, 'response': [*hooks['response'], _check_answer]}
    return session


class Watch:
    """While it is open, requests to the Hub have a deadline, and long steps report that they still run.

        with Watch('org/name') as watch:
            watch.step('asking for its branches', lambda: api.list_repo_refs('org/name'), 30)

    Args:
        what: Name of the work in messages.

    Attributes:
        sent_commit: Whether a commit was sent. It may have arrived even if no answer came.
    """

    def __init__(self, what: str):
        self.what, self.sent_commit = what, False
        self.patience = 6 * deadline()  # seconds without a byte of an answer; some requests take a Hub long
        self._asked: dict[tuple[str, str], tuple[float, int]] = {}
        self._sessions: list[tuple[Any, Any]] = []
        self._workers: set[threading.Thread] = set()
        self._ended = False

    def __enter__(self) -> 'Watch':
        self._attach()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._ended = True
        for session, timeout in self._sessions:
            session.timeout = timeout
            if not any(worker.is_alive() for worker in self._workers):
                hooks = session.event_hooks
                session.event_hooks = {**hooks, 'request': [hook for hook in hooks['request'] if hook != self._before]}

    def step(self, name: str, call: Callable[[], Any], seconds: float | None = None) -> Any:
        """Does one step, see `within`. It reports every 15 seconds that the step still runs.

        Raises:
            TimeoutError: If it takes longer than `seconds`.
            Exception: What the call raises.
        """
        said = 0

        def work() -> Any:
            self._workers.add(threading.current_thread())
            return call()

        def tick(passed: float) -> None:
            nonlocal said
            self._attach()
            if passed >= 15 * (said + 1):
                said = int(passed // 15)
                _logger.warning(f'{self.what}: {name}, {passed:.0f} s so far ...')

        try:
            return within(seconds, work, tick)
        except TimeoutError as error:
            raise TimeoutError(f'{name}: {error}') from error

    def _attach(self) -> None:
        session = guard_session()
        if any(known is session for known, _ in self._sessions):
            return
        self._sessions.append((session, session.timeout))
        session.timeout = (deadline(), self.patience, self.patience, None)  # connect, read, write, pool
        hooks = session.event_hooks
        session.event_hooks = {**hooks, 'request': [*hooks['request'], self._before]}

    def _before(self, request: Any) -> None:
        if self._ended:
            if threading.current_thread() in self._workers:  # after Ctrl-C it must stop, and above all not commit
                raise HubError('the push was given up')
            return
        if request.method == 'POST' and '/commit/' in request.url.path:
            self.sent_commit = True
        first, count = self._asked.get((request.method, str(request.url)), (time.monotonic(), 0))
        self._asked[request.method, str(request.url)] = first, count + 1
        passed = time.monotonic() - first
        if count >= ATTEMPTS and passed > self.patience:
            raise HubUnwell(f'{request.url.host} did not answer {count} times in {passed:.0f} s. Try again later.')


def _check_answer(response: Any) -> None:
    """Checks the headers of an answer before the client uses them.

    Raises:
        HubError: The answer would make the client write outside of its cache.
        HubUnwell: The answer asks for a long wait, or is not from a Hub.
    """
    request, headers, status = response.request, response.headers, response.status_code
    if request.method == 'HEAD':  # the client names files and folders of its cache after these
        for name in ('ETag', 'X-Linked-Etag', 'X-Repo-Commit'):
            value = headers.get(name, '').removeprefix('W/').strip('"')
            if re.search(r'[/\\\x00-\x1f]', value) or value in ('.', '..') or len(value) > 200:
                raise HubError(
                    f'{request.url.host} states {value[:80]!r} as {name}, which is the path of a file and no digest. '
                    'It was not followed. Do not use this server.')
    wait = _asked_to_wait(headers) if status >= 400 else 0
    if wait > LONGEST_WAIT:
        raise HubUnwell(
            f'{request.url.host} answers with error {status} and asks to wait for {_duration(wait)}. Try again then.')
    if status == 511:
        raise HubUnwell(f'{request.url.host} cannot be reached: the network asks to log in first (error 511).')
    is_page = headers.get('Content-Type', '').lower().startswith(('text/html', 'application/xhtml'))
    if status < 300 and is_page and (request.method not in ('GET', 'HEAD') or '/api/' in request.url.path):
        raise HubUnwell(f'{request.url.host} answers with a web page, as no Hub does: {PORTAL}.')


def _asked_to_wait(headers: Any) -> float:
    """Seconds until a server accepts the next request, from `Retry-After`, or from `RateLimit` if nothing is left."""
    text = headers.get('Retry-After', '').strip()
    if text.isdecimal():
        return min(float(text), 1e9)
    with contextlib.suppress(TypeError, ValueError, IndexError):  # a date, which the client itself ignores
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    left = re.search(r'"\w+"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})', headers.get('ratelimit', ''))
    return float(left[1]) if left else 0


def _duration(seconds: float) -> str:
    for size, unit in ((86400, 'day'), (3600, 'hour'), (60, 'minute')):
        if seconds >= size:
            count = round(seconds / size)
            return f'{count} {unit}{"s" * (count > 1)}'
    return f'{seconds:.0f} seconds'
