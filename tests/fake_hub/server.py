"""A weight hub on localhost that speaks the Hub's protocol, for tests with the unmodified huggingface_hub client.

It answers the endpoints that the client calls to make repositories, push, list and pull: over HTTP, with the Hub's
status codes, error headers and redirects. What it keeps lies below one folder:

    objects/ab/ab12..       contents of files, named by their sha256
    repos/models/alice/net  repo.json (visibility and refs) and commits/SHA.json (parent, title, tree)
    incoming/               uploads under way
    xet/                    the storage of Xet, which the client reads and writes itself

A commit is a new file, then repo.json is replaced: it is seen whole or not at all.

    with HubServer(tmp_path) as hub:
        subprocess.run([sys.executable, 'flow.py'], env={**os.environ, **hub.env(tmp_path / 'home')})
        hub.faults.append(Fault('GET .*model.safetensors', flip=100))  # from now on this byte arrives wrong

As a process of its own, in `tests/`: `python -m fake_hub.server --root FOLDER --port 8000`. A client process may see
the requests so far (GET /_test/requests) and change the faults (PUT /_test/faults, a JSON list of the arguments of each
Fault).

handler.py has the HTTP side, reading.py and writing.py the endpoints, store.py what is on disk.
"""
import argparse
import hmac
import re
import secrets
import socket
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from .handler import Fault
from .store import Store
from .writing import Writing

__all__ = ['Fault', 'HubServer']


class HubServer:
    """A Hub on localhost, in a thread; as a context manager it runs within the block.

    Args:
        root: Folder for what it keeps; one that held a Hub before goes on with its repositories.
        token: Access token of `user` that may write.
        user: Name of the account, and a namespace of repositories.
        xet: Large files go through Xet, as on the real Hub; client and server must share a file system then.
        faults: What goes wrong; `hub.faults` may be changed at any time.
        orgs: Organisations that every account may write to.
        redirect: Large files come from another host, as on the real Hub.
        part_size: Bytes above which LFS uploads go in parts of that size; None sends all at once.
        port: Port to listen on; 0 takes a free one.

    Attributes:
        url: Address for HF_ENDPOINT.
        tokens: Token to (user, 'read' or 'write').
        requests: (method, path, status) of every request so far; the status is None where the connection broke.
        page_size: Number of items of a page of lists.
    """

    def __init__(
            self,
            root: str | Path,
            token: str = 'hf_test',
            user: str = 'alice',
            xet: bool = False,
            faults: list[Fault] | None = None,
            orgs: tuple[str, ...] = ('flatzoo', 'org'),
            redirect: bool = True,
            part_size: int | None = None,
            port: int = 0,
    ):
        self.store = Store(Path(root))
        self.token, self.user, self.xet, self.orgs, self.redirect = token, user, xet, orgs, redirect
        self.part_size, self.page_size = part_size, 1000
        self.tokens = {token: (user, 'write'), 'hf_read': (user, 'read'), 'hf_other': ('bob', 'write')}
        self.faults = faults if faults is not None else []
        self.requests: list[tuple[str, str, int | None]] = []
        self.connections, self._secret = set(), secrets.token_bytes(16)
        self._lock = threading.Lock()
        handler = type('Handler', (Writing,), {'hub': self})
        self._server = ThreadingHTTPServer(('127.0.0.1', port), handler)
        self.port = self._server.server_address[1]
        self.url = f'http://127.0.0.1:{self.port}'
        self.cdn_url = f'http://localhost:{self.port}'  # another host to a client

    def env(self, home: str | Path) -> dict[str, str]:
        """Variables for a client process, whose cache and settings lie in the folder `home`."""
        return {
            'HF_ENDPOINT': self.url, 'HF_TOKEN': self.token, 'HF_HOME': str(home), 'HF_HUB_OFFLINE': '0',
            'HF_HUB_DISABLE_XET': '0' if self.xet else '1', 'HF_HUB_DISABLE_TELEMETRY': '1',
            'HF_HUB_DISABLE_PROGRESS_BARS': '1', 'NO_PROXY': '127.0.0.1,localhost', 'no_proxy': '127.0.0.1,localhost',
        }

    def __enter__(self) -> 'HubServer':
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in list(self.connections):  # clients keep them open for their next request
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def sign(self, text: str) -> str:
        """A signature for an address that needs no token."""
        return hmac.new(self._secret, text.encode(), 'sha256').hexdigest()[:32]

    def log(self, method: str, path: str, status: int | None) -> None:
        if not path.startswith('/_test/'):
            self.requests.append((method, path, status))

    def fault_of(self, request: str) -> Fault:
        with self._lock:
            for fault in self.faults if ' /_test/' not in request else ():
                if fault.times != 0 and re.search(fault.match, request):
                    if fault.times:
                        fault.times -= 1
                    return fault
        return Fault()


def main():
    parser = argparse.ArgumentParser(description='A Hub on localhost')
    parser.add_argument('--root', required=True, help='folder for what it keeps')
    parser.add_argument('--port', type=int, default=8000)
    parser.add_argument('--token', default='hf_test')
    parser.add_argument('--user', default='alice')
    parser.add_argument('--xet', action='store_true', help='large files go through Xet')
    args = parser.parse_args()
    with HubServer(args.root, args.token, args.user, args.xet, port=args.port) as hub:
        print(f'HF_ENDPOINT={hub.url} HF_TOKEN={hub.token} HF_HUB_DISABLE_XET={0 if hub.xet else 1}', flush=True)
        try:
            hub._thread.join()
        except KeyboardInterrupt:
            pass


if __name__ == '__main__':
    main()
