"""The one error of all decoders, and the limit on the size of a frame."""

__all__ = ['MAX_PIXELS', 'VideoError', 'check_pixels', 'first_line', 'nothing_decoded']

MAX_PIXELS = 2 ** 25  # pixels of one frame: 8192 x 4096, enough for 8K video


class VideoError(ValueError):
    """A file that cannot be read as a video.

    The message names the file, says what is wrong with it and what to do.
    """


def check_pixels(path: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(
            f'{path}: frames of {width}x{height} pixels, more than the {MAX_PIXELS} pixels that are accepted. '
            f'If the size is not a false claim of the header, scale the video down first.')


def nothing_decoded(path: str) -> VideoError:
    return VideoError(
        f'{path}: no frame can be decoded, the file is damaged or its frames have more than {MAX_PIXELS} pixels. '
        f'Get the video again.')


def first_line(error: Exception) -> str:
    """First line of an error's text, without the path that FFmpeg repeats."""
    text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200]
