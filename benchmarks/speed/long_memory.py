"""How much memory `flatzoo.predict_windows` needs for videos of a minute, an hour and ten hours.

The videos are made of one rendered minute, whose packets are written again and again. Memory is what the run needs
beyond what the process had before; a run over the minute comes first, unmeasured.

    python benchmarks/speed/long_memory.py                   # six minutes on one core
    python benchmarks/speed/long_memory.py --minutes 1 60

writes `long_memory.csv` and a page.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import av
import timm
import torch

import flatzoo
from benchmarks.common.timing import markdown, peak_bytes, save, setting
from flatzoo.data.actions import write_spliced


def repeat(source: Path, target: Path, times: int) -> None:
    """Writes the packets of a video several times, one after the other."""
    kind = {'.ts': 'mpegts', '.mkv': 'matroska'}.get(target.suffix, 'mp4')
    with av.open(str(source)) as given:
        packets = [packet for packet in given.demux(video=0) if packet.pts is not None]
        stream = given.streams.video[0]
        datas = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        length = max(packet.pts + packet.duration for packet in packets)
        with av.open(str(target), 'w', format=kind) as made:
            copy = made.add_stream_from_template(stream)
            for number in range(times):
                for data, pts, dts, is_keyframe in datas:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = copy, stream.time_base
                    packet.pts, packet.dts = pts + number * length, dts + number * length
                    packet.is_keyframe = is_keyframe
                    made.mux(packet)


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=int, nargs='+', default=[1, 60, 600])
    parser.add_argument('--suffixes', nargs='+', default=['.mp4', '.ts'], help='containers (%(default)s)')
    parser.add_argument('--size', type=int, default=64, help='pixels of the videos (%(default)s)')
    parser.add_argument('--every', type=float, default=2.0, help='seconds (%(default)s)')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = timm.create_model('superimage', backbone='test_resnet', img_size=32, num_classes=16).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        minute, video = Path(folder, 'minute.mp4'), Path(folder)
        write_spliced(minute, 60, seed=1, size=args.size)
        for suffix in args.suffixes:
            for minutes in [args.minutes[0], *args.minutes]:  # the first one warms up
                video = Path(folder, f'long{suffix}')
                repeat(minute, video, minutes)
                found = {'windows': 0}

                def answer(video: Path = video, found: dict = found) -> None:
                    for record in flatzoo.predict_windows(video, model, args.every, 2.0):
                        found['windows'] += 1
                        found['end'] = record.end

                start = time.process_time()
                grown = peak_bytes(answer, 'cpu')
                rows.append({
                    'container': suffix[1:], 'minutes': f'{found["end"] / 60:.0f}', 'windows': found['windows'],
                    'megabytes_of_file': f'{video.stat().st_size / 2 ** 20:.1f}',
                    'megabytes_of_memory': '' if grown is None else f'{grown / 2 ** 20:.1f}',
                    'cpu_seconds': f'{time.process_time() - start:.0f}', **setting('cpu', 'float32')})
                print(rows[-1], flush=True)
            rows.pop(-1 - len(args.minutes))
    rows = save(args.out / 'data' / 'long_memory.csv', rows, ['container', 'minutes'])
    markdown(args.out / 'long_memory.md', 'Memory of long videos', [
        f'`python benchmarks/speed/long_memory.py`: videos of {args.size} x {args.size} pixels at 16 frames a second, '
        f'an answer every {args.every:g} s for windows of 2 s. `megabytes_of_memory` is what a run needs beyond what '
        'the process had before. The index of an MP4 file lists every frame, and FFmpeg holds it; MPEG-TS has none.',
        rows])
    return rows


if __name__ == '__main__':
    main()
