"""The painter of the verbs: capsules, discs and boxes over a background, seen by a camera, in one of four renderings.

All pictures are numpy arrays over time, height and width, and every shape is painted for all frames at once, in the
part of the frame that it reaches. Per pixel there are only sums, products, quotients, roots and comparisons, which
every machine rounds alike.
"""
import functools
import math
import random
from typing import NamedTuple

import numpy as np
import torch

from .scenes import surface_texture

__all__ = ['LOOKS', 'Camera', 'Part', 'Stage']

LOOKS = ('colour', 'grey', 'depth', 'silhouette')
"""Renderings: textures in colour or grey, near things bright as a depth camera shows them, or one even shape."""


class Camera(NamedTuple):
    """A camera over time, arrays `[T]`.

    Attributes:
        x: Its shift to the right in half frames.
        y: Its shift down.
        zoom: Magnification.
        cos: Cosine of its roll.
        sin: Sine of its roll.
    """

    x: np.ndarray
    y: np.ndarray
    zoom: np.ndarray
    cos: np.ndarray
    sin: np.ndarray

    def see(self, points: np.ndarray) -> np.ndarray:
        """Points `[T, 2]` of the scene in the frame."""
        x, y = points[:, 0] - self.x, points[:, 1] - self.y
        return np.stack(((x * self.cos + y * self.sin) * self.zoom, (y * self.cos - x * self.sin) * self.zoom), 1)


class Part(NamedTuple):
    """A shape over time. Places are in half frames, x to the right and y down.

    Attributes:
        kind: 'capsule' from `a` to `b`; 'disc', or 'box' with its centre `a` and its axis u towards `b`.
        a: `[T, 2]`.
        b: `[T, 2]`.
        radius: `[T]`: of the capsule at `a` or of the disc; half the width of the box along u.
        other: `[T]`: radius of the capsule at `b`; half the height of the box.
        near: `[T]`: how near it is, 0..1, for depth.
        paint: Colour `[3]` or texture `[S, S, 3]`, 0..1.
        acts: Whether it is a part of an actor, which a silhouette shows.
    """

    kind: str
    a: np.ndarray
    b: np.ndarray
    radius: np.ndarray
    other: np.ndarray
    near: np.ndarray
    paint: np.ndarray
    acts: bool = True


@functools.cache
def _axis(size: int) -> np.ndarray:
    return ((np.arange(size, dtype=np.float32) * 2 + 1) / np.float32(size) - 1).astype(np.float32)


class Stage:
    """What surrounds an action: the background, the look and the light.

    Args:
        rng: Chooses everything.
        split: 'train' or 'test': kinds of texture, as for `render_action`.
    """

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng, self.split = rng, split
        self.look = rng.choices(LOOKS, (0.4, 0.15, 0.25, 0.2))[0]
        self.plain = rng.random() < (0.75 if self.look == 'depth' else 0.25)
        self.back = self.texture(32)
        self.flat = np.array([0.0 if self.look == 'depth' or rng.random() < 0.5 else rng.random()] * 3, np.float32)
        self.floor = rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.25)  # brightness of wall and floor in depth
        self.shape = np.full(3, rng.uniform(0.75, 1.0) if self.flat[0] < 0.5 else rng.uniform(0, 0.2), np.float32)
        self.over_texture = self.look == 'silhouette' and rng.random() < 0.4
        self.dark = (float(self.flat[0]) if self.plain else float(self.back.mean(dtype=np.float64))) < 0.5
        self.depth_range = rng.uniform(0.25, 0.55), rng.uniform(0.35, 0.6)
        self.noise = rng.choice((0.0, 0.0, rng.uniform(0, 0.05)))
        self.noise_seed = rng.getrandbits(32)
        self.flip = rng.random() < 0.1 and self.look != 'colour'

    def texture(self, px: int) -> np.ndarray:
        """A random texture `[px, px, 3]`."""
        return surface_texture(self.rng, px, self.split).permute(1, 2, 0).contiguous().numpy()

    def colour(self) -> np.ndarray:
        """A random colour `[3]` that stands out from the background."""
        low, high = (0.45, 1.0) if self.dark else (0.0, 0.55)
        return np.array([self.rng.uniform(low, high) for _ in range(3)], np.float32)

    def paint(self, parts: list[Part], camera: Camera, size: int) -> torch.Tensor:
        """Paints parts, back to front: uint8 `[T, 3, size, size]`.

        Args:
            parts: See `Part`.
            camera: See `Camera`.
            size: Height and width in pixels.
        """
        frames = len(camera.x)
        canvas = np.empty((3, frames, size, size), np.float32)
        canvas[:] = self._background(camera, size)
        for part in parts:
            self._add(canvas, part, camera, size)
        if self.look != 'colour':
            canvas = canvas[:1] if self.look == 'depth' or not self.over_texture and self.look == 'silhouette' else (
                canvas[:1] * np.float32(0.3) + canvas[1:2] * np.float32(0.6) + canvas[2:] * np.float32(0.1))
        if self.noise:
            grain = np.random.Generator(np.random.PCG64(self.noise_seed)).integers(
                -1000, 1001, canvas.shape, np.int16).astype(np.float32)
            canvas = canvas + grain * np.float32(self.noise / 500)
        if self.flip:
            canvas = 1 - canvas
        pixels = (np.clip(canvas, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        if len(pixels) == 1:
            pixels = np.repeat(pixels, 3, 0)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(1, 0, 2, 3)))

    def _background(self, camera: Camera, size: int) -> np.ndarray:
        if self.look == 'depth' and not self.plain:
            wall, floor = (np.float32(value) for value in self.floor)
            return (wall + floor * np.clip(_axis(size)[:, None], 0, 1))[None, None]
        if self.look != 'depth' and not self.plain and (self.look != 'silhouette' or self.over_texture):
            return self._seen(camera, size)
        return self.flat[:, None, None, None]

    def _seen(self, camera: Camera, size: int) -> np.ndarray:
        """The background texture as the camera sees it, between its pixels: `[3, T or 1, size, size]`."""
        moves = any(np.ptp(values) > 0 for values in camera)
        view = camera if moves else Camera(*(values[:1] for values in camera))
        x, y = _axis(size)[None, None, :], _axis(size)[None, :, None]
        zoom, cos, sin, shift_x, shift_y = (
            values.astype(np.float32)[:, None, None] for values in (view.zoom, view.cos, view.sin, view.x, view.y))
        x, y = x / zoom, y / zoom
        side = self.back.shape[0]
        places = []
        for place in (x * cos - y * sin + shift_x, x * sin + y * cos + shift_y):
            place = np.abs((place * np.float32(0.32) + np.float32(0.5)) % np.float32(2) - 1)  # reflected
            places.append((1 - place) * np.float32(side - 1))
        low = [np.minimum(place.astype(np.int32), side - 2) for place in places]
        (u, v), (i, j) = [place - start for place, start in zip(places, low, strict=True)], low
        flat = self.back.reshape(-1, 3)
        start = j * side + i
        u, v = u[..., None], v[..., None]
        upper = flat[start] * (1 - u) + flat[start + 1] * u
        lower = flat[start + side] * (1 - u) + flat[start + side + 1] * u
        return (upper * (1 - v) + lower * v).transpose(3, 0, 1, 2)

    def _add(self, canvas: np.ndarray, part: Part, camera: Camera, size: int) -> None:
        """Paints one part where it is."""
        a, b = camera.see(part.a), camera.see(part.b)
        radius, other = part.radius * camera.zoom, part.other * camera.zoom
        reach = {'capsule': np.maximum(radius, other), 'disc': radius, 'box': radius + other}[part.kind] + 2 / size
        ends = (a, b) if part.kind == 'capsule' else (a,)
        lows = np.min([(end - reach[:, None]).min(0) for end in ends], 0)
        highs = np.max([(end + reach[:, None]).max(0) for end in ends], 0)
        x0, y0 = (max(0, math.floor((value + 1) * size / 2)) for value in lows)
        x1, y1 = (min(size, math.ceil((value + 1) * size / 2)) for value in highs)
        if x0 >= x1 or y0 >= y1:
            return
        axis = _axis(size)
        ax, ay, bx, by, radius, other = (
            values.astype(np.float32)[:, None, None] for values in (a[:, 0], a[:, 1], b[:, 0], b[:, 1], radius, other))
        x, y = axis[None, None, x0:x1] - ax, axis[None, y0:y1, None] - ay
        along = across = None
        if part.kind == 'disc':
            distance = np.sqrt(x * x + y * y) - radius
            depth = radius
            along, across = x / radius, y / radius
        elif part.kind == 'capsule':
            ux, uy = bx - ax, by - ay
            share = np.clip((x * ux + y * uy) / (ux * ux + uy * uy + np.float32(1e-6)), 0, 1)
            x, y = x - ux * share, y - uy * share
            depth = radius + (other - radius) * share
            distance = np.sqrt(x * x + y * y) - depth
        else:
            ux, uy = bx - ax, by - ay
            length = np.sqrt(ux * ux + uy * uy) + np.float32(1e-6)
            ux, uy = ux / length, uy / length
            along, across = x * ux + y * uy, y * ux - x * uy
            distance = np.maximum(np.abs(along) - radius, np.abs(across) - other)
            depth = np.minimum(radius, other)
            along, across = along / radius, across / other
        cover = np.clip(np.float32(0.5) - distance * np.float32(size / 2), 0, 1)
        colours = self._colours(part, distance, depth, along, across)
        region = canvas[:, :, y0:y1, x0:x1]
        region += (colours - region) * cover

    def _colours(self, part: Part, distance, depth, along, across) -> np.ndarray:
        """Colours of a part, `[3 or 1, T, h, w]` or a shape that broadcasts to it."""
        bulge = np.clip(-distance / (depth + np.float32(1e-6)), 0, 1)
        if self.look == 'depth':
            base, span = self.depth_range
            near = part.near.astype(np.float32)[:, None, None]
            return (np.float32(base) + np.float32(span) * near + bulge * np.float32(0.08))[None]
        if self.look == 'silhouette':
            if part.acts:
                return self.shape[:, None, None, None]
            return (self.shape * np.float32(0.5) + self.flat * np.float32(0.5))[:, None, None, None]
        light = np.float32(0.75) + np.float32(0.25) * bulge
        if part.paint.ndim == 1 or along is None:
            paint = part.paint if part.paint.ndim == 1 else part.paint[0, 0]
            return paint[:, None, None, None] * light
        side = part.paint.shape[0]
        i, j = (np.clip((place * np.float32(0.5) + np.float32(0.5)) * side, 0, side - 1).astype(np.int32)
                for place in (along, across))
        return part.paint[j, i].transpose(3, 0, 1, 2) * light
