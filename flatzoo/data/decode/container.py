"""Opens a video file with FFmpeg, kept from all that is not this file, and turns decoded frames into upright pixels."""
import struct
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import MAX_PIXELS, VideoError, check_pixels, first_line

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

__all__ = ['FORMATS', 'choose_stream', 'open_file', 'orientation', 'upright_pixels']

# The formats of FFmpeg that are opened, whatever the name of a file says: containers and streams of video, and those of
# sound, so that a song is told as one. Not among them are play lists, scripts and whatever else names other files,
# waits for a network or draws text. No pictures, but for the few that Pillow does not read here.
FORMATS = (
    'aac', 'ac3', 'aiff', 'amr', 'asf', 'asf_o', 'au', 'av1', 'avi', 'avs2', 'avs3', 'bink', 'caf', 'cavsvideo',
    'dhav', 'dirac', 'dnxhd', 'dv', 'dxa', 'eac3', 'evc', 'ffm', 'flac', 'flic', 'flv', 'gdv', 'gif', 'gxf', 'h261',
    'h263', 'h264', 'hevc', 'iv8', 'ivf', 'ivr', 'kux', 'live_flv', 'lmlm4', 'lvf', 'lxf', 'm4v', 'matroska,webm',
    'mgsts', 'mjpeg', 'mjpeg_2000', 'mlv', 'mov,mp4,m4a,3gp,3g2,mj2', 'mp3', 'mpeg', 'mpegts', 'mpegtsraw',
    'mpegvideo', 'mpjpeg', 'mtv', 'mv', 'mxf', 'mxg', 'nsv', 'nut', 'nuv', 'obu', 'ogg', 'pva', 'r3d', 'rl2', 'rm',
    'roq', 'rpl', 'smjpeg', 'smk', 'swf', 'ty', 'vc1', 'vc1test', 'viv', 'vivo', 'vvc', 'w64', 'wav', 'wtv', 'wv',
    'xmv', 'yuv4mpegpipe',
    'exr_pipe', 'j2k_pipe', 'jpegxl_pipe', 'pam_pipe', 'pbm_pipe', 'pgm_pipe', 'ppm_pipe', 'qoi_pipe',
)


def open_file(path: str) -> tuple['av.container.InputContainer', 'av.VideoStream', int]:
    """Opens a video file at its first packet.

    Returns:
        The container, the stream that `choose_stream` takes, and the number of video streams.

    Raises:
        VideoError: It is no video, or its frames are too large.
    """
    import av

    try:
        # 'file:' keeps a colon in a file name from being taken as a protocol. The limits must be given here, since
        # opening already looks into the file: it follows play lists and decodes first frames.
        container = av.open(
            'file:' + path,
            options={
                'format_whitelist': ','.join(FORMATS),
                'protocol_whitelist': 'file',
                'max_pixels': str(MAX_PIXELS),
            },
            metadata_errors='replace',
        )
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        refused = isinstance(error, av.error.ArgumentError)
        reason = 'it is damaged, or text or a play list' if refused else first_line(error)
        raise VideoError(
            f'{path}: is not a video that FFmpeg can read ({reason}). '
            f'Check that the file is a complete video.') from None
    try:
        return container, *choose_stream(container, path)
    except BaseException:
        container.close()
        raise


def choose_stream(container: 'av.container.InputContainer', path: str) -> tuple['av.VideoStream', int]:
    """The video stream that is read, and the number of video streams.

    Raises:
        VideoError: There is none, its codec is unknown, or its frames are too large.
    """
    import av

    # The cover picture of a song and the previews of a film are stored as video streams.
    preview = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & preview]
    if not streams:
        kinds = ', '.join(sorted({s.type for s in container.streams})) or 'no streams'
        raise VideoError(f'{path}: has no video stream (it holds: {kinds}). Give a file with pictures.')
    best = container.streams.best('video')
    stream = best if best in streams else streams[0]
    codec = stream.codec_context
    if codec is None:
        raise VideoError(f'{path}: its video codec is unknown to FFmpeg. Convert the video to H.264 first.')
    check_pixels(path, codec.width or 0, codec.height or 0)
    return stream, len(streams)


def orientation(frame: 'av.VideoFrame') -> tuple[bool, list[int]]:
    """How a frame is put upright: whether it is transposed, and which dimensions of `[H, W, C]` are flipped then.

    The display matrix takes the pixel (x, y) to (a x + c y, b x + d y). Turns by other angles become the nearest one.
    """
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return False, []
    a, b, _, c, d = struct.unpack('=5i', bytes(matrix)[:20])
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    if transposed:
        a, d = c, b
    return transposed, [dim for dim, scale in enumerate((d, a)) if scale < 0]


def upright_pixels(
        frame: 'av.VideoFrame',
        reformatter: 'VideoReformatter',
        size: tuple[int, int],
        turn: tuple[bool, list[int]],
) -> Tensor:
    """Pixels of a decoded frame, uint8 `[H, W, 3]`; they may lie in memory of the frame, to be copied.

    Args:
        frame: The frame.
        reformatter: One for all frames of a video: setting one up costs more than a small frame.
        size: `(width, height)` to which FFmpeg scales, before the turn.
        turn: `orientation` of the video.
    """
    width, height = size
    plane = reformatter.reformat(frame, width, height, 'rgb24', threads=1).planes[0]
    pixels = torch.frombuffer(plane, dtype=torch.uint8).view(height, plane.line_size)  # lines may be padded
    pixels = pixels[:, :3 * width].unflatten(1, (width, 3))
    transposed, flipped = turn
    if transposed:
        pixels = pixels.transpose(0, 1)
    return pixels.flip(flipped) if flipped else pixels
