"""The timeline of the demo page: of long videos, of the camera, and in a real browser."""
import base64
import csv
import io
import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import flatzoo
from flatzoo.data.actions import write_spliced
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.demo.follow import SESSIONS, Cameras, follow_video
from flatzoo.demo.pictures import PAPER, picture_html
from flatzoo.demo.server import serve
from flatzoo.demo.timeline import LINES, POINTS, clock, empty_timeline, event_files, timeline_html
from flatzoo.demo.uploads import Turns
from flatzoo.inference.classifier import Prediction
from flatzoo.inference.events import Event
from flatzoo.inference.windows import Record

MODEL = 'sifar_resnet10t'
CLIP = str(Path(flatzoo.__file__).parent / 'data' / 'assets' / 'is_picked_up.mp4')
PATIENCE = 300_000  # milliseconds; only a test that fails waits for so long


@pytest.fixture(scope='module')
def model():
    return timm.create_model(MODEL, pretrained=True).eval()


@pytest.fixture(scope='module')
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp('videos') / 'long.mp4'
    write_spliced(path, 12, seed=1000, split='test')
    return str(path)


def records(*labels, every=1.0, probability=0.9):
    return [
        Record(number * every, number * every + 2, (Prediction(label, 0, probability),))
        for number, label in enumerate(labels)]


def points(text):
    return [[tuple(map(float, pair.split(','))) for pair in line.split()]
            for line in re.findall('points="(.*?)"', text)]


# The timeline


def test_bars_lie_where_the_events_are():
    answers = records(*'aaabbb')
    events = flatzoo.events(answers, smooth=1)
    assert [(event.label, event.start, event.end) for event in events] == [('a', 0, 3.5), ('b', 3.5, 7)]
    text = timeline_html(answers, events, 'clip.mp4', 'about')
    bars = re.findall(r'<i style="left: ([\d.]+)%; width: ([\d.]+)%; background: var\((.*?)\);', text)
    assert bars == [('0.000', '50.000', '--c0'), ('50.000', '50.000', '--c1')]
    assert 'data-length="7.000"' in text and re.findall('data-time="(.*?)"', text) == ['0.000', '3.500']
    a, b = points(text)
    assert a[0] == pytest.approx((1000 / 7, 97 - 94 * 0.9), abs=0.1) and a[-1][1] == 97 and b[-1][1] < 20


def test_bars_that_overlap_lie_in_lanes():
    answers = records(*'aaabbb')
    text = timeline_html(answers, [Event(0, 4, 'a', .9), Event(1, 2, 'b', .9), Event(5, 7, 'b', .9)], 'clip.mp4', '')
    assert re.findall(r'top: ([\d.]+)%; height: ([\d.]+)%"', text) == [
        ('0.00', '50.00'), ('50.00', '50.00'), ('0.00', '50.00')]


def test_a_part_of_a_camera_is_shown():
    answers = records(*'aaaabb', every=10)
    events = flatzoo.events(answers, smooth=1)
    text = timeline_html(answers, events, 'camera', '', start=30, end=60, can_jump=False)
    assert 'data-length' not in text and 'data-time' not in text and '0:30.0' in text
    lefts = [float(left) for left in re.findall(r'left: ([\d.]+)%', text)]
    assert lefts == [0, pytest.approx(100 * (36 - 30) / 30)]  # the first one began before


def test_peaks_and_gaps_stay():
    answers = records(*['a'] * 4000, every=0.5, probability=0.1)
    answers[1234] = Record(617, 619, (Prediction('a', 0, 1.0),))
    [line] = points(timeline_html(answers, [], 'a.mp4', ''))
    assert len(line) <= POINTS + 1 and min(y for _, y in line) == 3  # the highest one
    parts = points(timeline_html([*answers[:5], *answers[-5:]], [], 'a.mp4', ''))
    assert len(parts) == 2 and parts[0][-1][0] < 10 < 990 < parts[1][0][0]


def test_many_classes_have_the_colours_that_there_are():
    answers = records(*map(str, range(20)))
    text = timeline_html(answers, flatzoo.events(answers, smooth=1), 'a.mp4', '')
    assert text.count('<li>') == LINES and 'var(--rest)' in text and f'var(--c{LINES})' not in text


def test_names_cannot_do_anything():
    name = '<img src=x onerror=alert(1)>\x1b"'
    answers = records(name)
    for text in (
            timeline_html(answers, flatzoo.events(answers, smooth=1), f'{name}.mp4', name), empty_timeline(name)):
        assert '<img' not in text and text.count('"') % 2 == 0
        assert name not in text and '&lt;img src=x onerror' in text


def test_files_of_the_events():
    answers = records('a', 'a', 'b, "c"', 'b, "c"')
    events = flatzoo.events(answers, smooth=1)
    text = timeline_html(answers, events, 'match.final.mp4', '')
    links = dict(re.findall(r'<a download="(.*?)" href="data:.*?;base64,(.*?)">', text))
    assert list(links) == [f'match.final{suffix}' for suffix in event_files(events)]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(links['match.final.csv']).decode())))
    assert [row['label'] for row in rows] == ['a', 'b, "c"'] and float(rows[1]['start']) == 2.5
    assert json.loads(base64.b64decode(links['match.final.json']))[0]['end'] == 2.5
    assert base64.b64decode(links['match.final.srt']).decode().startswith('1\n00:00:00,000 --> 00:00:02,500\na (90%)')
    assert 'download' not in timeline_html(answers, events, 'a.mp4', '', is_complete=False)
    assert 'No event' in timeline_html(answers, [], 'a.mp4', '')


@pytest.mark.parametrize('seconds, text', [(0, '0:00.0'), (4.46, '0:04.5'), (59.96, '1:00.0'), (3661, '1:01:01')])
def test_clock(seconds, text):
    assert clock(seconds) == text


# Videos


def test_a_video_is_followed(model, long):
    texts = list(follow_video(model, long, seconds=0))
    answers = list(flatzoo.predict_windows(long, model, note=lambda _: None))
    assert 2 <= len(texts) <= len(answers) + 1 and all('so far.' in text for text in texts[:-1])
    assert ['download=' in text for text in texts] == [False] * (len(texts) - 1) + [True]
    found = re.findall(r'data-time="(.*?)".*?<td>(?!\d)(.*?)</td>', texts[-1])
    expected = flatzoo.events(answers)
    assert len(expected) > 2
    assert found == [(f'{event.start:.3f}', event.label) for event in expected]


def test_it_ends_when_nobody_wants_more(model, long):
    asked = []
    list(follow_video(model, long, lambda: asked.append(0) or len(asked) < 3, seconds=0))
    assert len(asked) == 3


def test_a_short_video_has_no_timeline(model):
    assert list(follow_video(model, CLIP)) == []


def test_what_is_wrong_with_a_file_is_said(model, long, tmp_path):
    cut = tmp_path / 'cut.ts'
    write_spliced(cut, 6, seed=1000, split='test')
    data = cut.read_bytes()
    cut.write_bytes(data[:len(data) // 3] + bytes(len(data) // 10) + data[len(data) // 2:])
    *_, text = follow_video(model, str(cut))
    assert 'cut.ts: ' in text and str(tmp_path) not in text


def test_turns():
    turns = Turns()
    assert not turns.take('me', 'a')
    turns.want('me', 'a')
    turns.want('you', 'a')
    assert turns.take('me', 'a') and not turns.take('me', 'a') and turns.take('you', 'a')
    turns.want('me', 'a')  # only the order of the frames has changed
    assert turns.wants('me', 'a') and not turns.take('me', 'a')
    turns.want('me', 'b')
    assert not turns.wants('me', 'a') and not turns.take('me', 'a') and turns.take('me', 'b')
    turns.want('me', None)
    turns.want('me', 'b')  # the same video again
    assert turns.take('me', 'b') and turns.wants('you', 'a')


# The camera


def test_a_camera_answers_as_a_file(model, long):
    cameras, seen = Cameras(), []
    with VideoReader(long) as video:
        frames, times = video.get_frames(range(80)), video.timestamps[:80].tolist()
    for frame, time in zip(frames, times):
        image = frame.permute(1, 2, 0).numpy()
        image.flags.writeable = False  # as they come from the page
        answer = cameras.push('me', image, model, 'settings', 100 + time)
        if answer is not None:
            seen.append(answer)
    expected = list(flatzoo.predict_windows(long, model, note=lambda _: None))[:len(seen)]
    assert len(seen) >= 6
    for (record, _), other in zip(seen, expected, strict=True):
        assert record.start == pytest.approx(other.start)
        torch.testing.assert_close(record.logits, other.logits, atol=1e-4, rtol=1e-4)
    assert 'The last 60 seconds' in seen[-1][1] and '1:00.0' in seen[-1][1]


def test_cameras_begin_anew_and_end(model):
    cameras, image = Cameras(), np.zeros((32, 32, 3), np.uint8)
    for moment in (0, 1, 1, 1.5):  # one comes twice
        assert cameras.push('me', image, model, 'a', moment) is None
    assert cameras.push('me', image, model, 'a', 2.1)[0].end == 2
    assert cameras.push('me', image, model, 'b', 2.2) is None and cameras.push('me', image, model, 'b', 3) is None
    cameras.close('me')
    assert cameras.push('me', image, model, 'b', 4.3) is None
    for number in range(SESSIONS - 1):
        cameras.push(str(number), image, model, 'a', 0)
    with pytest.raises(VideoError, match='are watched already'):
        cameras.push('one more', image, model, 'a', 0)


# Pictures


def test_pictures_are_as_dark_as_the_page(model):
    pytest.importorskip('pytorch_grad_cam', reason="needs pip install 'flatzoo[demo]'")
    from flatzoo.demo.answer import answer_video

    answer = answer_video(model, CLIP)
    corners = {}
    for dark in (False, True):
        [*_, text] = picture_html(answer, dark)
        image = Image.open(io.BytesIO(base64.b64decode(re.search('base64,(.*?)"', text)[1]))).convert('RGB')
        corners[dark] = '#{:02x}{:02x}{:02x}'.format(*image.getpixel((0, 0)))
        darkness = np.asarray(image.crop((0, image.height * 2 // 3, image.width, image.height))).mean()
        assert darkness < 90 if dark else darkness > 160
    assert corners == {False: '#ffffff', True: PAPER}


# The page


def test_page(model, long, monkeypatch):
    """A click on the timeline and on a time makes the player jump; the camera gets a timeline, too."""
    reason = "needs pip install 'flatzoo[demo]' playwright"
    for name in ('gradio', 'pytorch_grad_cam'):
        pytest.importorskip(name, reason=reason)
    playwright = pytest.importorskip('playwright.sync_api', reason=reason)
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('needs the browser chromium (apt-get install chromium)')
    from flatzoo.demo.answer import Limits

    for name in ('GRADIO_TEMP_DIR', 'GRADIO_ANALYTICS_ENABLED'):  # set by the page
        monkeypatch.setenv(name, '')
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    arguments = ['--no-sandbox', '--use-fake-device-for-media-stream=fps=5', '--use-fake-ui-for-media-stream']
    with (
        serve(lambda *_: model, [MODEL], Limits(10, 600), port=port) as address, playwright.sync_playwright() as driver,
        driver.chromium.launch(executable_path=chromium, args=arguments) as browser,
        browser.new_context(viewport={'width': 390, 'height': 844}, color_scheme='dark') as context,
    ):
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_selector('input[type=file]', state='attached')
        page.locator('input[type=file]').first.set_input_files(long)
        page.wait_for_selector('.flatzoo-timeline .files')
        assert re.search(r'Top 5 for all of 0:1\d\.\d, from 8 frames', page.inner_text('.flatzoo-answer'))
        assert page.evaluate('document.documentElement.scrollWidth') == 390
        above = [page.locator(name).first.bounding_box()['y'] for name in (
            '.flatzoo-video', '.flatzoo-timeline', '.flatzoo-answer', '.flatzoo-controls')]
        assert above == sorted(above)
        image = page.get_by_alt_text('Which frames matter').get_attribute('src')
        pixels = Image.open(io.BytesIO(base64.b64decode(image.partition(',')[2]))).convert('RGB')
        assert '#{:02x}{:02x}{:02x}'.format(*pixels.getpixel((0, 0))) == PAPER

        now = "document.querySelector('.flatzoo-video video').currentTime"
        time = page.locator('[data-time]').nth(1)
        time.click()
        assert page.evaluate(now) == pytest.approx(float(time.get_attribute('data-time')), abs=0.1)
        band = page.locator('[data-length]')
        band.click(position={'x': band.bounding_box()['width'] / 2, 'y': 10})
        assert page.evaluate(now) == pytest.approx(float(band.get_attribute('data-length')) / 2, abs=0.1)
        assert page.evaluate("parseFloat(document.querySelector('.head').style.left)") == pytest.approx(50, abs=1)
        with page.expect_download() as download:
            page.get_by_role('link', name='CSV').click()
        assert download.value.suggested_filename == 'long.csv'

        page.get_by_role('tab', name='Live').click()
        page.get_by_text('Click to Access Webcam').click()
        page.locator('.flatzoo-live').get_by_title('start recording').click()
        page.wait_for_selector('.flatzoo-timeline polyline')
        assert 'The last 60 seconds' in page.inner_text('.flatzoo-timeline')
        assert 'Top 5 of the last ' in page.inner_text('.flatzoo-answer')
