"""Check a data set, pack it into shards, or render one.

SPEC is the layout of the data set and ROOT its folder: folder (a folder per class), kinetics, ssv2,
ucf101, hmdb51, diving48, jester, moments, ntu60, ntu120, uwa3d, smarthome, sifar, csv, jsonl, frames,
wds, or auto to recognise it. Options of a layout follow it, such as ucf101:fold=2 or
ntu120:protocol=xset,modality=depth.

check opens every file and says what the clips are like: clips of a class, lengths, sizes and what a
centre crop would lose. It reports what is missing, cannot be read, is shorter than a clip or is there
twice, most of all in several splits, people who are in several splits (see below), and classes that do
not match; the exit code is 1 if there is anything. A file groups.csv with the columns path and group,
or a column group of a list of clips, says who is in a clip. pack writes WebDataset
shards, which are read as the layout wds, also from a URL; what is no readable video or picture, or
does not lie below ROOT, is left out and named, and the exit code is 1. render makes a small data set
with nothing to download: sixteen labelled actions of drawn objects in pairs that only the order of
frames tells apart, as video files in a folder per class, in train and val.

    flatzoo data check ucf101 UCF101/
    flatzoo data check kinetics k400/ --model sifar_swin_b14.ibm_k400 --json > report.json
    flatzoo data pack ssv2 ssv2/ shards/
    flatzoo data render videos/ --clips 20
    flatzoo data render verbs/ --kind verbs --clips 50
"""
import argparse
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flatzoo.data.workers import available_cores

from .. import CommandError, write, write_error
from ..arguments import count
from ..check import DataReport, check_videos, report_text

if TYPE_CHECKING:
    from flatzoo.data.lists import VideoList

__all__ = ['DataReport', 'add_arguments', 'check_videos', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo data`."""
    actions = parser.add_subparsers(title='actions', dest='action', metavar='ACTION', required=True)
    check = actions.add_parser('check', help='open every file and report what is wrong')
    pack = actions.add_parser('pack', help='write WebDataset shards')
    render = actions.add_parser('render', help='make a small data set to try things on')
    render.add_argument('out', metavar='OUT', help='folder to write to, new or empty')
    render.add_argument(
        '--kind', choices=('actions', 'verbs'), default='actions',
        help="16 actions, or 48 verbs and 'nothing' (default: %(default)s)")
    render.add_argument(
        '--clips', type=_several, default=20, metavar='N',
        help='clips of each action, at least 2; a fifth of them are for val (default: %(default)s)')
    render.add_argument(
        '--classes', type=count, metavar='N',
        help='number of actions, an even one keeps the pairs (default: all)')
    render.add_argument(
        '--size', type=_even, default=96, metavar='PIXELS', help='height and width (default: %(default)s)')
    render.add_argument(
        '--frames', type=count, default=16, metavar='T', help='frames of a clip, 8 a second (default: %(default)s)')
    render.add_argument('--seed', type=int, default=0, metavar='N', help='of other clips (default: %(default)s)')
    render.add_argument(
        '--workers', type=count, default=available_cores(), metavar='N',
        help='processes that render (default: %(default)s, one per core)')
    for action in (check, pack):
        action.add_argument('spec', metavar='SPEC', help='layout and its options, see flatzoo data --help')
        action.add_argument('root', metavar='ROOT', help='folder of the data set')
    pack.add_argument('out', metavar='OUT', help='folder to write to')
    for action in (check, pack):
        action.add_argument(
            '--split', action='append', metavar='NAME', help='train, val, test or all (default: those that there are)')
    check.add_argument('--model', metavar='NAME', help='compare the classes with those of the weights of this model')
    check.add_argument(
        '--num-frames', type=count, default=8, metavar='T', help='frames of a clip (default: %(default)s)')
    check.add_argument(
        '--workers', type=count, default=available_cores(), metavar='N',
        help='files that are opened at the same time (default: %(default)s)')
    check.add_argument('--json', action='store_true', help='print one JSON object')
    pack.add_argument(
        '--max-clips', type=count, default=1000, metavar='N', help='clips in a shard (default: %(default)s)')
    pack.add_argument(
        '--max-mb', type=count, default=1024, metavar='MB', help='size of a shard, about (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo data`: 0 if all is well, 1 if something was found or left out."""
    return {'check': _check, 'pack': _pack, 'render': _render}[args.action](args)


def _check(args: argparse.Namespace) -> int:
    from flatzoo.console.progress import Progress

    names = None if args.model is None else _model_classes(args.model)
    lists = _read_splits(args)

    def progress(results: Iterable, total: int) -> Iterable:
        with Progress(total, 'clip') as bar:
            for result in results:
                yield result
                bar.update()

    report = check_videos(lists, args.num_frames, args.workers, names, progress)
    if args.json:
        counts = {videos.split: len(videos) for videos in lists}
        data = {'data_set': lists[0].name, 'classes': len(lists[0].classes), 'clips': counts}
        write(json.dumps(data | {'facts': report.facts, 'problems': report.problems}, indent=2))
    else:
        write(report_text(lists, report, args.num_frames))
    return int(bool(report))


def _pack(args: argparse.Namespace) -> int:
    from flatzoo.console.progress import Progress
    from flatzoo.data.lists import DataError
    from flatzoo.data.shards import pack

    failures = 0
    for videos in _read_splits(args):
        def progress(clips: Iterable, videos: 'VideoList' = videos) -> Iterable:
            with Progress(len(videos), 'clip', description=videos.split) as bar:
                for clip in clips:
                    yield clip
                    bar.update()

        try:
            shards, failed = pack(
                videos, args.out, max_clips=args.max_clips, max_bytes=args.max_mb * 2 ** 20, progress=progress)
        except (DataError, ImportError, OSError) as error:
            raise CommandError(error) from error
        failures += len(failed) + len(videos.missing)
        for line in failed:
            write_error(f'left out: {line}')
        size = sum(path.stat().st_size for path in shards)
        write(f'{videos.split}: {len(videos) - len(failed)} clips in {len(shards)} shards, {size / 1e6:.3g} MB')
    return int(bool(failures))


def _render(args: argparse.Namespace) -> int:
    from flatzoo.console.progress import Progress
    from flatzoo.data.actions import KINDS, write_action_splits

    names = KINDS[args.kind]
    if args.classes is not None and args.classes > len(names):
        raise CommandError(f'--classes {args.classes}: there are {len(names)} {args.kind}.')
    names = names[:args.classes]
    try:
        if os.path.isdir(args.out) and os.listdir(args.out):
            raise CommandError(f'{args.out} is not empty. Give a new folder, or empty this one.')
        with Progress(args.clips * len(names), 'clip') as bar:
            paths = write_action_splits(
                args.out, args.clips, kind=args.kind, actions=names, seed=args.seed, size=args.size,
                num_frames=args.frames, workers=args.workers, done=lambda path: bar.update())
    except OSError as error:
        raise CommandError(f'{args.out} cannot be written to ({error.strerror or error}).') from error
    validation = sum(path.parent.parent.name == 'val' for path in paths)
    write(
        f'{args.out}: {len(paths) - validation} clips of {len(names)} {args.kind} in train, {validation} in val',
        sys.stderr)
    write(
        f'now try: {shlex.join(["flatzoo", "train", "folder", args.out])} --model sifar_resnet10t --pretrained '
        f"--epochs 3 --output runs/mine, or {shlex.join(['flatzoo', 'predict', str(paths[-1])])}", sys.stderr)
    write(args.out)
    return 0


def _several(text: str) -> int:
    if count(text) < 2:
        raise argparse.ArgumentTypeError('at least 2 are needed, one for train and one for val')
    return count(text)


def _even(text: str) -> int:
    if count(text) < 16 or count(text) % 2:
        raise argparse.ArgumentTypeError(f'{text!r} is not an even number of at least 16')
    return count(text)


def _read_splits(args: argparse.Namespace) -> list['VideoList']:
    """The lists of the chosen splits, or of those that exist. `all` counts only if no other split exists."""
    from flatzoo.data.lists import DataError, NotThere, read_videos

    splits = args.split or ['train', 'val', 'test']
    lists, absent = {}, []
    for split in [*splits, 'all']:
        if split == 'all' and 'all' not in splits and lists:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # about missing files, which are reported
                videos = read_videos(args.spec, args.root, split, missing='skip')
            lists.setdefault(videos.split, videos)  # val and test may be one
        except NotThere as error:
            absent.append(error)
            if args.split:
                break
        except (DataError, OSError) as error:
            raise CommandError(error) from error
    if absent and (args.split or not lists):
        raise CommandError(absent[0])
    return list(lists.values())


def _model_classes(name: str) -> tuple[str, ...]:
    import timm

    from flatzoo.inference.load import check_registered, model_name, weights_name_classes

    name = model_name(name)
    if name.startswith('local-dir:'):
        return _saved_classes(name.removeprefix('local-dir:'))
    check_registered(name)
    cfg = timm.get_pretrained_cfg(name)
    if not weights_name_classes(cfg):
        raise CommandError(f"the weights of {name} name no classes. 'flatzoo list --pretrained' shows those that do.")
    return tuple(cfg.label_names)


def _saved_classes(folder: str) -> tuple[str, ...]:
    from flatzoo.weights.config import CONFIG_FILE, read_config

    try:
        config = read_config(os.path.join(folder, CONFIG_FILE))
    except (OSError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    if not config.get('label_names'):
        raise CommandError(f'{folder}: its {CONFIG_FILE} names no classes.')
    return tuple(config['label_names'])
