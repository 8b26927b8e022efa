"""The module that lays clips out, against a naive reference; what it allocates; where it runs."""
import re
import warnings
from collections import Counter

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from flatzoo import Layout, SuperImage

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYOUTS = [
    ('grid', 8), ('grid', 12), ('grid', 14), ('1x8', 8), ('2x4', 8), ('4x2', 8), ('3x3:column', 8), ('4x4:snake', 14),
    ('nested:2x2/2x2', 16), ('nested:1x2/2x2:strided', 8), ('random:2x4', 8), ('time:2', 8), ('time:2:temporal', 16),
    ('time:2,scale=none', 12), ('tall', 8), ('tall', 6), ('dualpath', 16), ('index:[[0,1],[2,-1]]', 3),
    ('index:[[[3,3]],[[1,-1]]]', 4), ('index:[[4,2,0],[5,3,1]]', 6), ('grid,pad=last', 7), ('grid,pad=-1.5', 5),
    ('2x2,scale=cell', 4), ('2x4,scale=composite', 7), ('tall,scale=none,pad=0.5', 6), ('grid,antialias=true', 4),
    ('tall,antialias=false', 4),
]
layouts = pytest.mark.parametrize('spec, num_frames', LAYOUTS)


def random_clip(num_frames, size=(12, 16), batch_size=2, chans=3, dtype=torch.float32):
    clip = torch.randn(batch_size, chans, num_frames, *size, generator=torch.Generator().manual_seed(0))
    return (clip * 40 + 128).clamp(0, 255).to(dtype) if dtype == torch.uint8 else clip.to(dtype)


def naive(clip, spec, img_size=None):
    """Cell by cell, as one would write it down: resize a frame, put it into its place."""
    layout = Layout(spec)
    index = layout.index(clip.shape[2]).tolist()
    rows, cols = len(index[0]), len(index[0][0])
    height, width = img_size or clip.shape[-2:]
    cell = (height // rows, width // cols) if layout.scale == 'cell' else (height, width)

    def resize(image, size):
        return F.interpolate(image, size=size, mode='bilinear', align_corners=False, antialias=layout.antialias)

    def content(frame):
        if frame < 0 and layout.pad != 'last':
            return torch.full((*clip.shape[:2], *cell), layout.pad or 0.)
        return resize(clip[:, :, frame], cell)

    images = [torch.cat([torch.cat([content(f) for f in row], 3) for row in image], 2) for image in index]
    if layout.scale == 'composite':
        images = [resize(image, (height, width)) for image in images]
    return torch.stack(images, 1).flatten(0, 1)


@layouts
@pytest.mark.parametrize('img_size', [None, (12, 16), (24, 8)])
def test_equals_naive_reference(spec, num_frames, img_size):
    clip = random_clip(num_frames)
    module = SuperImage(num_frames, spec, img_size).eval()
    image = module(clip)
    torch.testing.assert_close(image, naive(clip, spec, img_size), rtol=0, atol=1e-6)
    assert module.num_images == len(image) // 2
    if img_size is not None:
        assert image.shape[-2:] == module.image_size


class Calls(TorchDispatchMode):
    """Counts operators that touch memory."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if not func.is_view:
            self.counts[func.overloadpacket.__name__] += 1
        return out


@pytest.mark.parametrize('spec, num_frames, copies, fills', [
    ('grid', 8, 2, 1),  # SIFAR: two full rows, the rest of the third, the empty cell
    ('grid', 16, 1, 0), ('4x4', 14, 2, 1), ('2x4', 8, 1, 0), ('3x3:column', 9, 1, 0), ('time:2', 16, 1, 0),
    ('time:2:temporal', 16, 1, 0), ('nested:2x2/2x2', 16, 4, 0), ('tall,scale=none', 8, 1, 0),
    ('grid,pad=last', 8, 3, 0),
])
def test_writes_every_pixel_once(spec, num_frames, copies, fills):
    module = SuperImage(num_frames, spec if 'time' not in spec else f'{spec},scale=none', 16).eval()
    clip = random_clip(num_frames, (16, 16))
    with Calls() as calls:
        module(clip)
    assert calls.counts == +Counter(empty=1, copy_=copies, fill_=fills)
    out = module(clip).zero_()
    with Calls() as calls:
        module(clip, out=out)
    assert calls.counts == +Counter(copy_=copies, fill_=fills)


@layouts
def test_out_buffer(spec, num_frames):
    clip = random_clip(num_frames)
    module = SuperImage(num_frames, spec).eval()
    expected = module(clip)
    out = torch.full_like(expected, float('nan'))
    assert module(clip, out=out).data_ptr() == out.data_ptr()
    assert torch.equal(out, expected)
    for wrong in (out[:, :1], out.repeat(2, 1, 1, 1), out.to(torch.uint8)):
        with pytest.raises(ValueError, match=r'out= is torch.* of shape \[.*needs a floating dtype and shape \['):
            module(clip, out=wrong)


@pytest.mark.parametrize('size, img_size', [((16, 16), 16), ((20, 12), 16)], ids=['same', 'resized'])
def test_uint8_is_normalised(size, img_size):
    clip = random_clip(8, size, dtype=torch.uint8)
    module = SuperImage(8, 'grid', img_size, MEAN, STD)
    image = module(clip)
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)
    torch.testing.assert_close(image, naive((clip / 255 - mean) / std, 'grid', (img_size, img_size)), rtol=0, atol=1e-5)
    assert image.dtype == torch.float32
    assert (image[:, :, 32:, 32:] == 0).all()  # SIFAR's empty cells: exactly zero after normalisation
    assert (SuperImage(8, 'grid,pad=0.25', img_size, MEAN, STD)(clip)[:, :, 32:, 32:] == 0.25).all()
    half = SuperImage(8, 'grid', img_size, MEAN, STD, dtype=torch.bfloat16)(clip)
    assert half.dtype == torch.bfloat16 and (half - image).abs().max() < 0.05


def test_uint8_without_mean_wants_a_pad_value():
    clip = random_clip(8, dtype=torch.uint8)
    with pytest.raises(ValueError, match='pad=0.*pad=last.*normalised float'):
        SuperImage(8)(clip)
    image = SuperImage(8, 'grid,pad=7')(clip)
    assert image.dtype == torch.uint8 and (image[:, :, 24:, 32:] == 7).all()
    assert torch.equal(image[:, :, :12, :16], clip[:, :, 0])
    assert torch.equal(SuperImage(8, 'grid,pad=last')(clip)[:, :, 24:, 32:], clip[:, :, 7])
    assert SuperImage(8, '2x4')(clip).dtype == torch.uint8  # no empty cell, no question
    resized = SuperImage(8, '2x4', 8)(clip)
    expected = SuperImage(8, '2x4', 8)(clip.float())
    assert resized.dtype == torch.uint8 and (resized - expected).abs().max() <= 1


@pytest.mark.parametrize('mean, std', [((0.5,), (0.5, 0.5)), ((0.5,), (0.,))])
def test_bad_normalisation(mean, std):
    with pytest.raises(ValueError, match='mean and std must each have one value per channel'):
        SuperImage(8, mean=mean, std=std)


@layouts
def test_inverse(spec, num_frames):
    module = SuperImage(num_frames, spec).eval()
    clip = random_clip(num_frames)
    maps = module(clip)
    if 'index:[[[3' in spec:
        with pytest.raises(ValueError, match=r'leaves out the frames \[0, 2\]'):
            module.inverse(maps)
        return
    frames = module.inverse(maps)
    assert frames.shape[:3] == (2, num_frames, 3)
    if module.scale == 'none':
        assert torch.equal(frames, clip.transpose(1, 2))
    else:
        for t in range(num_frames):
            images = maps.unflatten(0, (2, module.num_images))
            ((k, r, c),) = (Layout(spec).index(num_frames) == t).nonzero().tolist()
            height, width = frames.shape[-2:]
            cell = images[:, k, :, r * height:(r + 1) * height, c * width:(c + 1) * width]
            assert torch.equal(frames[:, t], cell)
    with pytest.raises(ValueError, match='do not split into'):
        module.inverse(maps[:, :, :-1, :-1])


def test_inverse_averages_repeated_frames():
    module = SuperImage(2, [[0, 1], [0, 0]])
    (frames,) = module.inverse(torch.tensor([[[[1., 5.], [2., 6.]]]]))
    assert frames.flatten().tolist() == [3., 5.]


@pytest.mark.parametrize('always', [False, True])
def test_random_order(always):
    module = SuperImage(8, 'random:2x4' + (':always' if always else ''))
    plain = SuperImage(8, '2x4')
    clip = random_clip(8, batch_size=16)

    def frames(image):
        return plain.inverse(image).mean((2, 3, 4))  # a number for each frame

    for training, shuffled in ((True, True), (False, always)):
        module.train(training)
        torch.manual_seed(0)
        first = frames(module(clip))
        assert torch.equal(first, frames(plain(clip))) != shuffled
        torch.testing.assert_close(first.sort(1).values, frames(plain(clip)).sort(1).values, rtol=0, atol=0)
        torch.manual_seed(0)
        assert torch.equal(frames(module(clip)), first)
        assert torch.equal(frames(module(clip)), first) != shuffled  # drawn anew
    order = module.draw(16, torch.Generator().manual_seed(3))
    assert torch.equal(order, module.draw(16, torch.Generator().manual_seed(3)))
    assert len({tuple(row) for row in order.tolist()}) > 10  # every clip has its own
    assert torch.equal(module.inverse(module(clip, order=order), order=order), clip.transpose(1, 2))


@pytest.mark.parametrize('kwargs, clip, message', [
    (dict(), torch.zeros(1, 3, 4, 8, 8), r'T=8, H, W\), got \[1, 3, 4, 8, 8\].*num_frames='),
    (dict(), torch.zeros(1, 3, 8, 8), r'T=8, H, W\), got \[1, 3, 8, 8\]'),
    (dict(), torch.zeros(1, 3, 8, 8, 8, dtype=torch.int64), 'floating-point .* or uint8 .*int64'),
    (dict(layout='3x3,scale=cell'), torch.zeros(1, 3, 8, 32, 32),
    '32x32 pixels into 3x3 cells.*33x33.*scale=composite'),
])
def test_wrong_clips(kwargs, clip, message):
    with pytest.raises(ValueError, match=message):
        SuperImage(8, **kwargs)(clip)


@pytest.mark.parametrize('kwargs, message', [
    (dict(layout='3x3,scale=cell', img_size=32), 'use a frame of 33x33 pixels'),
    (dict(layout='2x2'), 'has 4 cells and 8 frames'),
    (dict(img_size=0), 'must be positive whole pixels'),
    (dict(img_size=(8, -1)), 'must be positive whole pixels'),
])
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SuperImage(8, **kwargs)
    if 'use a frame' in message:
        SuperImage(8, **dict(kwargs, img_size=33))


@pytest.mark.parametrize('spec, num_frames', [
    ('grid', 5), ('time:2', 4), ('tall', 4), ('grid,pad=last', 3), ('random:2x2', 4),
])
def test_gradients(spec, num_frames):
    clip = random_clip(num_frames, (4, 4), 1, 1, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(SuperImage(num_frames, spec, 6).eval(), (clip,))


@pytest.mark.parametrize('spec, num_frames', [
    ('grid', 8), ('time:2', 8), ('tall', 8), ('random:3x3', 8), ('grid,pad=last', 7),
])
@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
@pytest.mark.parametrize('how', ['compile', 'export', 'script'])
def test_runs_everywhere(how, spec, num_frames, dtype):
    module = SuperImage(num_frames, spec, 20, MEAN, STD).eval()
    clip = random_clip(num_frames, dtype=dtype)
    if how == 'compile':
        torch.compiler.reset()
        run = torch.compile(module, fullgraph=True, backend='aot_eager')
    elif how == 'export':
        batch = torch.export.Dim('batch', min=2, max=8)
        run = torch.export.export(
            module, (random_clip(num_frames, batch_size=3, dtype=dtype),), dynamic_shapes={'clip': {0: batch}}).module()
    else:
        run = torch.jit.script(module)
    torch.testing.assert_close(run(clip), module(clip))


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
@pytest.mark.parametrize('kept', [False, True])
def test_frames_of_a_decoder(dtype, kept):
    """Channels side by side, cropped: they stay so, and no pixel differs."""
    frames = (255 * torch.rand(8, 24, 30, 3)).to(dtype)
    clip = frames.permute(3, 0, 1, 2)[None, ..., 2:22, 5:25]
    module = SuperImage(8, 'grid', 20, MEAN, STD)
    out = torch.empty(1, 3, 60, 60).to(memory_format=torch.channels_last) if kept else None
    image = module(clip, out=out)
    assert image.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(image, module(clip.contiguous()), rtol=0, atol=0)
    if dtype == torch.uint8:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            module(clip, out=out)
        scales = [event.input_shapes[1] for event in profile.events() if event.name in ('aten::mul_', 'aten::add_')]
        assert scales == [[3, 1, 60]] * 2  # a loop over the pixels of a row, not over three channels


@pytest.mark.parametrize('size', [(20, 20), (12, 16)])
def test_memory_formats_and_dtypes(size):
    module = SuperImage(8, 'grid', 20, MEAN, STD)
    clip = random_clip(8, size)
    image = module(clip)
    channels_last = module(clip.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(channels_last, image)
    if size == (20, 20):
        assert channels_last.is_contiguous(memory_format=torch.channels_last)
    assert module(clip.bfloat16()).dtype == torch.bfloat16
    assert (module(clip.bfloat16()) - image).abs().max() < 0.05
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(module(clip), image)
    sliced = random_clip(16, size)[:, :, ::2]  # a clip that is a view
    torch.testing.assert_close(module(sliced), module(sliced.contiguous()), rtol=0, atol=0)


def test_meta_device_and_materialising():
    module = SuperImage(8, 'grid', 20, MEAN, STD, device='meta')
    for dtype in (torch.float32, torch.uint8):
        assert module(random_clip(8, dtype=dtype).to('meta')).shape == (2, 3, 60, 60)
    module.to_empty(device='cpu').init_non_persistent_buffers()
    clip = random_clip(8, dtype=torch.uint8)
    assert torch.equal(module(clip), SuperImage(8, 'grid', 20, MEAN, STD)(clip))
    assert not module.state_dict()
    assert "layout='grid'" in repr(module)


@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
def test_number_of_channels_is_checked(dtype):
    module = SuperImage(4, '2x2', 8, mean=(.5,) * 3, std=(.5,) * 3)
    with pytest.raises(ValueError, match=r'clip of 3 channels.*in_chans='):
        module(torch.zeros(1, 1, 4, 8, 8, dtype=dtype))


@pytest.mark.parametrize('pad', ['300', '-1', '0.5'])
def test_padding_of_uint8_images_is_a_grey_level(pad):
    with pytest.raises(ValueError, match='hold 0 to 255'):
        SuperImage(3, f'2x2,pad={pad}', 8)(torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8))


@pytest.fixture
def normalising():
    return SuperImage(8, img_size=4, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize('shape', [
    (1, 8, 3, 4, 4), (1, 8, 4, 4, 3), (3, 8, 4, 4), (8, 3, 4, 4), (8, 4, 4, 3), (1, 8, 8, 4, 3)])
@pytest.mark.parametrize('kind', ['tensor', 'numpy', 'list'])
def test_the_line_that_mends_a_clip(normalising, shape, kind):
    """The error has a line of code; run on the clip, it gives one that is taken."""
    clip = torch.zeros(shape, dtype=torch.uint8)
    clip = clip if kind == 'tensor' else clip.numpy() if kind == 'numpy' else [part.numpy() for part in clip]
    with pytest.raises((TypeError, ValueError), match='[Gg]ive ') as error:
        normalising(clip)
    line = re.search(r'[Gg]ive (.*)\.$', str(error.value))[1]
    mended = eval(line, dict(clip=clip, torch=torch, numpy=numpy))
    assert normalising(mended).shape == (1, 3, 12, 12)


def test_double_clips_are_taken(normalising):
    clip = torch.randn(1, 3, 8, 4, 4, dtype=torch.float64)
    image = normalising(clip)
    assert image.dtype == torch.float32 and torch.equal(image, normalising(clip.float()))
    assert normalising.double()(clip).dtype == torch.float64
    with pytest.raises(ValueError, match=r'clip.to\(torch.uint8\)'):
        normalising(clip.long())


def test_float_pixels_are_warned_about_once(normalising):
    clip = torch.full((1, 3, 8, 4, 4), 255.)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        normalising(torch.randn(1, 3, 8, 4, 4))
        normalising(clip.byte())
        torch.compile(normalising, fullgraph=True, backend='eager')(clip)
        torch.jit.script(normalising)(clip)
    with pytest.warns(UserWarning, match='values up to 255, but float clips must be normalised'):
        normalising(clip)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        normalising(clip)
