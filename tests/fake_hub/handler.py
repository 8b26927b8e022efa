"""The HTTP side of the Hub of server.py: requests, answers, files and ranges, accounts, and what can go wrong."""
import dataclasses
import json
import re
import secrets
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

API = r'/api/(models|datasets|spaces)/([^/]+(?:/[^/]+)??)'  # kind and id of a repository


@dataclasses.dataclass
class Fault:
    """Something that goes wrong. The first fault that fits a request acts on it.

    Args:
        match: Regular expression, searched in 'METHOD /path'.
        times: How many requests it acts on; None is every one.
        delay: Seconds before the answer.
        status: Answers with this status and does nothing.
        headers: Headers of that answer.
        answer: Answers with this (content type, text) and status 200 and does nothing, as a captive portal does.
        etag: What the head of a file states as its ETag.
        drop: The connection breaks: 'before' the request acts, or 'after', when only its answer is lost.
        cut: The connection breaks at this byte of the file, whatever range was asked for.
        truncate: The file ends at this byte, as if that were its size.
        flip: The byte at this position arrives with one bit changed.

    The last three act where bytes of files go out: 'GET .*model.safetensors'. With Xet that is 'GET .*xet-read-token';
    there, positions are those in Xet's own storage, and `cut` does nothing.
    """
    match: str = ''
    times: int | None = None
    delay: float = 0.
    status: int | None = None
    headers: dict | None = None
    answer: tuple[str, str] | None = None
    etag: str | None = None
    drop: str | None = None
    cut: int | None = None
    truncate: int | None = None
    flip: int | None = None


class HubError(Exception):
    """An answer that is an error: status, message, the Hub's error code, further headers and fields of the body."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **body):
        super().__init__(message)
        self.status = status
        self.headers = {'X-Error-Message': message, **({'X-Error-Code': code} if code else {}), **(headers or {})}
        self.body = {'error': message, **body}


ROUTES: list[tuple[str, re.Pattern, str]] = []


def route(method: str, pattern: str):
    """Registers a method of the handler for a path; the groups of the pattern, unquoted, become its arguments."""
    def register(function):
        ROUTES.append((method, re.compile(pattern + '$'), function.__name__))
        return function
    return register


class Handler(BaseHTTPRequestHandler):
    """Finds the function for a request, knows who asks, and sends answers."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    hub = None  # the HubServer, set in a subclass

    # what is common to all requests

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *args):
        pass

    def serve(self):
        url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}
        self.user = self.role = None
        self.unread = int(self.headers.get('Content-Length') or 0)
        self.chunked = 'chunked' in self.headers.get('Transfer-Encoding', '')
        self.fault = self.hub.fault_of(f'{self.command} {unquote(url.path)}')
        self.answered = False
        try:
            if self.fault.delay:
                time.sleep(self.fault.delay)
            if self.fault.drop == 'before':
                self.rfile.read(self.unread // 2)
                raise ConnectionError('a fault')
            if self.fault.status:
                raise HubError(self.fault.status, 'A fault of the test Hub', headers=self.fault.headers)
            if self.fault.answer:
                kind, text = self.fault.answer
                self.head(200, {'Content-Type': kind, 'Content-Length': len(text.encode())})
                if self.command != 'HEAD':
                    self.wfile.write(text.encode())
                return
            self.authenticate()
            for method, pattern, name in ROUTES:
                match = pattern.match(url.path)
                if match and (method == self.command or (method, self.command) == ('GET', 'HEAD')):
                    getattr(self, name)(*(unquote(group) if group else group for group in match.groups()))
                    break
            else:
                raise HubError(404, f'Sorry, we can\'t find the page {url.path}')
        except HubError as error:
            self.send_json(error.body, error.status, error.headers)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            if not self.answered:
                self.hub.log(self.command, self.path, None)
            if not self.close_connection:
                try:
                    for _ in self.body_chunks():  # what nobody read would be taken for the next request
                        pass
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def authenticate(self):
        header = self.headers.get('Authorization')
        if header is None:
            return
        if self.path.startswith(('/cdn/', '/lfs/')):  # the client must not show its token to another host
            raise HubError(400, 'Only one auth mechanism allowed')
        token = header.removeprefix('Bearer ')
        if token not in self.hub.tokens:
            raise HubError(401, 'Invalid credentials in Authorization header')
        self.user, self.role = self.hub.tokens[token]

    def body_chunks(self):
        """Yields the request's body; one that ends early raises ConnectionError."""
        while self.chunked:
            size = int(self.rfile.readline().split(b';')[0] or b'0', 16)
            data = self.rfile.read(size + 2)
            if len(data) != size + 2:
                raise ConnectionError('the request was cut')
            if size == 0:
                self.chunked = False
                return
            yield data[:-2]
        while self.unread:
            data = self.rfile.read(min(self.unread, 2**20))
            if not data:
                raise ConnectionError('the request was cut')
            self.unread -= len(data)
            yield data

    def body(self) -> bytes:
        return b''.join(self.body_chunks())

    def json(self) -> dict:
        try:
            return json.loads(self.body() or b'{}')
        except ValueError as error:
            raise HubError(400, f'The body is not JSON: {error}') from None

    def flag(self, name: str) -> bool:
        return self.query.get(name, '').lower() in ('1', 'true')

    def head(self, status: int, headers: dict):
        if self.fault.drop == 'after':
            raise ConnectionError('a fault')
        self.answered = True
        self.hub.log(self.command, self.path, status)  # before the client knows
        self.send_response(status)
        for key, value in {'X-Request-Id': f'Root=1-{secrets.token_hex(12)}', **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()

    def send_json(self, value, status: int = 200, headers: dict | None = None):
        data = json.dumps(value).encode()
        base = {'Content-Type': 'application/json; charset=utf-8', 'Content-Length': len(data)}
        try:
            self.head(status, {**base, **(headers or {})})
            if self.command != 'HEAD':
                self.wfile.write(data)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def send_file(self, path: Path, headers: dict):
        """Sends a file or the range of it that was asked for, with what goes wrong on the way."""
        size = path.stat().st_size
        if self.command == 'GET' and self.fault.truncate is not None:
            size = min(size, self.fault.truncate)
        start, stop, status = 0, size, 200
        asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
        if asked and (asked[1] or asked[2]):
            if asked[1]:
                start, stop = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
            else:
                start = max(0, size - int(asked[2]))
            if start >= stop:
                raise HubError(416, 'Requested Range Not Satisfiable', headers={'Content-Range': f'bytes */{size}'})
            status = 206
            headers = {**headers, 'Content-Range': f'bytes {start}-{stop - 1}/{size}'}
        self.head(status, {'Accept-Ranges': 'bytes', 'Content-Type': 'application/octet-stream', **headers,
                           'Content-Length': stop - start})
        if self.command == 'HEAD':
            return
        with path.open('rb') as file:
            file.seek(start)
            while start < stop:
                data = bytearray(file.read(min(2**16, stop - start)))
                flip, cut = self.fault.flip, self.fault.cut
                if flip is not None and start <= flip < start + len(data):
                    data[flip - start] ^= 1
                if cut is not None and cut < start + len(data):
                    self.wfile.write(data[:max(0, cut - start)])
                    raise ConnectionError('a fault')
                self.wfile.write(data)
                start += len(data)

    # who may do what

    def repo(self, kind: str, repo_id: str, write: bool = False) -> dict:
        repo = self.hub.store.load(kind, repo_id)
        new_id = self.hub.store.moved_to(kind, repo_id) if repo is None else None
        if new_id is not None:
            raise HubError(307, f'The repository is now {new_id}',
                           headers={'Location': self.path.replace(f'/{repo_id}', f'/{new_id}', 1)})
        if repo is None or (repo['private'] and not self.may(repo['id'])):
            if self.user is None:
                raise HubError(401, 'Invalid username or password.', 'RepoNotFound')
            raise HubError(404, 'Repository not found', 'RepoNotFound')
        if write:
            self.need_write(repo['id'].split('/')[0])
        return repo

    def may(self, repo_id: str) -> bool:
        return self.user is not None and repo_id.split('/')[0] in (self.user, *self.hub.orgs)

    def need_write(self, namespace: str):
        if self.user is None:
            raise HubError(401, 'Invalid username or password.')
        if self.role != 'write' or namespace not in (self.user, *self.hub.orgs):
            raise HubError(403, f'You don\'t have the rights to write under the namespace "{namespace}"')

    def revision(self, repo: dict, revision: str | None) -> dict:
        commit = self.hub.store.resolve(repo, revision or 'main')
        if commit is None:
            raise HubError(404, f'Invalid rev id: {revision}', 'RevisionNotFound')
        return commit

    def web_url(self, kind: str, repo_id: str) -> str:
        return f'{self.hub.url}/{"" if kind == "models" else kind + "/"}{repo_id}'

    # for tests

    @route('GET', '/_test/requests')
    def get_requests(self):
        self.send_json(self.hub.requests)

    @route('PUT', '/_test/faults')
    def put_faults(self):
        self.hub.faults[:] = [Fault(**fault) for fault in self.json()]
        self.send_json({})
