"""Serves the page on this machine, to those who call it by its name, and with nothing from other hosts."""
import contextlib
import ipaddress
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence

from flatzoo.models.base import VideoModel

from .answer import Limits
from .page import ASSETS, EXAMPLES, build_page
from .style import CSS, HEAD
from .uploads import Uploads

__all__ = ['is_loopback', 'serve']

POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"


@contextlib.contextmanager
def serve(
        load: Callable[..., VideoModel],
        models: Sequence[str],
        limits: Limits,
        host: str = '127.0.0.1',
        port: int = 7860,
) -> Iterator[str]:
    """Serves the page while the context is open. All uploads are deleted at its end.

    Args:
        load: As for `build_page`.
        models: As for `build_page`.
        limits: As for `build_page`.
        host: Address to listen at.
        port: Port to listen at.

    Yields:
        The address of the page.

    Raises:
        ImportError: If gradio, matplotlib or grad-cam is not installed.
        OSError: If the port is taken.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    with tempfile.TemporaryDirectory(prefix='flatzoo-demo-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder  # read by parts of the page when they are made
        try:
            import gradio as gr
            import matplotlib  # noqa: F401
            import pytorch_grad_cam  # noqa: F401
            from starlette.middleware import Middleware
        except ImportError as error:
            raise ImportError(f"the page needs {error.name}: pip install 'flatzoo[demo]'") from error

        gr.set_static_paths([ASSETS / name for name in EXAMPLES.values()])  # served where they lie
        page = build_page(load, models, limits, Uploads(folder))
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, share=False, inbrowser=False, prevent_thread_lock=True, quiet=True,
                max_file_size=limits.megabytes * 2 ** 20, footer_links=[], ssr_mode=False, mcp_server=False, pwa=False,
                enable_monitoring=False, css=CSS, head=HEAD,
                app_kwargs=dict(middleware=[Middleware(_OwnAddress, host), Middleware(_LocalOnly)]),
                theme=gr.themes.Soft(
                    primary_hue='blue', font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']))
            yield address
        finally:
            page.close(verbose=False)


class _OwnAddress:
    """Answers only to the names of this machine.

    This prevents DNS rebinding: another site could give its own name the address of this machine. The browser would
    then treat both as one site, and that site could read this page and the visitor's videos.
    """

    def __init__(self, app: Callable, host: str):
        self.app = app
        own = socket.gethostname().lower()
        self.names = {'localhost', host.lower(), own, own.partition('.')[0], f'{own.partition(".")[0]}.local'}
        self.is_local = is_loopback(host)

    def accepts(self, header: str) -> bool:
        """Whether a Host header, `name` or `name:port`, names this machine. A numeric address is not a name."""
        match = re.fullmatch(r'\[([0-9a-f:.]+)\](?::\d+)?|([^:\[\]]+)(?::\d+)?', header.strip().lower())
        if match is None:
            return False
        name = match[1] or match[2].removesuffix('.')
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(name)
            return not self.is_local or address.is_loopback
        return name in self.names

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope['type'] in ('http', 'websocket'):
            hosts = [value.decode('latin-1') for key, value in scope['headers'] if key == b'host']
            if len(hosts) != 1 or not self.accepts(hosts[0]):
                if scope['type'] == 'websocket':
                    await send({'type': 'websocket.close', 'code': 1008})
                    return
                text = b'This is not a name of the machine that serves this page. Open it by the address it printed.'
                kind = (b'content-type', b'text/plain; charset=utf-8'), (b'content-length', b'%d' % len(text))
                await send({'type': 'http.response.start', 'status': 421, 'headers': list(kind)})
                await send({'type': 'http.response.body', 'body': text})
                return
        await self.app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == 'localhost'


class _LocalOnly:
    """Tells the browser to fetch nothing from other hosts."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_policy(message: dict) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message.get('headers', ()), (b'content-security-policy', POLICY)]
            await send(message)

        await self.app(scope, receive, send_policy)
