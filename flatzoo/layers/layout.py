"""Layouts: how the frames of a clip lie in one image.

A layout is an index map `[K, R, C]` and two rules. The map gives the source frame of every cell of K images with R rows
and C columns (-1 = an empty cell). The rules say how cells are scaled and how empty cells are filled. This covers:

- the super image of SIFAR (https://arxiv.org/abs/2106.14104, Section 3),
- the row-major, nested and random transforms of Flatten (https://arxiv.org/abs/2408.09220),
- the N x N frames of the TIME layer (https://arxiv.org/abs/2411.15284),
- the thumbnails of TALL (https://arxiv.org/abs/2307.07494),
- the grid path of DualPath (CVPR 2023),
- and any map that a user writes.

`Layout` is the description, a string that is parsed when it is made. `super_image.SuperImage` is the module that lays
clips out.

| spec | meaning |
|---|---|
| `grid` | SIFAR's rule: m = ceil(sqrt(T)); (m-1) x m cells where T frames fit in them, else m x m |
| `2x4` | 2 rows, 4 columns; cells beyond the last frame stay empty |
| `3x3:column`, `4x4:snake` | visiting order: `row` (default), `column`, or `snake` (odd rows run right to left) |
| `nested:2x2/2x2` | outer grid of inner grids; sub-sequences contiguous (default) or `:strided` |
| `random:4x4` | frames shuffled, per sample and anew in each training call; `:always` shuffles in eval mode, too |
| `time:2:spatial` | T/N^2 images of N x N cells; `spatial`: cell j plays the j-th block of T/N^2 consecutive frames |
| `time:2:temporal` | ...; `temporal`: each image holds N^2 consecutive frames |
| `tall`, `dualpath` | every 4 (16) consecutive frames as one 2x2 (4x4) image, resized as a whole to the frame size |
| `index:[[0,1],[2,-1]]` | an explicit map, `[R, C]` or `[K, R, C]` |

Any spec takes the options `,scale=none|cell|composite`, `,pad=VALUE|last` and `,antialias=true|false`.
"""
import json
import math
import operator
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flatzoo.console.text import printable, shortened

__all__ = ['Layout', 'LayoutSpec']

LayoutSpec = str | Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]] | Tensor
Index = list[list[list[int]]]  # [K][R][C], source frame of each cell, -1 = empty

_FORMS = (
    "'grid', '2x4', '3x3:column', '4x4:snake', 'nested:2x2/2x2', 'random:4x4', 'time:2:spatial', 'time:2:temporal', "
    "'tall', 'dualpath', 'index:[[0,1],[2,-1]]', each with ',scale=none|cell|composite', ',pad=VALUE|last', "
    "',antialias=true|false'"
)
_CONSECUTIVE = {'tall': (2, 2), 'dualpath': (4, 4)}
MAX_CELLS = 2 ** 16  # limit of cells and frames; a spec may come from an untrusted file
_SCALES = ('none', 'cell', 'composite')


class Layout(str):
    """A layout as a string in its canonical form: it prints, compares, hashes and saves to JSON as that string.

    Args:
        spec: A spec of the table above, another layout, or an explicit index map (nested lists or an integer tensor of
            shape `[R, C]` or `[K, R, C]`).

    Attributes:
        kind: `grid`, `nested`, `random`, `time`, `tall`, `dualpath` or `index`.
        scale: `none` (the image grows with the grid), `cell` (each frame shrinks so that the image keeps the frame
            size) or `composite` (the image is assembled, then resized to the frame size).
        pad: Filling of empty cells: a value, `'last'` for the last frame, or None. A value is in the units of the image
            that is written. In a model the image is normalised, also for uint8 clips. If raw uint8 is laid out, the
            value is 0...255. None stands for zeros; it is refused for raw uint8, because black is rarely intended.
        antialias: Whether resizing filters before it samples. The default follows the papers: no for `none` (SIFAR
            resizes frames with plain bilinear interpolation), yes for `cell` and `composite`.

    Raises:
        ValueError: The spec cannot be read. The message lists the accepted forms.
    """
    kind: Literal['grid', 'nested', 'random', 'time', 'tall', 'dualpath', 'index']
    scale: Literal['none', 'cell', 'composite']
    pad: float | str | None
    antialias: bool

    def __new__(cls, spec: LayoutSpec = 'grid') -> 'Layout':
        if isinstance(spec, cls):
            return spec
        try:
            if isinstance(spec, str):
                return cls._parse(spec)
            index = spec.tolist() if hasattr(spec, 'tolist') else spec
            return cls._parse('index:' + json.dumps(index, separators=(',', ':'), default=operator.index))
        except (ValueError, TypeError, RecursionError) as error:
            reason = 'it is too deeply nested' if isinstance(error, RecursionError) else printable(error, 300)
            raise ValueError(f'Cannot read the layout {shortened(spec)}: {reason}. Accepted forms: {_FORMS}.') from None

    @classmethod
    def _parse(cls, spec: str) -> 'Layout':
        head, *option_texts = re.split(r',(?=[a-z]+=)', spec.strip().lower())
        kind, _, rest = head.partition(':')
        args = rest.split(':') if rest and kind != 'index' else []
        fields: dict = {}
        default_scale = 'none'
        if kind == 'grid' or re.fullmatch(r'\d+x\d+', kind):
            fields['cells'] = None if kind == 'grid' else _parse_grid(kind)
            fields['order'] = _choice(args, ('row', 'column', 'snake'), {'col': 'column'})
            head = _grid_text(fields['cells']) if fields['cells'] else kind
            head += '' if fields['order'] == 'row' else f':{fields["order"]}'
            kind = 'grid'
        elif kind == 'nested':
            outer, _, inner = (args.pop(0) if args else '').partition('/')
            fields['outer'], fields['inner'] = _parse_grid(outer), _parse_grid(inner)
            if math.prod(fields['outer']) * math.prod(fields['inner']) > MAX_CELLS:
                raise ValueError(f'{outer}/{inner} has more than {MAX_CELLS} cells')
            fields['split'] = _choice(args, ('contiguous', 'strided'))
            head = f'nested:{_grid_text(fields["outer"])}/{_grid_text(fields["inner"])}'
            head += '' if fields['split'] == 'contiguous' else ':strided'
        elif kind == 'random':
            fields['cells'] = _parse_grid(args.pop(0)) if args and 'x' in args[0] else None
            fields['always'] = _choice(args, ('training', 'always')) == 'always'
            head = ':'.join(['random', *([_grid_text(fields['cells'])] if fields['cells'] else []),
                             *(['always'] if fields['always'] else [])])
        elif kind == 'time':
            fields['n'] = int(args.pop(0)) if args and args[0].isdecimal() else 0
            if not 1 <= fields['n'] ** 2 <= MAX_CELLS:
                raise ValueError(f'N must be a whole number of at least 1, and of at most {MAX_CELLS} cells')
            fields['arrangement'] = _choice(args, ('spatial', 'temporal'))
            head = f'time:{fields["n"]}:{fields["arrangement"]}'
            default_scale = 'cell'
        elif kind in _CONSECUTIVE:
            _choice(args, ())
            default_scale = 'composite'
        elif kind == 'index':
            fields['map'] = _check_index(json.loads(rest))
            compact = fields['map'] if len(fields['map']) > 1 else fields['map'][0]
            head = 'index:' + json.dumps(compact, separators=(',', ':'))
        else:
            raise ValueError(f'{kind!r} is no known kind')

        options = dict(text.split('=', 1) for text in option_texts)
        scale = options.pop('scale', default_scale)
        if scale not in _SCALES:
            raise ValueError(f'scale={scale!r} is none of {", ".join(_SCALES)}')
        pad = options.pop('pad', None)
        if pad is not None and pad != 'last':
            pad = float(pad)
            if not math.isfinite(pad):
                raise ValueError(f'pad={pad} is not finite')
        default_antialias = scale != 'none'
        antialias = _choice([options.pop('antialias', str(default_antialias).lower())], ('true', 'false')) == 'true'
        if options:
            raise ValueError(f'unknown option {next(iter(options))!r}')

        text = head
        text += f',scale={scale}' if scale != default_scale else ''
        text += '' if pad is None else f',pad={pad if pad == "last" else repr(pad).removesuffix(".0")}'
        text += f',antialias={str(antialias).lower()}' if antialias != default_antialias else ''
        self = super().__new__(cls, text)
        self.kind, self.scale, self.pad, self.antialias = kind, scale, pad, antialias
        self._fields = fields
        return self

    @property
    def time_grid(self) -> tuple[int, str] | None:
        """N and arrangement of a `time` layout, see `flatzoo.layers.TimeLayer`; None for other kinds."""
        return (self._fields['n'], self._fields['arrangement']) if self.kind == 'time' else None

    def growth(self, num_frames: int) -> tuple[int, int]:
        """How many times larger the image is than a frame, in height and width.

        Args:
            num_frames: Frames of the clip.

        Returns:
            Rows and columns of the grid, or (1, 1) if cells or the image are scaled to the frame's size.
        """
        return self.shape(num_frames)[1:] if self.scale == 'none' else (1, 1)

    def size_step(self, num_frames: int) -> int:
        """Both sides of a frame must be a multiple of this number, so that cells are whole pixels.

        Args:
            num_frames: Frames of the clip.
        """
        return math.lcm(*self.shape(num_frames)[1:]) if self.scale == 'cell' else 1

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return type(self), (str(self),)

    @property
    def shuffles(self) -> bool:
        """Whether frames are permuted (kind `random`)."""
        return self.kind == 'random'

    @property
    def shuffles_in_eval(self) -> bool:
        """Whether frames are permuted in eval mode, too (`random:...:always`)."""
        return self.shuffles and self._fields['always']

    def index(self, num_frames: int, generator: Any = None) -> Tensor:
        """The index map for clips of a given length.

        Args:
            num_frames: Frames T of the clip, at least 1.
            generator: A `torch.Generator` or `numpy.random.Generator` that draws the permutation of kind `random`.
                Without one the frames are not shuffled. Other kinds do not use it.

        Returns:
            int64 tensor `[K, R, C]` with entries in -1...T-1.

        Raises:
            ValueError: If the layout cannot hold that number of frames; the message says which number it takes.
        """
        if not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f'A clip needs a whole number of at least 1 frame, got {num_frames!r}.')
        if num_frames > MAX_CELLS:
            raise ValueError(f'A layout takes up to {MAX_CELLS} frames, got {num_frames}.')
        index = torch.tensor(getattr(self, f'_index_{self.kind}')(num_frames), dtype=torch.int64, device='cpu')
        if self.shuffles and generator is not None:
            if hasattr(generator, 'permutation'):  # numpy
                order = torch.as_tensor(generator.permutation(num_frames))
            else:
                order = torch.randperm(num_frames, generator=generator)
            index = torch.where(index < 0, index, order[index])
        return index

    def shape(self, num_frames: int) -> tuple[int, int, int]:
        """Images, rows and columns `(K, R, C)` that a clip of `num_frames` frames becomes."""
        return tuple(self.index(num_frames).shape)

    def _index_grid(self, num_frames: int) -> Index:
        rows, cols = self._fields['cells'] or _sifar_grid(num_frames)
        self._check_room(num_frames, rows * cols)
        return [_fill(rows, cols, num_frames, self._fields['order'])]

    def _index_random(self, num_frames: int) -> Index:
        rows, cols = self._fields['cells'] or _sifar_grid(num_frames)
        self._check_room(num_frames, rows * cols)
        return [_fill(rows, cols, num_frames, 'row')]

    def _index_nested(self, num_frames: int) -> Index:
        (outer_rows, outer_cols), (rows, cols) = self._fields['outer'], self._fields['inner']
        blocks, size = outer_rows * outer_cols, rows * cols
        self._check_room(num_frames, blocks * size)
        strided = self._fields['split'] == 'strided'

        def frame(row: int, col: int) -> int:
            block, cell = row // rows * outer_cols + col // cols, row % rows * cols + col % cols
            position = cell * blocks + block if strided else block * size + cell
            return position if position < num_frames else -1

        return [[[frame(row, col) for col in range(outer_cols * cols)] for row in range(outer_rows * rows)]]

    def _index_time(self, num_frames: int) -> Index:
        n, cells = self._fields['n'], self._fields['n'] ** 2
        if num_frames % cells:
            lower = num_frames // cells * cells
            fits = f'{lower} or {lower + cells}' if lower else f'{cells}'
            raise ValueError(
                f'Layout {str(self)!r} puts {cells} frames into each image and {num_frames} frames were given: '
                f'use a multiple of {cells}, such as {fits} frames.'
            )
        images = num_frames // cells
        if self._fields['arrangement'] == 'temporal':
            return _consecutive(num_frames, n, n)
        return [[[(row * n + col) * images + k for col in range(n)] for row in range(n)] for k in range(images)]

    def _index_tall(self, num_frames: int) -> Index:
        return _consecutive(num_frames, *_CONSECUTIVE[self.kind])

    _index_dualpath = _index_tall

    def _index_index(self, num_frames: int) -> Index:
        index = self._fields['map']
        largest = max(frame for image in index for row in image for frame in row)
        if largest >= num_frames:
            raise ValueError(
                f'Layout {str(self)!r} names frame {largest}, but the clip has frames 0 to {num_frames - 1}: '
                f'use num_frames={largest + 1} or more, or another map.'
            )
        return index

    def _check_room(self, num_frames: int, cells: int) -> None:
        if num_frames > cells:
            raise ValueError(
                f"Layout {str(self)!r} has {cells} cells and {num_frames} frames were given: use at most "
                f"{cells} frames, a larger grid, or 'grid', which chooses {_grid_text(_sifar_grid(num_frames))}."
            )


def _parse_grid(text: str) -> tuple[int, int]:
    rows, cols = map(int, text.split('x')) if re.fullmatch(r'\d+x\d+', text) else (0, 0)
    if rows < 1 or cols < 1:
        raise ValueError(f'{text!r} is not a grid of at least one row and one column, such as 2x2')
    if rows * cols > MAX_CELLS:
        raise ValueError(f'{text!r} has more than {MAX_CELLS} cells')
    return rows, cols


def _grid_text(cells: tuple[int, int]) -> str:
    return f'{cells[0]}x{cells[1]}'


def _choice(args: list[str], choices: tuple[str, ...], aliases: dict | None = None) -> str:
    """The optional last word of a spec. The first choice is the default."""
    if not args and choices:
        return choices[0]
    if args:
        word = (aliases or {}).get(args[0], args[0])
        if len(args) > 1 or word not in choices:
            raise ValueError(f'{":".join(args)!r} is not one of {", ".join(choices) or "(nothing more is taken)"}')
        return word
    return ''


def _check_index(index: Any) -> Index:
    if not isinstance(index, list) or not index or not isinstance(index[0], list) or not index[0]:
        raise ValueError('an index map is a [R, C] or [K, R, C] array')
    images = index if isinstance(index[0][0], list) else [index]
    rows = [row for image in images if isinstance(image, list) for row in image]
    if not all(isinstance(part, list) for part in images + rows):
        raise ValueError('an index map is a rectangular array of whole numbers')
    sizes = {(len(image), len(row)) for image in images for row in image}
    entries = [frame for image in images for row in image for frame in row]
    if len(sizes) != 1 or not entries or not all(isinstance(f, int) and not isinstance(f, bool) for f in entries):
        raise ValueError('an index map is a rectangular array of whole numbers')
    if len(entries) > MAX_CELLS:
        raise ValueError(f'an index map has at most {MAX_CELLS} cells')
    if min(entries) < -1 or max(entries) < 0:
        raise ValueError('the entries of an index map are frame numbers from 0, or -1 for an empty cell')
    return images


def _sifar_grid(num_frames: int) -> tuple[int, int]:
    # Section 3.1 of SIFAR prints n < (m-1)m for the flat grid. Its own example puts 12 frames into 3x4, so it means <=.
    m = math.isqrt(num_frames - 1) + 1
    return (m - 1, m) if num_frames <= (m - 1) * m else (m, m)


def _fill(rows: int, cols: int, num_frames: int, order: str) -> list[list[int]]:
    """One image, filled in the order `row`, `column` or `snake`. Cells beyond the last frame stay empty."""
    def frame(row: int, col: int) -> int:
        if order == 'column':
            position = col * rows + row
        else:
            position = row * cols + (cols - 1 - col if order == 'snake' and row % 2 else col)
        return position if position < num_frames else -1

    return [[frame(row, col) for col in range(cols)] for row in range(rows)]


def _consecutive(num_frames: int, rows: int, cols: int) -> Index:
    """Images of rows x cols consecutive frames each, row-major. The last image may have empty cells."""
    size = rows * cols
    return [
        [[f - size * k if f < 0 else (f + size * k if f + size * k < num_frames else -1) for f in row]
         for row in _fill(rows, cols, size, 'row')]
        for k in range(math.ceil(num_frames / size))
    ]
