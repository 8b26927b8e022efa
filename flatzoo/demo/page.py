"""The page: its parts, its reactions to changes, and the lifetime of uploads.

An upload is stored in a folder of the running server. It is deleted when its video is removed or replaced, when the
page is closed or reloaded, when it is refused, and after `KEPT_MINUTES`. The whole folder is deleted when the server
ends. Pictures are part of the page and never stored in a file. Nothing is fetched from other hosts; a header makes the
browser enforce this.
"""
import base64
import contextlib
import html
import io
import ipaddress
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flatzoo.data.decode import VideoError
from flatzoo.models.base import VideoModel

from .answer import LAYOUTS, ORDERS, Answer, Limits, answer_video, check_video

__all__ = ['KEPT_MINUTES', 'Uploads', 'build_page', 'serve']

KEPT_MINUTES = 15
ASSETS = Path(__file__).parents[1] / 'data' / 'assets'
EXAMPLES = {'a rendered scene': 'is_picked_up.mp4', 'a real one': 'carphone.mp4'}
SILENCE = '''<script>
addEventListener('error', event => { if (event.target.tagName === 'VIDEO') event.stopImmediatePropagation() }, true)
</script>'''  # of players that lack a codec: whether flatzoo can read the video is for it to say
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
INTRODUCTION = """
# flatzoo
**An image model names the action in a video.** The frames are laid out as one image; the image backbone does the rest.
"""
PICTURES = {
    'The super image': 'What the backbone gets, cell by cell. Hatched cells are empty.',
    'Where the evidence lies': 'Yellow places speak most for the first answer.',
    'The same in time': 'The frames that the model saw, and the evidence in each of them.',
    'Which frames matter': 'How far the probability of the first answer falls when a frame gives way to its neighbour.',
}
CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.flatzoo-picture { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius);
    background: var(--block-background-fill); padding: 14px 16px 16px; }
.html-container:has(.flatzoo-picture) { padding: 0 !important; }
.flatzoo-video video { max-height: 300px; }
.flatzoo-picture h3 { margin: 0; font-size: 1rem; font-weight: 600; }
.flatzoo-picture p { margin: 2px 0 10px; color: var(--body-text-color-subdued); font-size: .85rem; }
.flatzoo-picture img { display: block; max-width: 100%; max-height: 560px; margin: 0 auto; border-radius: 6px;
    background: white; }
.flatzoo-picture .empty { border: 1px dashed var(--border-color-primary); border-radius: 6px; padding: 24px 16px;
    text-align: center; color: var(--body-text-color-subdued); font-size: .85rem; }
.flatzoo-small, .flatzoo-small p { color: var(--body-text-color-subdued); font-size: .8rem !important; }
.flatzoo-top { display: grid !important; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr);
    grid-template-areas: 'video answer' 'controls answer'; grid-template-rows: auto 1fr; }
.flatzoo-top > .flatzoo-given { grid-area: video; }
.flatzoo-top > .flatzoo-answer { grid-area: answer; }
.flatzoo-top > .flatzoo-controls { grid-area: controls; }
@media (max-width: 720px) {
    .flatzoo-top { grid-template-columns: minmax(0, 1fr); grid-template-areas: 'video' 'answer' 'controls'; }
}
button[aria-label='Trim video to selection'] { display: none; }
"""


class Uploads:
    """Records which session shows which upload. An upload is deleted when it is no longer shown.

    Args:
        folder: Folder of the uploads. Files outside of it, such as the examples, are never deleted.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).resolve()
        self.shown: dict[str, str] = {}

    def show(self, session: str, path: str | None) -> None:
        """Records the upload that a session shows now, and deletes its former one."""
        before = self.shown.pop(session, None)
        if path is not None:
            self.shown[session] = path
        if before not in (None, *self.shown.values()):
            self.delete(before)

    def delete(self, path: str) -> None:
        """Deletes an upload and its folder."""
        file = Path(path).resolve()
        if file.is_relative_to(self.folder):
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or gone
                file.parent.rmdir()


def build_page(load: Callable[..., VideoModel], models: Sequence[str], limits: Limits, uploads: Uploads) -> Any:
    """Builds the page without serving it.

    Args:
        load: Takes the name of a model and a layout or None, and returns the model, ready to answer. It raises
            ValueError with a message for the visitor.
        models: Names to choose from. The first one is selected.
        limits: Largest accepted video.
        uploads: The record of uploads.

    Returns:
        `gradio.Blocks`.
    """
    import gradio as gr

    def look(
            video: str | None, model_name: str, layout: str, order: str, request: gr.Request) -> tuple[Any, ...]:
        uploads.show(request.session_hash, video)
        if video is None:
            return None, *_pictures(None)
        try:
            if not os.path.exists(video):
                raise VideoError(f'This video is no longer kept ({KEPT_MINUTES} minutes at most). Give it again.')
            check_video(video, limits)
            model = load(model_name)
            if LAYOUTS[layout] is not None:
                model = load(model_name, LAYOUTS[layout](model.num_frames))
            answer = answer_video(model, video, order)
        except ValueError as error:
            if isinstance(error, VideoError):  # and not of the model or the layout
                uploads.delete(video)
            gr.Warning(html.escape(str(error)), duration=None)
            return None, *_pictures(None)
        return answer.probabilities, *_pictures(answer)

    def leave(request: gr.Request) -> None:
        uploads.show(request.session_hash, None)

    empty = _pictures(None)
    with gr.Blocks(title='flatzoo', analytics_enabled=False, delete_cache=(60, 60 * KEPT_MINUTES)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row(elem_classes='flatzoo-top'):  # on a phone the answer comes between the video and the controls
            with gr.Column(min_width=0, elem_classes='flatzoo-given'):
                video = gr.Video(
                    label='Video', sources=['upload', 'webcam'], elem_classes='flatzoo-video',
                    include_audio=True)  # else gradio would run FFmpeg's program, which need not be there
                gr.Examples(
                    [[str(ASSETS / name)] for name in EXAMPLES.values()], [video], label='Or look at',
                    example_labels=list(EXAMPLES), api_visibility='private')
            with gr.Column(min_width=0, elem_classes='flatzoo-answer'):
                label = gr.Label(label='Top 5', num_top_classes=5)
                animation = gr.HTML(empty[2])
            with gr.Column(min_width=0, elem_classes='flatzoo-controls'):
                with gr.Group():
                    model_name = gr.Dropdown(
                        list(models), value=models[0], label='Model',
                        info='It knows the classes of its training: of any other video its answer is a guess.')
                    layout = gr.Dropdown(
                        list(LAYOUTS), value=next(iter(LAYOUTS)), label='Layout',
                        info='Any but that of training shows how much the model relies on it.')
                    order = gr.Radio(list(ORDERS), value=next(iter(ORDERS)), label='Frames')
                gr.Markdown(
                    f'Up to {limits.megabytes} MB and {limits.seconds} seconds. Your video is deleted when you remove '
                    f'it or leave this page, after {KEPT_MINUTES} minutes at the latest.', elem_classes='flatzoo-small')
        with gr.Row():
            with gr.Column(min_width=320):
                super_image = gr.HTML(empty[0])
            with gr.Column(min_width=320):
                maps = gr.HTML(empty[1])
        importance = gr.HTML(empty[3])
        gr.on(
            [video.change, model_name.change, layout.change, order.change], look, [video, model_name, layout, order],
            [label, super_image, maps, animation, importance], show_progress_on=[label], trigger_mode='always_last',
            concurrency_limit=1, api_visibility='private')
        page.unload(leave)
    return page.queue(max_size=16)


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
                enable_monitoring=False, css=CSS, head=SILENCE,
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


def _pictures(answer: Answer | None) -> list[str]:
    """HTML of the four pictures, or of placeholders for them."""
    if answer is None:
        data, why = [None] * 4, 'Drop a video, use the camera or choose an example.'
    else:
        why = ' '.join(answer.notes)
        data = [_png(answer.super_image), _png(answer.maps), answer.animation, _png(answer.importance)]
    return [_picture(title, text, picture, why) for (title, text), picture in zip(PICTURES.items(), data)]


def _picture(title: str, text: str, data: bytes | None, why: str) -> str:
    if data is None:
        shown = f'<div class="empty">{html.escape(why)}</div>'
    else:
        kind = 'gif' if data.startswith(b'GIF') else 'png'
        shown = f'<img alt="{title}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
    return f'<section class="flatzoo-picture"><h3>{title}</h3><p>{text}</p>{shown}</section>'


def _png(figure: Any) -> bytes | None:
    if figure is None:
        return None
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130, bbox_inches='tight', pad_inches=0.05)
    return file.getvalue()
