"""Figures of a clip: what stands in them, and that it stands in the right place."""
import pytest
import torch
from PIL import Image

from flatzoo.visualize import fonts
from flatzoo.visualize.animation import save_cam_gif
from flatzoo.visualize.figures import cam_figure, frames_figure, importance_figure, overlay, super_image_figure
from flatzoo.visualize.fonts import families

pytest.importorskip('matplotlib', reason="needs pip install 'flatzoo[show]'")

TIMES = [0.25 * t for t in range(40)]


def random_pictures(count, height=24, width=32):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def boxes(figure):
    """Where the axes lie, in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    return [ax.get_position().bounds * torch.tensor([width, height, width, height]).numpy() for ax in figure.axes]


def assert_apart(figure):
    """Nothing lies over anything else, or outside."""
    places, (width, height) = boxes(figure), figure.get_size_inches()
    for number, (x, y, w, h) in enumerate(places):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        for x2, y2, w2, h2 in places[number + 1:]:
            assert x + w <= x2 + 1e-6 or x2 + w2 <= x + 1e-6 or y + h <= y2 + 1e-6 or y2 + h2 <= y + 1e-6


def test_overlay_heats_where_the_map_is_high():
    pictures = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    maps = torch.zeros(2, 4, 4)
    maps[1, :2, :2] = 1
    heated = overlay(pictures, maps)
    assert torch.equal(heated[0], pictures[0]) and torch.equal(heated[1, :, 12:], pictures[1, :, 12:])
    assert heated[1, 0, 0, 0] > 130 > 100 > heated[1, 2, 0, 0]  # red
    cells = overlay(pictures, maps, (2, 2))
    assert torch.equal(cells[1, :, 8:], pictures[1, :, 8:]) and torch.equal(cells[1, :, :8, 8:], pictures[1, :, :8, 8:])
    assert (cells[1, :, :8, :8] == cells[1, :, :1, :1]).all()  # nothing leaves its cell
    assert overlay(random_pictures(1, 17, 19), torch.rand(1, 3, 3), (2, 2)).shape == (1, 3, 17, 19)
    empty = overlay(pictures[1:], torch.ones(1, 4, 4), (2, 2), index=[[[0, 1], [2, -1]]])
    assert (empty[0, :, 8:, 8:] == 100).all() and not (empty[0, :, 8:, :8] == 100).all()  # empty cells stay empty
    with pytest.raises(ValueError, match=r'as many maps \[N, h, w\], got torch.uint8 \[2, 3, 16, 16\] and \[1, 4, 4\]'):
        overlay(pictures, maps[:1])


def test_names_of_any_script_find_a_font_or_a_word():
    own = families('running')
    assert families('Läufer, бег') == own  # in matplotlib's own font
    with pytest.warns(UserWarning, match=r'no installed font has \U0001f6f8 \(flying\): boxes are drawn'):
        assert families('\U0001f6f8' + 'a')[:len(own)] == own
    fonts._characters_of.cache_clear()


def test_a_font_of_the_system_steps_in(monkeypatch):
    monkeypatch.setattr(fonts, '_installed', lambda: ('Latin', 'Han'))
    monkeypatch.setattr(fonts, '_characters_of', lambda name, wanted: wanted if name == 'Han' else frozenset())
    assert families('打篮球') == [*families('running'), 'Han']


@pytest.mark.parametrize('count, rows', [(1, 1), (8, 1), (10, 2), (32, 4)])
def test_frames_are_in_reading_order_with_their_times(count, rows):
    frames = random_pictures(count)
    figure = frames_figure(frames, TIMES[:count], 'a title\nand more')
    assert [ax.get_title() for ax in figure.axes] == [f'{time:.2f} s' for time in TIMES[:count]]
    assert len({round(y, 3) for _, y, _, _ in boxes(figure)}) == rows
    assert_apart(figure)
    for frame, ax in zip(frames, figure.axes, strict=True):
        assert (ax.images[0].get_array() == frame.movedim(0, -1).numpy()).all()
    assert [text.get_text() for text in figure.texts] == ['a title', 'and more']
    assert [ax.get_title() for ax in frames_figure(frames[:1]).axes] == ['0']


def test_cells_without_a_frame_are_hatched():
    index = [[[0, 1, 2], [3, -1, -1]]]
    figure = super_image_figure(random_pictures(1, 48, 96), index, TIMES[:4])
    hatched = [patch.get_xy() for patch in figure.axes[0].patches if patch.get_hatch()]
    assert hatched == [(32, 24), (64, 24)]
    assert [text.get_text().split()[0] for text in figure.axes[0].texts] == ['0', '1', '2', '3', 'empty', 'empty']


@pytest.mark.parametrize('count', [2, 8, 16])
def test_images_lie_side_by_side(count):
    index = [[[2 * k, 2 * k + 1]] for k in range(count)]
    figure = super_image_figure(random_pictures(count, 24, 64), index)
    assert len(figure.axes) == count
    assert_apart(figure)
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == [f'{t}' for t in range(2 * count)]


@pytest.mark.parametrize('num_images, grid, pictures', [(1, (2, 2), 2 + 8), (2, (1, 2), 2 + 8), (4, (1, 1), 8)])
def test_maps_lie_over_images_and_frames(num_images, grid, pictures, tmp_path):
    rows, cols = grid
    index = torch.arange(4).view(num_images, rows, cols).tolist()
    figure = cam_figure(
        random_pictures(num_images, 24 * rows, 32 * cols), torch.rand(num_images, 4, 4), random_pictures(4),
        torch.rand(4, 2, 2), index, TIMES[:4], 'title')
    assert len(figure.axes) == pictures + 1  # and the bar of colours
    assert figure.axes[-1].get_xticklabels()[-1].get_text() == '1: most'
    assert_apart(figure)
    figure.savefig(tmp_path / 'cam.png')
    assert (tmp_path / 'cam.png').stat().st_size > 10_000


@pytest.mark.parametrize('count', [2, 8, 40])
def test_bars_stand_below_their_frames(count):
    importance = torch.linspace(-0.02, 0.3, count)
    figure = importance_figure(random_pictures(count), importance, TIMES[:count], 'title')
    *thumbs, ax = figure.axes
    bars = ax.patches
    assert [bar.get_height() for bar in bars] == pytest.approx((100 * importance).tolist(), rel=1e-4)
    assert bars[0].get_facecolor() != bars[-1].get_facecolor()  # against and for
    low, high = ax.get_ylim()
    assert low < -2 and high > 30
    left, _, width, _ = boxes(figure)[-1]
    step = -(-count // len(thumbs))
    for number, (x, _, w, _) in enumerate(boxes(figure)[:-1]):
        assert x + w / 2 == pytest.approx(left + (number * step + 0.5) * width / count)
        assert thumbs[number].get_title() == f'{TIMES[number * step]:.2f} s'
    assert_apart(figure)


def test_animation_shows_every_frame_for_its_time(tmp_path):
    frames = torch.stack([torch.full((3, 32, 48), 60 * t, dtype=torch.uint8) for t in range(4)])
    save_cam_gif(tmp_path / 'cam', frames, torch.zeros(4, 2, 2), [0.0, 0.3, 5.0, 5.01])
    with Image.open(tmp_path / 'cam') as gif:
        assert gif.format == 'GIF' and gif.n_frames == 4 and gif.info['loop'] == 0
        assert gif.size == (2 * 336, 224 + 5)
        durations = []
        for t in range(4):
            gif.seek(t)
            durations.append(gif.info['duration'])
            left, right = (gif.convert('RGB').getpixel((x, 100))[0] for x in (100, 500))
            assert left == right and abs(left - 60 * t) <= 2
    assert durations == [300, 600, 100, 600]
