"""The demo page: its limits and answers, how long an upload lives, and the page itself in a real browser."""
import io
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest
import timm
import torch
from PIL import Image
from processes import Process

import flatzoo
from flatzoo.cli import main
from flatzoo.cli.commands.demo import _Models
from flatzoo.data.actions import write_action
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.demo.answer import LAYOUTS, ORDERS, Limits, answer_video, check_video
from flatzoo.demo.page import build_page
from flatzoo.demo.server import _OwnAddress
from flatzoo.demo.uploads import KEPT_MINUTES, Uploads
from flatzoo.inference.classifier import classify_file

ASSETS = Path(flatzoo.__file__).parent / 'data' / 'assets'
CLIP = ASSETS / 'is_picked_up.mp4'  # 2 s, 9 kB
MODEL = 'sifar_resnet10t'


@pytest.fixture(scope='module')
def model():
    return timm.create_model(MODEL, pretrained=True).eval()


# Limits


@pytest.mark.parametrize('host, header, accepted', [
    ('127.0.0.1', '127.0.0.1:7860', True),
    ('127.0.0.1', 'localhost:7860', True),
    ('127.0.0.1', 'LOCALHOST.', True),
    ('127.0.0.1', '[::1]:7860', True),
    ('127.0.0.1', 'evil.example:7860', False),  # a name that somebody gave the address 127.0.0.1
    ('127.0.0.1', 'localhost.evil.example', False),
    ('127.0.0.1', '127.0.0.1.evil.example', False),
    ('127.0.0.1', '192.168.1.5:7860', False),
    ('127.0.0.1', 'localhost:7860@evil.example', False),
    ('127.0.0.1', '', False),
    ('0.0.0.0', '192.168.1.5:7860', True),
    ('0.0.0.0', f'{socket.gethostname()}:7860', True),
    ('0.0.0.0', 'evil.example', False),
    ('demo.example', 'demo.example:7860', True),
])
def test_only_its_own_names(host, header, accepted):
    assert _OwnAddress(None, host).accepts(header) == accepted


def test_a_foreign_name_sees_nothing():
    import asyncio

    async def app(scope, receive, send):
        await send('the page')

    def ask(kind, *hosts):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {'type': kind, 'headers': [(b'host', host) for host in hosts]}
        asyncio.run(_OwnAddress(app, '127.0.0.1')(scope, None, send))
        return sent

    assert ask('http', b'127.0.0.1:7860') == ask('lifespan') == ['the page']
    for hosts in ((b'evil.example',), (), (b'localhost', b'evil.example')):
        start, body = ask('http', *hosts)
        assert start['status'] == 421 and b'the address it printed' in body['body']
        assert ask('websocket', *hosts) == [{'type': 'websocket.close', 'code': 1008}]


def test_limits_come_before_decoding(tmp_path, monkeypatch):
    def decode(*_):
        raise AssertionError('a frame was decoded')

    monkeypatch.setattr(VideoReader, 'get_frames', decode)
    check_video(str(CLIP), Limits(megabytes=1, seconds=2))
    with pytest.raises(VideoError, match=r'^is_picked_up.mp4: lasts 2 seconds; this page takes up to 1\.'):
        check_video(str(CLIP), Limits(megabytes=1, seconds=1))
    large = tmp_path / 'large.mp4'
    large.write_bytes(CLIP.read_bytes() + bytes(2 ** 20))
    with pytest.raises(VideoError, match=r'^large.mp4: has 1.0 MB; this page takes up to 1 MB\.'):
        check_video(str(large), Limits(megabytes=1, seconds=60))


def test_messages_do_not_tell_where_uploads_lie(tmp_path):
    bad = tmp_path / 'bad.mp4'
    bad.write_text('no video at all')
    with pytest.raises(VideoError, match='^bad.mp4: is not a video') as error:
        check_video(str(bad), Limits(1, 60))
    assert str(tmp_path) not in str(error.value)


# Answers


def test_the_answer_is_that_of_predict(model):
    answer = answer_video(model, str(CLIP))
    expected = classify_file(model, CLIP)
    assert list(answer.probabilities) == [item.label for item in expected]
    assert list(answer.probabilities.values()) == pytest.approx([item.probability for item in expected], abs=1e-5)
    assert next(iter(answer.probabilities)) == 'is picked up' and answer.notes == []
    image, over = (figure.axes[0].images[0].get_array() for figure in (answer.super_image, answer.maps))
    assert image.shape == over.shape == (96, 96, 3) and (image != over).any()
    assert len(answer.importance.axes) == model.num_frames + 1
    assert Image.open(io.BytesIO(answer.animation)).n_frames == model.num_frames


def test_names_of_classes_are_shown_escaped(model, monkeypatch):
    names = ['\x1b[2J\n' + name for name in model.pretrained_cfg['label_names']]
    monkeypatch.setitem(model.pretrained_cfg, 'label_names', names)
    assert next(iter(answer_video(model, str(CLIP)).probabilities)) == r'\x1b[2J\nis picked up'


def test_what_a_model_cannot_show(tmp_path):
    torch.manual_seed(0)
    one = timm.create_model('superimage', backbone='test_resnet', num_frames=1, img_size=32, num_classes=3).eval()
    answer = answer_video(one, str(CLIP))
    assert answer.importance is None and answer.maps is not None
    assert [note.partition(':')[0] for note in answer.notes] == ['No importance of frames']
    assert set(answer.probabilities) == {'class 0', 'class 1', 'class 2'}


@pytest.mark.parametrize('order, top', [('as filmed', 'is picked up'), ('reversed', 'is put down'), ('shuffled', None)])
def test_order_of_frames(order, top, model):
    answer = answer_video(model, str(CLIP), order)
    with VideoReader(CLIP) as video:
        times = video.timestamps[flatzoo.eval_protocol(model).sample(len(video), model.num_frames)[0]]
    shown = [ax.get_title() for ax in answer.importance.axes[:model.num_frames]]
    permutation = ORDERS[order](model.num_frames).tolist()
    assert shown == [f'{times[t]:.2f} s' for t in permutation]
    assert sorted(permutation) == list(range(model.num_frames)) and top in (None, next(iter(answer.probabilities)))


@pytest.mark.parametrize('layout', [layout for layout in LAYOUTS if layout != 'as trained'])
def test_layouts(layout, model):
    other = _Models('cpu')(MODEL, LAYOUTS[layout](model.num_frames))
    shown = sorted(cell for image in other.super_image.index for row in image for cell in row if cell >= 0)
    assert shown == list(range(model.num_frames))
    assert (other.super_image.index == model.super_image.index) == (layout == 'grid')


def test_models_are_kept():
    models = _Models('cpu')
    assert models(MODEL) is models(MODEL) is not models(MODEL, '2x4')
    with pytest.raises(ValueError, match="there is no model 'sifar_resnet10'. Similar names: sifar_resnet10t"):
        models('sifar_resnet10')


# Uploads


def test_uploads_go_when_they_are_no_longer_shown(tmp_path):
    def upload(name):
        path = tmp_path / 'uploads' / name / 'clip.mp4'
        path.parent.mkdir(parents=True)
        path.touch()
        return str(path)

    uploads = Uploads(tmp_path / 'uploads')
    first, second, example = upload('a'), upload('b'), tmp_path / 'example.mp4'
    example.touch()
    uploads.show('me', first)
    uploads.show('you', first)
    uploads.show('me', first)  # with another layout
    uploads.show('me', second)
    assert os.path.exists(first) and os.path.exists(second)  # you still look at it
    uploads.show('you', None)
    assert not os.path.exists(os.path.dirname(first)) and os.path.exists(second)
    uploads.show('me', str(example))
    uploads.show('me', None)
    assert not os.path.exists(second) and example.exists() and uploads.shown == {}


def test_the_page_forgets(tmp_path):
    pytest.importorskip('gradio', reason="needs pip install 'flatzoo[demo]'")
    page = build_page(None, ['a', 'b'], Limits(1, 2), Uploads(tmp_path))
    assert page.delete_cache == (60, 60 * KEPT_MINUTES) and not page.analytics_enabled
    assert {function.concurrency_limit for function in page.fns.values() if function.name == 'look'} == {1}


# The command


def refused(arguments, capsys):
    assert main(['demo', *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ''
    return captured.err


@pytest.fixture
def keep_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_models_that_cannot_be_had(capsys):
    message = refused(['--model', MODEL, '--model', 'sifar_resnet10'], capsys)
    assert "there is no model 'sifar_resnet10'. Similar names: sifar_resnet10t" in message
    assert 'was never trained' in refused(['--model', 'sifar_swin_tiny'], capsys)


def test_without_gradio(capsys, monkeypatch, keep_signals):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    message = refused(['--model', MODEL, '--host', '0.0.0.0'], capsys)
    assert "pip install 'flatzoo[demo]'" in message and 'it asks for no password' in message


def test_a_port_that_is_taken(capsys, keep_signals):
    pytest.importorskip('gradio', reason="needs pip install 'flatzoo[demo]'")
    pytest.importorskip('pytorch_grad_cam', reason="needs pip install 'flatzoo[demo]'")
    with socket.create_server(('127.0.0.1', 0)) as taken:
        message = refused(['--model', MODEL, '--port', str(taken.getsockname()[1])], capsys)
    assert 'Choose another --port.' in message and 'password' not in message


def test_a_port_that_there_is_not(capsys, keep_signals):
    pytest.importorskip('gradio', reason="needs pip install 'flatzoo[demo]'")
    pytest.importorskip('pytorch_grad_cam', reason="needs pip install 'flatzoo[demo]'")
    assert 'Choose another --port.' in refused(['--model', MODEL, '--port', '99999'], capsys)


# The page in a browser


def run_server(arguments):
    """The command, which says on standard error whenever it reaches for another host."""
    def watch(call, host_of):
        def watched(*args, **kwargs):
            host = host_of(args)
            if str(host) not in ('127.0.0.1', 'localhost', '::1'):
                print('OUTSIDE', host, file=sys.stderr, flush=True)
            return call(*args, **kwargs)
        return watched

    connect = socket.socket.connect
    socket.getaddrinfo = watch(socket.getaddrinfo, lambda args: args[0])
    socket.socket.connect = watch(connect, lambda args: args[1][0] if isinstance(args[1], tuple) else 'localhost')
    sys.exit(main(arguments))


PATIENCE = 300_000  # milliseconds; only a test that fails waits for so long


@pytest.fixture(scope='module')
def chromium():
    reason = "needs pip install 'flatzoo[demo]' playwright"
    for name in ('gradio', 'pytorch_grad_cam', 'matplotlib'):
        pytest.importorskip(name, reason=reason)
    playwright = pytest.importorskip('playwright.sync_api', reason=reason)
    path = shutil.which('chromium')
    if path is None:
        pytest.skip('needs the browser chromium (apt-get install chromium)')
    fake_camera = ['--use-fake-device-for-media-stream=fps=5', '--use-fake-ui-for-media-stream']
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=['--no-sandbox', *fake_camera])
        yield browser.new_context()  # one for all pages, which keeps scripts in its cache
        browser.close()


@pytest.fixture(scope='module')
def server(chromium, tmp_path_factory):
    """A running page: its address, and the folder in which its uploads are."""
    folder = tmp_path_factory.mktemp('demo')
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = ['demo', '--port', str(port), '--max-megabytes', '1', '--max-seconds', '60', '--device', 'cpu']
    process = Process(tmp_path_factory.mktemp('logs') / 'demo', run_server, command, env={'TMPDIR': str(folder)})
    try:
        wait_until(lambda: (process.folder / 'stdout').exists() and '\n' in (process.folder / 'stdout').read_text()
                   or not process.is_alive())
        line = (process.folder / 'stdout').read_text()
        assert f'http://127.0.0.1:{port}/' in line, (process.folder / 'stderr').read_text()
        yield line.split()[0], folder
    finally:
        process.terminate()
        done = process.wait()
    assert done.returncode == 0 and not list(folder.iterdir())  # no folder of uploads
    assert 'OUTSIDE' not in done.stderr and 'Traceback' not in done.stderr


@pytest.fixture
def page(chromium, server):
    """The page, opened; afterwards, every request that the browser made was for it."""
    page = chromium.new_page()
    page.set_default_timeout(PATIENCE)
    asked = []
    page.on('request', lambda request: asked.append(request.url))
    page.goto(server[0])
    page.wait_for_selector('input[type=file]', state='attached')
    yield page
    page.close()
    assert server[0] in asked
    assert [url for url in asked if not url.startswith((server[0], 'data:', 'blob:'))] == []


def uploads(server):
    return [path for path in server[1].glob('flatzoo-demo-*/**/*') if path.is_file()]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def give(page, path):
    page.locator('input[type=file]').first.set_input_files(path)


def wait_for_answer(page):
    page.locator('img[alt="Which frames matter"], .toast-body').first.wait_for()
    assert page.locator('.toast-body').all_inner_texts() == []


def message(page):
    page.wait_for_selector('.toast-body')
    return ' '.join(page.inner_text('.toast-body').split())


def answers(page):
    return [re.split(r'\s*\n\s*', text)[0] for text in page.locator('.confidence-set').all_inner_texts()]


def test_upload(page, server):
    give(page, CLIP)
    wait_for_answer(page)
    assert len(answers(page)) == 5 and answers(page)[0] == 'is picked up'
    loaded = 'images => images.map(image => [image.alt, image.naturalWidth > 100])'
    names = ['The same in time', 'The super image', 'Where the evidence lies', 'Which frames matter']
    assert page.locator('.flatzoo-picture img').evaluate_all(loaded) == [[name, True] for name in names]
    assert [path.name for path in uploads(server)] == [CLIP.name]  # nothing else is written

    page.get_by_label('reversed').click()
    page.wait_for_function("document.querySelector('.confidence-set')?.innerText.startsWith('is put down')")
    picture = page.get_by_alt_text('The super image')
    square = picture.evaluate('image => image.naturalWidth / image.naturalHeight')
    page.get_by_label('Layout').click()
    page.get_by_role('option', name='two rows').click()
    wait_until(lambda: picture.evaluate('image => image.naturalWidth / image.naturalHeight') > 1.5 * square)
    page.get_by_label('Clear').click()
    wait_until(lambda: not uploads(server))
    page.wait_for_selector('.confidence-set', state='detached')

    give(page, CLIP)
    page.wait_for_selector('.confidence-set')
    assert uploads(server)
    page.goto('about:blank')  # it goes with its page
    wait_until(lambda: not uploads(server))


@pytest.mark.parametrize('name, data, reason', [
    ('bad.mp4', b'no video', 'bad.mp4: is not a video that FFmpeg can read'),
    ('large.mp4', bytes(2 ** 20 + 1), 'exceed the maximum allowed size of 1.0 Mb: "large.mp4"'),
    ('long.mp4', None, 'long.mp4: lasts 69 seconds; this page takes up to 60.'),
], ids=lambda value: value if str(value).endswith('.mp4') else '')
def test_refusals(name, data, reason, page, server, tmp_path):
    path = tmp_path / name
    if data is None:
        write_action(path, 0, 0, size=32, num_frames=70, fps=1)
    else:
        path.write_bytes(data)
    give(page, path)
    assert reason in message(page)
    assert answers(page) == [] and page.locator('.toast-body').count() == 1
    wait_until(lambda: not uploads(server))


def test_the_server_refuses_large_files(server):
    """And not the page alone."""
    answers = [
        httpx.post(f'{server[0]}gradio_api/upload', files={'files': ('clip.mp4', bytes(size), 'video/mp4')}, timeout=99)
        for size in (2 ** 20 - 4096, 2 ** 20 + 4096)]
    assert [answer.status_code for answer in answers] == [200, 413]
    [kept] = uploads(server)
    assert kept.name == 'clip.mp4' and kept.stat().st_size < 2 ** 20
    kept.unlink()


def test_example_and_a_model_that_is_not_there(page, server):
    page.get_by_text('a rendered scene').click()
    wait_for_answer(page)
    assert answers(page)[0] == 'is picked up' and not uploads(server)
    page.get_by_label('Model').click()
    page.get_by_role('option', name='videomae_vit_s.mcg_ssv2').click()
    assert 'videomae_vit_s' in message(page) and CLIP.exists()
    page.wait_for_selector('.confidence-set', state='detached')


def test_camera(page, server):
    page.get_by_label('Capture from camera').click()
    page.get_by_text('Click to Access Webcam').click()
    page.get_by_role('button', name='start recording').click()
    seen = "document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"
    start = page.evaluate(seen)
    page.wait_for_function(f'{seen} >= {start + 8}')  # longer where the machine is busy
    page.get_by_role('button', name='start recording').filter(has_text='Stop').click()
    wait_for_answer(page)
    assert len(answers(page)) == 5
    assert [path.suffix for path in uploads(server)] == ['.webm']
