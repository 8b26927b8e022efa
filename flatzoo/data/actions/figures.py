"""Articulated figures and hands of the verbs: joints over time, and the parts that show them.

A figure stands in a space of its own: x to its side, y up from the floor, z where it faces, in lengths of a leg. It is
turned about its upright axis and seen from the front, so that an arm may point at the camera. Hands and feet are
places that it reaches for; elbows and knees follow from the lengths of the limbs.
"""
import math
import random
from dataclasses import dataclass, field

import numpy as np

from .stage import Part, Stage

__all__ = ['Body', 'Figure', 'hand_parts']

_ARM, _THIGH, _TORSO, _NECK, _SHOULDER, _HIP, _STAND = 0.36, 0.5, 0.62, 0.22, 0.21, 0.11, 0.96


def _norm(vectors: np.ndarray) -> np.ndarray:
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return np.sqrt(x * x + y * y + z * z)[:, None] + 1e-9


def _limb(root: np.ndarray, target: np.ndarray, length: float, pole: tuple[float, float, float]) -> tuple:
    """The joint in the middle and the end of a limb of two bones; the joint bends towards `pole`."""
    way = target - root
    far = _norm(way)
    way = way / far
    far = np.minimum(far, 2 * length * 0.995)
    bend = np.array(pole)[None] - way * (way * np.array(pole)).sum(1, keepdims=True)
    bend = bend / _norm(bend)
    joint = root + way * far / 2 + bend * np.sqrt(np.maximum(length * length - far * far / 4, 0))
    return joint, root + way * far


@dataclass
class Body:
    """What a figure does, arrays over time: places `[T, 3]`, angles `[T]` in radians.

    Attributes:
        hands: Left and right hand, from its shoulder.
        feet: Left and right foot, from the middle of the stand.
        hip: Shift of the hip from where it is when the figure stands.
        lean: Bending of the trunk forward.
        tilt: Fall of the whole figure to its side.
        walk: Way of the whole figure.
    """

    hands: list[np.ndarray]
    feet: list[np.ndarray]
    hip: np.ndarray
    lean: np.ndarray
    tilt: np.ndarray
    walk: np.ndarray

    @classmethod
    def idle(cls, rng: random.Random, clock: np.ndarray, sway: float = 0.02) -> 'Body':
        """Stands with hanging arms and breathes. `clock` is the time `[T]` that sways it."""
        def wander(size: float) -> np.ndarray:
            return np.stack([
                size * np.array([math.sin(rate * t + phase) for t in clock])
                for rate, phase in ((rng.uniform(1, 6), rng.uniform(0, math.tau)) for _ in range(3))], 1)

        count, apart = len(clock), rng.uniform(0.08, 0.2)
        out, front = rng.uniform(0.02, 0.15), rng.uniform(0, 0.12)
        zero = np.zeros(count)
        hands = [np.array([side * out, -0.68, front])[None] + wander(sway) for side in (-1, 1)]
        feet = [np.tile([side * apart, 0.0, 0.0], (count, 1)) for side in (-1, 1)]
        return cls(hands, feet, wander(sway / 2), zero + rng.uniform(0, 0.15), zero, np.zeros((count, 3)))


@dataclass
class Figure:
    """How a figure looks and where it stands.

    Attributes:
        x: Place of its stand in half frames.
        y: The same, down.
        scale: Half frames per length of its leg.
        yaw: Turn about its upright axis in radians; 0 faces the camera, positive turns it to the right of the frame.
        parts_of: Colours by part of the body.
        thick: Factor of the thickness of its limbs.
    """

    x: float
    y: float
    scale: float
    yaw: float
    thick: float
    parts_of: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def drawn(cls, rng: random.Random, stage: Stage, yaw: float) -> 'Figure':
        """A random figure."""
        close = rng.random() < 0.15
        scale = rng.uniform(0.85, 1.1) if close else rng.uniform(0.5, 0.88)
        x = rng.uniform(-0.35, 0.35)
        top = -0.95 + 2.0 * scale  # of the floor, if the head touches the upper edge
        y = rng.uniform(1.2, 1.5) if close else rng.uniform(min(top, 0.9), 0.98)
        names = ('skin', 'shirt', 'trousers')
        colours = {name: stage.colour() for name in names}
        if rng.random() < 0.3:
            colours['trousers'] = colours['shirt']
        return cls(x, y, scale, yaw, rng.uniform(0.8, 1.3), colours)

    def place(self, points: np.ndarray, body: Body) -> np.ndarray:
        """Points `[T, 3]` of its space: x and y in the frame, and z towards the camera in lengths of a leg."""
        points = points + body.walk
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        x, y, z = points[:, 0] * cos + points[:, 2] * sin, points[:, 1], points[:, 2] * cos - points[:, 0] * sin
        cos, sin = (np.array([f(angle) for angle in body.tilt]) for f in (math.cos, math.sin))
        x, y = x * cos + y * sin, y * cos - x * sin
        larger = self.scale * (1 + 0.12 * z)  # a little perspective
        return np.stack((self.x + x * larger, self.y - y * larger, z), 1)

    def parts(self, body: Body) -> tuple[list[Part], list[np.ndarray]]:
        """Its parts, far ones first, and the places `[T, 3]` of its two hands in its space."""
        count = len(body.lean)
        stand = np.array([0.0, _STAND, 0.0])[None] + body.hip
        lean = np.stack((np.zeros(count), *(np.array([f(a) for a in body.lean]) for f in (math.cos, math.sin))), 1)
        chest, head = stand + lean * _TORSO, stand + lean * (_TORSO + _NECK)
        bones, hands = [], []

        def bone(a: np.ndarray, b: np.ndarray, wide: float, narrow: float, colour: str) -> None:
            a, b = self.place(a, body), self.place(b, body)
            near = (a[:, 2] + b[:, 2]) / 2
            size = np.full(count, self.scale * self.thick)
            paint = self.parts_of[colour]
            bones.append((float(near[-1]), Part(
                'capsule', a[:, :2], b[:, :2], size * wide, size * narrow, np.clip(0.5 + 0.6 * near, 0, 1), paint)))

        bone(stand + lean * 0.06, chest - lean * 0.08, 0.15, 0.19, 'shirt')
        bone(head, head + lean * 0.02, 0.13, 0.13, 'skin')
        for side, hand, foot in zip((-1, 1), body.hands, body.feet, strict=True):
            shoulder = chest + np.array([side * _SHOULDER, -0.03, 0.0])
            elbow, end = _limb(shoulder, shoulder + hand, _ARM, (side * 0.6, -0.7, -0.5))
            hip = stand + np.array([side * _HIP, 0.0, 0.0])
            knee, ankle = _limb(hip, foot, _THIGH, (side * 0.1, 0.1, 1.0))
            bone(hip, knee, 0.1, 0.075, 'trousers')
            bone(knee, ankle, 0.075, 0.055, 'trousers')
            bone(ankle, ankle + np.array([0.0, 0.0, 0.13]), 0.055, 0.05, 'skin')
            bone(shoulder, elbow, 0.075, 0.06, 'shirt')
            bone(elbow, end, 0.06, 0.045, 'skin')
            bone(end, end + (end - elbow) * 0.2, 0.06, 0.05, 'skin')
            hands.append(end + (end - elbow) * 0.15)
        return [part for _, part in sorted(bones, key=lambda pair: pair[0])], hands


def hand_parts(
        stage: Stage,
        palm: np.ndarray,
        towards: tuple[float, float],
        size: float,
        curl: np.ndarray,
        near: float,
        colour: np.ndarray,
        mirrored: bool,
) -> list[Part]:
    """A hand on a forearm.

    Args:
        stage: Where it is.
        palm: Centre of the palm `[T, 2]` in half frames.
        towards: Unit vector to which its fingers point.
        size: Length of the palm in half frames.
        curl: How far the fingers are closed `[T]`, 0..1.
        near: How near it is, 0..1.
        colour: Its colour.
        mirrored: Whether the thumb is on the other side.
    """
    ahead, side = np.array(towards), np.array([-towards[1], towards[0]]) * (-1 if mirrored else 1)
    count = len(palm)
    depth = np.full(count, near)

    def capsule(a: np.ndarray, b: np.ndarray, wide: float, narrow: float) -> Part:
        return Part('capsule', a, b, np.full(count, wide * size), np.full(count, narrow * size), depth, colour)

    parts = [capsule(palm - ahead * 4 * size, palm - ahead * 0.7 * size, 0.5, 0.36),
             capsule(palm - ahead * 0.3 * size, palm + ahead * 0.3 * size, 0.5, 0.52)]
    closed = curl[:, None]
    for place, length in ((-0.42, 0.8), (-0.14, 0.95), (0.14, 1.0), (0.42, 0.85)):
        root = palm + (ahead * 0.7 + side * place) * size
        spread = ahead + side * place * 0.7
        middle = root + spread * (length * 0.5 * size) * (1 - 0.9 * closed)
        tip = middle + spread * (length * 0.55 * size) * (1 - 1.9 * closed)
        parts += [capsule(root, middle, 0.14, 0.13), capsule(middle, tip, 0.13, 0.11)]
    thumb = palm - side * 0.45 * size
    reach = (-side * 0.75 + ahead * 0.45) * (1 - closed) + (side * 0.55 + ahead * 0.35) * closed
    parts.append(capsule(thumb, thumb + reach * size, 0.17, 0.13))
    return parts
