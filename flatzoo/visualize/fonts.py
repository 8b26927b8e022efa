"""Fonts for names in any script: matplotlib's own font first, then those of the system that have what it lacks."""
import functools
import unicodedata
import warnings
from collections.abc import Iterable

__all__ = ['families']

# fonts of Chinese, Japanese and Korean, Arabic and Devanagari on Linux, macOS and Windows, the best known first
_KNOWN = (
    'Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans SC', 'Noto Sans JP', 'Source Han Sans SC', 'WenQuanYi Zen Hei',
    'WenQuanYi Micro Hei', 'Droid Sans Fallback', 'PingFang SC', 'Hiragino Sans', 'Hiragino Sans GB',
    'Microsoft YaHei', 'SimHei', 'Yu Gothic', 'MS Gothic', 'IPAexGothic', 'Malgun Gothic', 'Noto Sans Arabic',
    'Noto Naskh Arabic', 'Geeza Pro', 'Noto Sans Devanagari', 'Lohit Devanagari', 'Kohinoor Devanagari', 'Mangal',
    'Nirmala UI', 'Arial Unicode MS', 'Noto Sans', 'FreeSans', 'Unifont')


def families(text: str) -> list[str]:
    """Font families in which a text is drawn: matplotlib takes each character from the first that has it.

    Args:
        text: What is to be drawn.

    Warns:
        UserWarning: No installed font has some of the characters; boxes are drawn in their place.
    """
    from matplotlib import rcParams

    found = list(rcParams['font.family'])
    if text.isascii():
        return found
    missing = {character for character in text if character > '\x7f' and character.isprintable()}
    own = [name for family in found for name in rcParams.get(f'font.{family}', [family])]  # sans-serif is a list
    for name in own:
        missing -= _characters_of(name, frozenset(missing))
    for name in _installed() if missing else ():
        if has := _characters_of(name, frozenset(missing)):
            found.append(name)
            missing -= has
        if not missing:
            break
    if missing:
        scripts = sorted({unicodedata.name(character, 'unknown').split()[0] for character in missing})
        warnings.warn(
            f'no installed font has {_some(sorted(missing))} ({", ".join(scripts).lower()}): boxes are drawn instead. '
            'Install a font of this script, such as one of Noto (https://fonts.google.com/noto).', stacklevel=2)
    return found


def _some(characters: list[str]) -> str:
    return ' '.join(characters[:8]) + (f' and {len(characters) - 8} more' if len(characters) > 8 else '')


@functools.cache
def _installed() -> tuple[str, ...]:
    """Families of the system, those that are known to have many scripts first."""
    from matplotlib.font_manager import fontManager

    names: Iterable[str] = dict.fromkeys(entry.name for entry in fontManager.ttflist)
    return tuple(sorted(names, key=lambda name: _KNOWN.index(name) if name in _KNOWN else len(_KNOWN)))


@functools.cache
def _characters_of(name: str, wanted: frozenset[str]) -> frozenset[str]:
    """Which of the wanted characters a family has."""
    from matplotlib.font_manager import findfont, get_font

    try:
        font = get_font(findfont(name, fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):  # not there, or a format that matplotlib cannot read
        return frozenset()
    return frozenset(character for character in wanted if font.get_char_index(ord(character)))
