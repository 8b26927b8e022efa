"""The scenes of the procedural actions: textures, shapes, actors and their motion, and the painter that renders them.

A scene is a list of layers, back to front: a background, bystanders that stand or drift in the same way in every class,
and the actors. A layer is a sprite (a textured shape) with a pose that is a function of continuous time. A clip of 8
frames therefore shows the same action as one of 32. Textures are procedural or cut from a real clip in the package. The
actor's shape and texture and the texture of the background are available as labels. A seed determines everything. This
module has the even action of each pair; `actions.py` makes the odd one by reversing it.
"""
import functools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    'SCENE_CLASSES', 'SPLITS', 'Split', 'describe', 'paint', 'paint_frame', 'paint_stretch', 'surface_texture']

Split = Literal['train', 'test']
SPLITS: tuple[Split, ...] = get_args(Split)
REAL_CLIP = Path(__file__).parents[1] / 'assets' / 'carphone.mp4'

SURFACES = ('stripes', 'checks', 'dots', 'rings', 'noise', 'gradient', 'real')
TEST_SURFACES = (*SURFACES, 'marble', 'waves')  # two more kinds, which the training split never shows
SHAPES = ('disc', 'box', 'bar', 'triangle', 'polygon', 'star', 'blob', 'cross')
TURNING_SHAPES = ('bar', 'triangle', 'blob', 'arrow')  # shapes of low symmetry, so that turning is visible
ROUNDISH_SHAPES = ('disc', 'box', 'polygon', 'star', 'blob')  # shapes that a hand can hold
PROPS = ('slab', 'hand')  # further things that an action needs
SCENE_CLASSES = {'object': (*SHAPES, 'arrow'), 'texture': TEST_SURFACES, 'place': TEST_SURFACES}

Progress = Callable[[float], float]  # of time; both 0...1


class _Pose(NamedTuple):
    """Where a layer is: centre and half-extents in half frames (x right, y down), clockwise angle, opacity."""
    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    alpha: float = 1.0


class _Sprite(NamedTuple):
    """A picture and what it shows."""
    pixels: Tensor  # [4, S, S]: RGB and coverage, 0..1
    shape: str
    surface: str  # the kind of its texture


class _Layer(NamedTuple):
    """A picture and its motion."""
    sprite: _Sprite
    pose: Callable[[float], _Pose]  # of time, 0..1
    padding_mode: str = 'zeros'


class _Scene(NamedTuple):
    """The layers of the even action of a pair, back to front."""
    place: _Layer
    bystanders: list[_Layer]
    actors: list[_Layer]


_MakeSprite = Callable[..., _Sprite]  # (shape, scale, rim)


# Textures


@functools.cache
def _real_frames() -> Tensor:
    """Six frames of the shipped real clip, evenly spaced, as float `[6, 3, H, W]` in 0..1; decoded once."""
    import av

    with av.open(str(REAL_CLIP)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format='rgb24')) for frame in container.decode(video=0)]
    picks = [(2 * i + 1) * len(frames) // 12 for i in range(6)]
    return torch.stack([frames[i] for i in picks]).permute(0, 3, 1, 2).float().div(255)


def _coordinates(px: int) -> tuple[Tensor, Tensor]:
    """Pixel centres of a square of `px` pixels: x `[1, px]` and y `[px, 1]` in -1..1."""
    axis = (torch.arange(px, dtype=torch.float32) * 2 + 1) / px - 1
    return axis[None], axis[:, None]


def _value_noise(generator: torch.Generator, px: int, cells: tuple[int, ...]) -> Tensor:
    """Smooth random field `[px, px]` in 0..1, a sum of octaves with `cells` random values per side."""
    field = torch.zeros(px, px)
    for octave, n in enumerate(cells):
        values = torch.rand(1, 1, n, n, generator=generator)
        field += F.interpolate(values, (px, px), mode='bilinear', align_corners=False)[0, 0] / 2**octave
    return field / sum(0.5**octave for octave in range(len(cells)))


def _surface(rng: random.Random, split: str) -> str:
    """A random kind of texture."""
    return rng.choice(SURFACES if split == 'train' else TEST_SURFACES)


def _texture(rng: random.Random, px: int, split: str, kind: str) -> Tensor:
    """A random texture `[3, px, px]` in 0..1: a scalar field between two colours, or a crop of the real clip."""
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    if kind == 'real':
        frames = _real_frames()
        height, width = frames.shape[-2:]
        side = rng.randint(height // 4, height // 2)
        # The splits share no pixel of the real clip: training takes the left half, testing the right one.
        x0 = rng.randint(0, width // 2 - side) + (width // 2 if split == 'test' else 0)
        y0 = rng.randint(0, height - side)
        crop = frames[rng.randrange(len(frames)), :, y0 : y0 + side, x0 : x0 + side]
        if rng.random() < 0.5:
            crop = crop.flip(-1)
        return F.interpolate(crop[None], (px, px), mode='bilinear', align_corners=False, antialias=True)[0]
    x, y = _coordinates(px)
    theta, phase, frequency = rng.uniform(0, math.pi), rng.uniform(0, math.tau), rng.uniform(3, 12)
    along = x * math.cos(theta) + y * math.sin(theta)
    across = y * math.cos(theta) - x * math.sin(theta)
    if kind == 'stripes':
        field = (along * frequency + phase).sin() * rng.uniform(0.5, 2)
    elif kind == 'checks':
        field = (along * frequency + phase).sin() * (across * frequency).sin() * 4
    elif kind == 'dots':
        field = ((along * frequency + phase).cos() + (across * frequency).cos() - 0.6) * 2
    elif kind == 'rings':
        radius = ((x - rng.uniform(-1, 1)) ** 2 + (y - rng.uniform(-1, 1)) ** 2).sqrt()
        field = (radius * frequency + phase).sin()
    elif kind == 'noise':
        field = (_value_noise(generator, px, (3, 6, 12)) - 0.5) * 4
    elif kind == 'gradient':
        field = along
    elif kind == 'marble':
        field = (along * frequency + (_value_noise(generator, px, (4, 8)) - 0.5) * 12).sin()
    else:  # waves
        field = (along * frequency + (across * rng.uniform(2, 6) + phase).sin() * 1.5).sin()
    field = (field * 0.5 + 0.5).clamp(0, 1)
    low, high = (torch.tensor([rng.random() for _ in range(3)])[:, None, None] for _ in range(2))
    grain = torch.rand(px, px, generator=generator) - 0.5
    return (low + field * (high - low) + grain * rng.uniform(0, 0.12)).clamp(0, 1)


def surface_texture(rng: random.Random, px: int, split: str) -> Tensor:
    """A random texture `[3, px, px]` in 0..1 of a random kind of those of a split."""
    return _texture(rng, px, split, _surface(rng, split))


# Shapes


def _polygon(x: Tensor, y: Tensor, sides: int) -> Tensor:
    """Signed distance to a regular polygon that fits the sprite."""
    inner = 0.92 * math.cos(math.pi / sides)
    normals = (math.tau * (k + 0.5) / sides - math.pi / 2 for k in range(sides))
    distances = [x * math.cos(a) + y * math.sin(a) - inner for a in normals]
    return functools.reduce(torch.maximum, distances)


def _box(x: Tensor, y: Tensor, width: float, height: float, cx: float = 0.0, cy: float = 0.0) -> Tensor:
    """Signed distance (exact near the edges) to an axis-aligned box of the given half-extents."""
    return torch.maximum((x - cx).abs() - width, (y - cy).abs() - height)


def _distance(shape: str, rng: random.Random, px: int) -> Tensor:
    """Signed distance `[px, px]` of a shape within the sprite -1..1, negative inside."""
    x, y = _coordinates(px)
    if shape == 'disc':
        return (x**2 + y**2).sqrt() - 0.92
    if shape == 'box':
        return _box(x, y, rng.uniform(0.65, 0.92), rng.uniform(0.65, 0.92))
    if shape == 'bar':
        return _box(x, y, 0.95, rng.uniform(0.25, 0.4))
    if shape == 'slab':
        return _box(x, y, 0.97, 0.97)
    if shape == 'triangle':
        return _polygon(x, y, 3)
    if shape == 'polygon':
        return _polygon(x, y, rng.choice((5, 6)))
    if shape == 'cross':
        arm = rng.uniform(0.25, 0.4)
        return torch.minimum(_box(x, y, 0.92, arm), _box(x, y, arm, 0.92))
    if shape == 'arrow':
        head = functools.reduce(torch.maximum, (-x - 0.1, x * 0.7 + y * 0.7 - 0.62, x * 0.7 - y * 0.7 - 0.62))
        return torch.minimum(head, _box(x, y, 0.5, 0.25, cx=-0.45))
    if shape == 'hand':  # an arm that comes from above and ends in two fingers
        arm = torch.minimum(_box(x, y, 0.1, 0.9, cy=-0.5), _box(x, y, 0.24, 0.09, cy=0.4))
        fingers = torch.minimum(_box(x, y, 0.05, 0.2, cx=-0.22, cy=0.55), _box(x, y, 0.05, 0.2, cx=0.22, cy=0.55))
        return torch.minimum(arm, fingers)
    angle = torch.atan2(y, x)
    radius = (x**2 + y**2).sqrt()
    if shape == 'star':
        return radius - 0.68 - 0.24 * (angle * 5).cos()
    # blob: a circle whose radius wobbles
    wobble = sum(rng.uniform(0.08, 0.14) * (angle * k + rng.uniform(0, math.tau)).cos() for k in (1, 2, 3))
    return radius - 0.6 - wobble


def _sprite(rng: random.Random, px: int, split: str, shape: str, dark_scene: bool, rim: float = 0.12) -> _Sprite:
    """A textured shape with a rim that stands out from the background."""
    distance = _distance(shape, rng, px)
    surface = _surface(rng, split)
    texture = _texture(rng, px, split, surface)
    rim_colour = rng.uniform(0.8, 1.0) if dark_scene else rng.uniform(0.0, 0.2)
    edge = (distance * (px / 2) + 0.5 + rim * px / 2).clamp(0, 1)  # 0 inside, 1 on the rim; one pixel soft
    coverage = (0.5 - distance * (px / 2)).clamp(0, 1)
    return _Sprite(torch.cat((texture + edge * (rim_colour - texture), coverage[None])), shape, surface)


# Scenes


def _progress(rng: random.Random, slack: float = 0.15) -> Progress:
    """A random progress of an action over time: from 0 to 1, with a rest before and after, and some easing."""
    start, stop, ease = rng.uniform(0, slack), rng.uniform(1 - slack, 1), rng.random()

    def progress(t: float) -> float:
        s = min(max((t - start) / (stop - start), 0.0), 1.0)
        return s + ease * (s * s * (3 - 2 * s) - s)

    return progress


def _scene(pair: int, seed: int, px: int, split: str) -> _Scene:
    """The scene of the even action of a pair."""
    rng = random.Random(f'{split}/{pair}/{seed}')
    surface = _surface(rng, split)
    background = _texture(rng, px, split, surface)
    dark_scene = background.double().mean().item() < 0.5
    background = _Sprite(torch.cat((background, torch.ones(1, px, px))), 'background', surface)
    zoom, turn = rng.uniform(1.1, 1.6), rng.uniform(-0.4, 0.4)
    place = _Layer(background, lambda t: _Pose(0, 0, zoom, zoom, turn), 'reflection')

    def sprite(shape: str, scale: float = 0.5, rim: float = 0.12) -> _Sprite:
        return _sprite(rng, max(int(px * scale), 12), split, shape, dark_scene, rim)

    bystanders = []
    for _ in range(rng.randint(0, 3)):  # bystanders, which do not depend on the action
        size, angle = rng.uniform(0.1, 0.22), rng.uniform(0, math.tau)
        x, y = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9)
        drift = rng.choice((0, 0, rng.uniform(0, 0.2)))
        dx, dy = drift * math.cos(angle), drift * math.sin(angle)

        def bystander(t: float, x=x, y=y, dx=dx, dy=dy, size=size, angle=angle) -> _Pose:
            return _Pose(x + dx * (t - 0.5), y + dy * (t - 0.5), size, size, angle)

        bystanders.append(_Layer(sprite(rng.choice(SHAPES), 0.3), bystander))
    return _Scene(place, bystanders, _ACTORS[pair](rng, sprite, _progress(rng)))


def _object(scene: _Scene) -> _Layer:
    """The object of the action. Of two that join, the larger one."""
    return max((actor for actor in scene.actors if actor.sprite.shape not in PROPS), key=lambda a: a.pose(0.5).width)


def _labels(scene: _Scene) -> dict[str, str]:
    """The labels of a scene, see `describe`."""
    sprite = _object(scene).sprite
    return {'object': sprite.shape, 'texture': sprite.surface, 'place': scene.place.sprite.surface}


def _moves(rng: random.Random, sprite: _MakeSprite, progress: Progress, vertical: bool) -> list[_Layer]:
    size, angle, distance = rng.uniform(0.26, 0.42), rng.uniform(-0.5, 0.5), rng.uniform(0.9, 1.5)
    middle, side = rng.uniform(-0.25, 0.25), rng.uniform(-0.6, 0.6)

    def pose(t: float) -> _Pose:
        along = middle + distance * (progress(t) - 0.5)
        return _Pose(side, along, size, size, angle) if vertical else _Pose(-along, side, size, size, angle)

    return [_Layer(sprite(rng.choice(SHAPES)), pose)]


def _approaches(rng: random.Random, sprite: _MakeSprite, progress: Progress) -> list[_Layer]:
    x, y, angle = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(-0.5, 0.5)
    far, near = rng.uniform(0.15, 0.25), rng.uniform(0.6, 0.9)

    def pose(t: float) -> _Pose:
        size = far * (near / far) ** progress(t)
        return _Pose(x, y, size, size, angle)

    return [_Layer(sprite(rng.choice(SHAPES)), pose)]


def _appears(rng: random.Random, sprite: _MakeSprite, progress: Progress) -> list[_Layer]:
    x, y, angle = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5)
    size, moment, fade = rng.uniform(0.32, 0.52), rng.uniform(0.3, 0.7), rng.uniform(0.02, 0.3)

    def pose(t: float) -> _Pose:
        return _Pose(x, y, size, size, angle, min(max((t - moment) / fade + 0.5, 0.0), 1.0))

    return [_Layer(sprite(rng.choice(SHAPES)), pose)]


def _turns(rng: random.Random, sprite: _MakeSprite, progress: Progress) -> list[_Layer]:
    x, y, size = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.uniform(0.5, 0.75)
    angle, turn = rng.uniform(0, math.tau), math.radians(rng.uniform(100, 240))
    return [_Layer(sprite(rng.choice(TURNING_SHAPES)), lambda t: _Pose(x, y, size, size, angle + turn * progress(t)))]


def _passes_behind(rng: random.Random, sprite: _MakeSprite, progress: Progress) -> list[_Layer]:
    size, angle, y = rng.uniform(0.24, 0.34), rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4)
    reach, middle = rng.uniform(0.75, 0.95), rng.uniform(-0.15, 0.15)
    width, height = size * rng.uniform(1.0, 1.3), rng.uniform(0.6, 1.3)
    mover = _Layer(sprite(rng.choice(SHAPES)), lambda t: _Pose(reach * (2 * progress(t) - 1), y, size, size, angle))
    screen = _Pose(middle, y + (height - size) * rng.uniform(-0.4, 0.4), width, height)
    return [mover, _Layer(sprite('slab', 1.0, rim=0.06), lambda t: screen)]


def _picked_up(rng: random.Random, sprite: _MakeSprite, progress: Progress) -> list[_Layer]:
    size, x, y = rng.uniform(0.2, 0.32), rng.uniform(-0.5, 0.5), rng.uniform(0.25, 0.55)
    lift, arm = rng.uniform(0.8, 1.2), rng.uniform(1.2, 1.5)
    grip = arm * 0.55  # from the hand's centre down to its fingers
    approach = rng.uniform(0.8, 1.1)
    ledge = _Pose(x + rng.uniform(-0.2, 0.2), y + size * 0.9 + 0.07, rng.uniform(0.5, 0.8), 0.08)

    def raised(t: float) -> float:
        return lift * max(progress(t) - 0.5, 0.0) / 0.5

    def hand(t: float) -> _Pose:
        above = approach * max(0.4 - progress(t), 0.0) / 0.4
        return _Pose(x, y - size * 0.5 - grip - raised(t) - above, arm, arm)

    return [
        _Layer(sprite('slab', rim=0.06), lambda t: ledge),
        _Layer(sprite(rng.choice(ROUNDISH_SHAPES)), lambda t: _Pose(x, y - raised(t), size, size)),
        _Layer(sprite('hand', 1.0, rim=0.02), hand),
    ]


def _joins(rng: random.Random, sprite: _MakeSprite, progress: Progress) -> list[_Layer]:
    sizes = rng.uniform(0.22, 0.34), rng.uniform(0.22, 0.34)
    direction, far = rng.uniform(0, math.tau), rng.uniform(0.65, 0.8)
    x, y = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)

    def actor(sign: int, size: float) -> _Layer:
        angle = rng.uniform(-0.5, 0.5)

        def pose(t: float) -> _Pose:
            offset = sign * (far + (size * 0.9 - far) * progress(t))
            return _Pose(x + offset * math.cos(direction), y + offset * math.sin(direction), size, size, angle)

        return _Layer(sprite(rng.choice(SHAPES)), pose)

    return [actor(1, sizes[0]), actor(-1, sizes[1])]


# The even action of each pair.
_ACTORS: tuple[Callable[[random.Random, _MakeSprite, Progress], list[_Layer]], ...] = (
    functools.partial(_moves, vertical=False),
    functools.partial(_moves, vertical=True),
    _approaches,
    _appears,
    _turns,
    _passes_behind,
    _picked_up,
    _joins,
)


# Rendering


def _camera(rng: random.Random, shake: float) -> Callable[[float], tuple[float, float, float]]:
    """A hand-held camera: shift (x, y) and roll as sums of slow sines, at most `shake` of the frame and radians."""
    waves = [[(rng.uniform(0.5, 4), rng.uniform(0, math.tau)) for _ in range(3)] for _ in range(3)]

    def offset(t: float) -> tuple[float, float, float]:
        x, y, roll = (sum(math.sin(math.tau * f * t + p) for f, p in wave) / 3 for wave in waves)
        return 2 * shake * x, 2 * shake * y, shake * roll

    return offset


def _compose(
        scene: _Scene,
        times: list[float],
        camera: Callable[[float], tuple[float, float, float]],
        size: int,
        window: tuple[float, float, float] = (1.0, 0.0, 0.0),
) -> Tensor:
    """Paints the layers over each other, seen in a window (half-extent, centre): uint8 `[T, 3, size, size]`."""
    extent, left, top = window
    x, y = (axis * extent + centre for axis, centre in zip(_coordinates(size), (left, top), strict=True))
    image = torch.zeros(len(times), 3, size, size)
    grid = torch.empty(len(times), size, size, 2)
    views = [camera(t) for t in times]
    for sprite, pose_at, padding_mode in (scene.place, *scene.bystanders, *scene.actors):
        rows = []  # frame coordinates -> sprite coordinates: u = a x + b y + c, v = d x + e y + f
        for t, (shift_x, shift_y, roll) in zip(times, views, strict=True):
            pose = pose_at(t)
            cos_r, sin_r = math.cos(roll), math.sin(roll)
            cos_a, sin_a = math.cos(pose.angle), math.sin(pose.angle)
            a, b = (cos_a * cos_r + sin_a * sin_r) / pose.width, (sin_a * cos_r - cos_a * sin_r) / pose.width
            d, e = (cos_a * sin_r - sin_a * cos_r) / pose.height, (sin_a * sin_r + cos_a * cos_r) / pose.height
            px, py = pose.x - shift_x, pose.y - shift_y
            c = -(cos_a * px + sin_a * py) / pose.width
            f = (sin_a * px - cos_a * py) / pose.height
            rows.append((a, b, c, d, e, f, pose.alpha))
        a, b, c, d, e, f, alpha = torch.tensor(rows).T[..., None, None]  # each [T, 1, 1]
        torch.add(a * x, b * y + c, out=grid[..., 0])
        torch.add(d * x, e * y + f, out=grid[..., 1])
        painted = F.grid_sample(sprite.pixels.expand(len(times), -1, -1, -1), grid, 'bilinear', padding_mode, False)
        coverage = painted[:, 3:] * alpha[:, None]
        # Plain products and sums, because fused operations may round differently where threads split the tensor.
        image += (painted[:, :3] - image) * coverage
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def _shaken(pair: int, seed: int, camera_shake: float, split: str) -> Callable[[float], tuple[float, float, float]]:
    """The camera of a clip."""
    return _camera(random.Random(f'camera/{split}/{pair}/{seed}'), camera_shake)


def paint(pair: int, seed: int, num_frames: int, size: int, camera_shake: float, split: str) -> Tensor:
    """Paints the even action of a pair: uint8 `[T, 3, size, size]`. Arguments as for `render_action`."""
    times = [(i + 0.5) / num_frames for i in range(num_frames)]
    return _compose(_scene(pair, seed, size, split), times, _shaken(pair, seed, camera_shake, split), size)


def paint_frame(
        pair: int,
        seed: int,
        time: float,
        size: int,
        camera_shake: float,
        split: str,
        zoom: float = 1.0,
) -> tuple[Tensor, dict[str, str]]:
    """Paints one moment, 0..1, of the even action of a pair: uint8 `[3, size, size]`, and what the scene shows.

    A zoom above 1 magnifies the object, but only as far as all of it stays visible.
    """
    scene = _scene(pair, seed, round(size * zoom), split)
    pose = _object(scene).pose(time)
    extent = min(max(1 / zoom, 1.1 * pose.width), 1.0)
    nearness = 1 - extent**2  # the larger the zoom, the nearer is the object to the middle
    window = (extent, pose.x * nearness, pose.y * nearness)
    return _compose(scene, [time], _shaken(pair, seed, camera_shake, split), size, window)[0], _labels(scene)


def describe(pair: int, seed: int, split: str) -> dict[str, str]:
    """What the scene of a pair shows. The size in pixels does not matter, so the smallest is painted."""
    return _labels(_scene(pair, seed, 16, split))


def _repainted(scene: _Scene, repaint: Callable[[int, int, Tensor], Tensor]) -> _Scene:
    """The scene with other pixels, see `paint_stretch`."""
    first = 1 + len(scene.bystanders)
    layers = [
        layer._replace(sprite=layer.sprite._replace(pixels=repaint(number, number - first, layer.sprite.pixels)))
        for number, layer in enumerate((scene.place, *scene.bystanders, *scene.actors))]
    return _Scene(layers[0], layers[1:first], layers[first:])


def paint_stretch(
        pair: int,
        seed: int,
        times: list[float],
        camera_times: list[float],
        size: int,
        camera_shake: float,
        split: str,
        acting: bool = True,
        repaint: Callable[[int, int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Paints moments of the even action of a pair: uint8 `[T, 3, size, size]`.

    Args:
        pair: The pair.
        seed: See `render_action`.
        times: When the moments are, 0..1, in any order; a moment may repeat.
        camera_times: The same for the camera, which may go on shaking while the scene stands still.
        size: See `render_action`.
        camera_shake: See `render_action`.
        split: See `render_action`.
        acting: Whether the actors move. Else they stay as they are at the first moment, and only bystanders drift.
        repaint: Gives new pixels `[4, S, S]` for those of a layer, from its number, back to front (0 is the
            background), its number among the actors (below 0 for all that do not act), and its pixels.
    """
    scene = _scene(pair, seed, size, split)
    if repaint is not None:
        scene = _repainted(scene, repaint)
    if not acting:
        still = [layer._replace(pose=functools.partial(lambda pose, t: pose, layer.pose(times[0])))
                 for layer in scene.actors]
        scene = scene._replace(actors=still)
    shaken = _shaken(pair, seed, camera_shake, split)
    moments = iter(camera_times)
    return _compose(scene, times, lambda t: shaken(next(moments)), size)
