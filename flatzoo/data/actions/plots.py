"""What happens in each pair of verbs: from the progress of an action to the parts that show it.

A plot is called with a source of choices, the stage, the progress `[T]` (0..1) of the even verb of the pair, and the
clock `[T]`, which goes on where the progress rests. It gives parts, back to front.
"""
import math
import random
from collections.abc import Callable

import numpy as np

from .figures import Body, Figure, hand_parts
from .stage import Part, Stage

__all__ = ['NEW_PAIRS', 'PLOTS', 'fidgets', 'thing']

Plot = Callable[[random.Random, Stage, np.ndarray, np.ndarray], list[Part]]


def _mix(a: tuple | np.ndarray, b: tuple | np.ndarray, s: np.ndarray) -> np.ndarray:
    """From `a` to `b`, `[T, N]`."""
    return np.asarray(a, float) + (np.asarray(b, float) - np.asarray(a, float)) * s[:, None]


def _curve(function: Callable[[float], tuple], s: np.ndarray) -> np.ndarray:
    return np.array([function(float(value)) for value in s])


def _phase(s: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Progress of a part of an action."""
    return np.clip((s - start) / (stop - start), 0, 1)


def _facing(rng: random.Random) -> float:
    """A turn of a figure that shows its front or its side."""
    return rng.choice((rng.uniform(-0.6, 0.6), rng.choice((-1, 1)) * rng.uniform(0.6, 1.6)))


def thing(
        rng: random.Random, stage: Stage, centre: np.ndarray, size: float, near: float = 0.6, acts: bool = True,
        turn: np.ndarray | None = None, shape: str | None = None,
) -> Part:
    """An object: a textured box or disc. `turn` `[T]` is its angle in radians."""
    count = len(centre)
    shape = shape or rng.choice(('box', 'disc'))
    angle = rng.uniform(-0.3, 0.3)
    angles = np.full(count, angle) if turn is None else turn + angle
    ahead = np.stack([np.array([f(a) for a in angles]) for f in (math.cos, math.sin)], 1)
    paint = stage.texture(16) if rng.random() < 0.6 else stage.colour()
    wide, high = size * rng.uniform(0.75, 1), size * rng.uniform(0.6, 1)
    return Part(
        shape, centre, centre + ahead, np.full(count, wide), np.full(count, high), np.full(count, near), paint, acts)


def _show(figure: Figure, body: Body, behind: list[Part] = (), before: list[Part] = ()) -> list[Part]:
    return [*behind, *figure.parts(body)[0], *before]


def _plain(rng: random.Random, stage: Stage, clock: np.ndarray, yaw: float) -> tuple[Figure, Body, int]:
    """A figure, its body at rest, and the hand that acts."""
    return Figure.drawn(rng, stage, yaw), Body.idle(rng, clock), rng.randrange(2)


def _arc(rng: random.Random, s: np.ndarray, side: int, sideways: bool) -> np.ndarray:
    """A hand from hanging to high, in an arc to the side or in front."""
    begin, end, reach = rng.uniform(-1.5, -1.25), rng.uniform(0.6, 1.45), rng.uniform(0.55, 0.71)
    out = rng.uniform(0.75, 1.0) if sideways else rng.uniform(0.0, 0.35)

    def place(value: float) -> tuple:
        angle = begin + (end - begin) * value
        flat = reach * math.cos(angle)
        return side * out * flat, reach * math.sin(angle), math.sqrt(1 - out * out) * flat

    return _curve(place, s)


def _raises_an_arm(rng, stage, s, clock):
    figure, body, arm = _plain(rng, stage, clock, _facing(rng))
    body.hands[arm] = _arc(rng, s, 2 * arm - 1, rng.random() < 0.5)
    return _show(figure, body)


def _raises_both_arms(rng, stage, s, clock):
    figure, body, _ = _plain(rng, stage, clock, _facing(rng))
    seed, sideways = rng.getrandbits(32), rng.random() < 0.5
    body.hands = [_arc(random.Random(seed), s, side, sideways) for side in (-1, 1)]
    return _show(figure, body)


def _stretches_an_arm(rng, stage, s, clock):
    figure, body, arm = _plain(rng, stage, clock, _facing(rng))
    angle, rise = rng.uniform(-0.4, 1.5), rng.uniform(-0.25, 0.25)
    side = 2 * arm - 1
    ahead = side * math.sin(angle), rise, math.cos(angle)
    bent = np.array(ahead) * rng.uniform(0.1, 0.25) + np.array([0, rng.uniform(-0.3, 0), 0.05])
    body.hands[arm] = _mix(bent, np.array(ahead) * 0.72, s)
    if rng.random() < 0.6:  # the other hand guards
        body.hands[1 - arm] = np.tile([side * 0.05, rng.uniform(-0.25, 0), 0.22], (len(s), 1))
    body.hip = body.hip + _mix((0, 0, 0), (0, 0, rng.uniform(0, 0.12)), s)
    return _show(figure, body)


def _brings_hands_together(rng, stage, s, clock):
    figure, body, _ = _plain(rng, stage, clock, rng.uniform(-0.9, 0.9))
    height, open_height = rng.uniform(-0.25, 0.3), rng.uniform(-0.4, 0.4)
    wide, front = rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.5)
    for arm, side in enumerate((-1, 1)):
        body.hands[arm] = _mix((side * wide, open_height, front * 0.6), (-side * 0.17, height, front), s)
    return _show(figure, body)


def _draws(rng, stage, clock, s, path: Callable[[float], tuple[float, float]]) -> list[Part]:
    """A hand that draws a path as the viewer sees it: x to the right, y up, about -1..1."""
    figure, body, arm = _plain(rng, stage, clock, rng.uniform(-0.5, 0.5))
    side, size = 2 * arm - 1, rng.uniform(0.24, 0.4)
    centre = np.array([-side * rng.uniform(0.0, 0.2), rng.uniform(-0.05, 0.3), rng.uniform(0.25, 0.45)])
    points = _curve(path, s) * size
    body.hands[arm] = centre + np.stack((points[:, 0], points[:, 1], np.zeros(len(s))), 1)
    return _show(figure, body)


def _draws_a_circle(rng, stage, s, clock):
    begin, turns = rng.uniform(0, math.tau), rng.uniform(0.85, 1.4)
    return _draws(rng, stage, clock, s, lambda v: (
        math.cos(begin - math.tau * turns * v), math.sin(begin - math.tau * turns * v)))


def _draws_a_tick(rng, stage, s, clock):
    (x0, y0), (x1, y1), (x2, y2) = (
        (-rng.uniform(0.6, 1), rng.uniform(0.0, 0.4)), (rng.uniform(-0.4, 0), -rng.uniform(0.6, 1)),
        (rng.uniform(0.6, 1.1), rng.uniform(0.7, 1.1)))
    first = math.hypot(x1 - x0, y1 - y0) / (math.hypot(x1 - x0, y1 - y0) + math.hypot(x2 - x1, y2 - y1))

    def path(v: float) -> tuple[float, float]:
        if v < first:
            return x0 + (x1 - x0) * v / first, y0 + (y1 - y0) * v / first
        v = (v - first) / (1 - first)
        return x1 + (x2 - x1) * v, y1 + (y2 - y1) * v

    return _draws(rng, stage, clock, s, path)


def _bends_down(rng, stage, s, clock):
    figure, body, _ = _plain(rng, stage, clock, _facing(rng))
    body.lean = body.lean + rng.uniform(1.1, 1.9) * s
    knees = rng.uniform(0.0, 0.2)
    body.hip = body.hip + _mix((0, 0, 0), (0, -knees, -rng.uniform(0.1, 0.25)), s)
    reach = rng.uniform(0.0, 0.3)
    body.hands = [hand + _mix((0, 0, 0), (0, 0, reach), s) for hand in body.hands]
    return _show(figure, body)


def _sits_down(rng, stage, s, clock):
    figure, body, _ = _plain(rng, stage, clock, _facing(rng))
    back, low = rng.uniform(0.25, 0.4), rng.uniform(0.4, 0.5)
    body.hip = body.hip + _mix((0, 0, 0), (0, -low, -back), s)
    body.lean = body.lean + np.array([0.5 * math.sin(math.pi * v) for v in s])
    rest = rng.uniform(0.2, 0.45)
    body.hands = [hand + _mix((0, 0, 0), (0, 0.25, rest), s) for hand in body.hands]
    behind = []
    if rng.random() < 0.6:  # a seat
        spot = figure.place(np.array([[0, 0.22, -back - 0.05]] * len(s)), body)[:, :2]
        behind = [thing(rng, stage, spot, 0.24 * figure.scale, 0.4, False, shape='box')]
    return _show(figure, body, behind)


def _lies_down(rng, stage, s, clock):
    figure, body, _ = _plain(rng, stage, clock, _facing(rng))
    side = rng.choice((-1, 1))
    figure.scale *= 0.8
    figure.x = -side * rng.uniform(0.3, 0.7)
    body.tilt = side * rng.uniform(1.35, 1.6) * s
    body.hip = body.hip + _curve(lambda v: (0, -0.25 * math.sin(math.pi * v), 0), s)
    return _show(figure, body)


def _raises_a_leg(rng, stage, s, clock):
    figure, body, leg = _plain(rng, stage, clock, _facing(rng))
    side, angle, reach = 2 * leg - 1, rng.choice((0.0, 0.0, 1.3)) + rng.uniform(-0.2, 0.25), rng.uniform(0.6, 0.9)
    high = rng.uniform(0.35, 1.0)
    body.feet[leg] = body.feet[leg] + _curve(lambda v: (
        side * math.sin(angle) * reach * math.sin(v * math.pi / 2), high * (1 - math.cos(v * math.pi / 2)),
        math.cos(angle) * reach * math.sin(v * math.pi / 2)), s)
    body.lean = body.lean - rng.uniform(0, 0.3) * s
    lifted = rng.uniform(0, 0.35)
    body.hands = [hand + _mix((0, 0, 0), (0, lifted, lifted / 2), s) for hand in body.hands]
    return _show(figure, body)


def _walks_forward(rng, stage, s, clock):
    side = rng.choice((-1, 1))
    figure, body, _ = _plain(rng, stage, clock, side * rng.uniform(0.85, 1.7))
    figure.scale *= 0.85
    steps, stride, begin = rng.uniform(1.2, 2.6), rng.uniform(0.25, 0.42), rng.uniform(0, math.tau)
    way = 4 * stride * steps * rng.choice((0.0, rng.uniform(0.3, 1), 1.0))
    way = min(way, 1.4 / figure.scale)
    figure.x = -side * way / 2 * figure.scale + rng.uniform(-0.2, 0.2)
    body.walk = _mix((0, 0, 0), (0, 0, way), s)
    lift = rng.uniform(0.08, 0.3)  # from a walk to a run
    for leg in range(2):
        angle = [begin + math.pi * leg + math.tau * steps * v for v in s]
        swing = np.array([[0, lift * max(0.0, math.sin(a)), -stride * math.cos(a)] for a in angle])
        body.feet[leg] = body.feet[leg] + swing
        bent = lift * 0.8
        body.hands[1 - leg] = body.hands[1 - leg] + np.array([
            [0, bent + 0.05, -stride * 0.7 * math.cos(a)] for a in angle])
    body.lean = body.lean + rng.uniform(0, 0.2)
    return _show(figure, body)


def _throws(rng, stage, s, clock):
    figure, body, arm = _plain(rng, stage, clock, rng.choice((-1, 1)) * rng.uniform(0.4, 1.6))
    side, moment = 2 * arm - 1, 0.5
    over = rng.random() < 0.6  # overarm or underarm
    back = (side * 0.15, rng.uniform(0.15, 0.5), -0.4) if over else (side * 0.1, -0.5, -0.4)
    front = (0, rng.uniform(-0.1, 0.25), 0.65)
    middle = (side * 0.1, 0.6, 0.15) if over else (side * 0.05, -0.65, 0.2)
    swing = _phase(s, 0.1, moment + 0.1)[:, None]
    body.hands[arm] = (1 - swing) ** 2 * np.array(back) + 2 * swing * (1 - swing) * np.array(middle) + swing**2 * (
        np.array(front))
    parts, hands = figure.parts(body)
    spot = figure.place(hands[arm], body)[:, :2]
    flown = np.maximum(s - moment, 0) / (1 - moment)
    ahead = math.copysign(1, figure.yaw) * rng.uniform(0.9, 1.6), -rng.uniform(-0.1, 0.5)
    flight = spot[-1] + flown[:, None] * np.array(ahead) + np.stack((np.zeros(len(s)), 0.5 * flown**2), 1)
    spot = np.where((s > moment)[:, None], flight, spot)
    return [*parts, thing(rng, stage, spot, rng.uniform(0.07, 0.13), 0.7, shape='disc')]


def _swings_down(rng, stage, s, clock):
    figure, body, arm = _plain(rng, stage, clock, rng.choice((-1, 1)) * rng.uniform(0.2, 1.6))
    side, both = 2 * arm - 1, rng.random() < 0.5
    begin, end = rng.uniform(1.7, 2.4), rng.uniform(-0.9, -0.2)
    reach, out = rng.uniform(0.5, 0.68), rng.uniform(-0.1, 0.25)
    turned = [begin + (end - begin) * float(v) ** 1.3 for v in s]
    hand = np.array([[side * out, reach * math.sin(a), reach * math.cos(a)] for a in turned])
    body.hands[arm] = hand
    if both:
        body.hands[1 - arm] = hand + np.array([side * 0.35, 0, 0])
    body.lean = body.lean + rng.uniform(0, 0.5) * s
    parts, hands = figure.parts(body)
    stick, cock = rng.uniform(0.35, 0.9), rng.uniform(0.3, 1.2)
    end_of = hands[arm] + stick * np.array([[0, math.sin(a + cock * (1 - v)), math.cos(a + cock * (1 - v))]
                                            for a, v in zip(turned, s, strict=True)])
    a, b = figure.place(hands[arm], body), figure.place(end_of, body)
    wide = np.full(len(s), rng.uniform(0.03, 0.06))
    return [*parts, Part('capsule', a[:, :2], b[:, :2], wide, wide, np.full(len(s), 0.75), stage.colour())]


# Hands


def _hand(rng, stage, palm, towards, curl, size=None) -> list[Part]:
    return hand_parts(
        stage, palm, towards, size or rng.uniform(0.2, 0.32), curl, 0.75, stage.colour(), rng.random() < 0.5)


def _pushes(rng, stage, s, clock):
    angle = rng.choice((0, math.pi, rng.uniform(0, math.tau)))
    ahead = np.array([math.cos(angle), math.sin(angle)])
    size, hand, way = rng.uniform(0.16, 0.3), rng.uniform(0.18, 0.28), rng.uniform(0.5, 0.9)
    start = -ahead * rng.uniform(0.1, 0.4) + np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3)])
    moved = start + ahead * way * _phase(s, 0.3, 1)[:, None]
    gap = rng.uniform(0.3, 0.6) * (1 - _phase(s, 0, 0.3))[:, None]
    curl = np.full(len(s), rng.choice((0.0, 0.5, 1.0)))
    reach = hand * (0.7 + 1.3 * (1 - float(curl[0])) ** 2) + size * 0.75
    palm = moved - ahead * (reach + gap)
    item = thing(rng, stage, moved, size)
    return [item, *_hand(rng, stage, palm, (float(ahead[0]), float(ahead[1])), curl, hand)]


def _opens_its_hand(rng, stage, s, clock):
    angle = rng.uniform(-2.4, -0.7)
    towards = math.cos(angle), math.sin(angle)
    drift = np.array([[0.03 * math.sin(3 * t), 0.03 * math.cos(2 * t)] for t in clock])
    palm = np.array([rng.uniform(-0.35, 0.35), rng.uniform(-0.1, 0.45)]) + drift
    return _hand(rng, stage, palm, towards, 1 - s, rng.uniform(0.28, 0.45))


def _puts_into_a_box(rng, stage, s, clock):
    x, y, wide, high = rng.uniform(-0.35, 0.35), rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.5), rng.uniform(0.25, 0.4)
    size, hand = rng.uniform(0.12, 0.2), rng.uniform(0.16, 0.24)
    begin = x + rng.choice((-1, 1)) * rng.uniform(0.1, 0.7), y - high - rng.uniform(0.4, 0.7)
    over = x, y - high - rng.uniform(0.25, 0.4)
    across, down, away = _phase(s, 0, 0.35), _phase(s, 0.35, 0.65), _phase(s, 0.68, 1)
    held = _mix(begin, over, across) + _mix((0, 0), (0, y - over[1]), down)
    grip = held - np.array([0, size * 0.6 + hand * 1.5])
    grip = grip + _mix((0, 0), (rng.uniform(-0.4, 0.4), -rng.uniform(0.7, 1.1)), away)
    count = len(s)
    spot = np.tile([x, y], (count, 1))
    inside = Part('box', spot, spot + (1, 0), np.full(count, wide), np.full(count, high), np.full(count, 0.35),
                  stage.colour() * np.float32(0.5), False)
    front = thing(rng, stage, spot, wide, 0.65, False, np.zeros(count), 'box')
    front = front._replace(b=spot + (1, 0), radius=np.full(count, wide), other=np.full(count, high))
    arm = _hand(rng, stage, grip, (0.0, 1.0), 0.55 - 0.4 * away, hand)
    if stage.look == 'silhouette':  # else nothing would be hidden
        front = front._replace(acts=True)
    return [inside, thing(rng, stage, held, size), *arm, front]


NEW_PAIRS: tuple[tuple[str, str], ...] = (
    ('raises an arm', 'lowers an arm'),
    ('raises both arms', 'lowers both arms'),
    ('stretches an arm', 'draws an arm back'),
    ('brings hands together', 'spreads hands'),
    ('draws a circle clockwise', 'draws a circle counter-clockwise'),
    ('draws a tick', 'draws a tick backwards'),
    ('bends down', 'straightens up'),
    ('sits down', 'stands up'),
    ('lies down', 'gets up'),
    ('raises a leg', 'lowers a leg'),
    ('walks forward', 'walks backward'),
    ('throws', 'catches'),
    ('swings down', 'swings up'),
    ('pushes', 'pulls'),
    ('opens its hand', 'closes its hand'),
    ('puts into a box', 'takes out of a box'),
)
"""The verbs of figures and hands; the second of a pair is the first one played backwards."""

PLOTS: tuple[Plot, ...] = (
    _raises_an_arm, _raises_both_arms, _stretches_an_arm, _brings_hands_together, _draws_a_circle, _draws_a_tick,
    _bends_down, _sits_down, _lies_down, _raises_a_leg, _walks_forward, _throws, _swings_down, _pushes,
    _opens_its_hand, _puts_into_a_box)


def fidgets(rng: random.Random, stage: Stage, clock: np.ndarray) -> list[Part]:
    """A figure or a hand that does nothing that has a name: it trembles, or moves to and fro."""
    if rng.random() < 0.3:
        palm = np.array([rng.uniform(-0.4, 0.4), rng.uniform(-0.2, 0.5)]) + rng.uniform(0, 0.08) * np.array([
            [math.sin(5 * t), math.cos(4 * t)] for t in clock])
        angle = rng.uniform(0, math.tau)
        return _hand(rng, stage, palm, (math.cos(angle), math.sin(angle)), np.full(len(clock), rng.random()))
    figure = Figure.drawn(rng, stage, _facing(rng))
    body = Body.idle(rng, clock, rng.choice((0.01, 0.05, 0.1)))
    if rng.random() < 0.5:  # holds a pose
        arm = rng.randrange(2)
        body.hands[arm] = body.hands[arm] + np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.2, 1), rng.random() * 0.4])
    if rng.random() < 0.2:
        body.hip = body.hip + np.array([0, -rng.uniform(0.1, 0.45), -rng.uniform(0.1, 0.35)])
    return _show(figure, body)
