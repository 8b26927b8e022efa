"""Find out whether a model looks at time, or at one frame, or at the background.

Each clip of the split is shown in order, reversed, shuffled, as single frames, without its background and at
other frame rates. The verdict says what the answers prove: "uses order", "uses motion but not its
direction", "uses several frames but not their order", "one frame suffices". Give clips that the model was
not trained on. Several models are ranked.

--model is a name that 'flatzoo list' shows, the FOLDER of a run or probe, hf-hub:ORG/NAME, torchvision:NAME
or transformers:NAME. In Python flatzoo.audit takes any function from clips to logits, too.

    flatzoo audit folder videos/ --model runs/mine --out audit
    flatzoo audit ssv2 ssv2/ --model sifar_swin_b14.ibm_ssv2 runs/probe --out audit --calibrate
"""
import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable

from .. import CommandError, write, write_error
from ..arguments import count
from ..sources import one_line

if TYPE_CHECKING:
    from flatzoo.evaluation.audit.run import Audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo audit`."""
    parser.add_argument('spec', metavar='SPEC', help='layout of the data set and its options')
    parser.add_argument('root', metavar='ROOT', help='folder of the data set')
    parser.add_argument('--split', default='val', metavar='NAME', help='train, val, test or all (default: %(default)s)')
    parser.add_argument('--model', nargs='+', required=True, metavar='NAME', help='one model or several, see above')
    parser.add_argument(
        '--num-frames', type=count, metavar='N', help='frames of a clip, of models of other libraries (default: 16)')
    parser.add_argument(
        '--img-size', type=count, metavar='N', help='frame size in pixels, of models of other libraries')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument(
        '--calibrate', action='store_true',
        help='also say how far probabilities are off, and by which temperature they are mended')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='of the random orders of frames (default: %(default)s)')
    parser.add_argument(
        '--batch-size', type=count, default=8, metavar='N', help='clips at a time (default: %(default)s)')
    parser.add_argument(
        '--workers', type=count, default=min(8, os.cpu_count() or 1), metavar='N',
        help='files that are decoded at the same time (default: %(default)s)')
    parser.add_argument('--out', metavar='PATH', help='write the pages PATH.html and PATH.md')
    parser.add_argument('--json', action='store_true', help='print JSON in place of text')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo audit`: 0 if all clips could be read, 1 if not."""
    from flatzoo.data.lists import read_videos
    from flatzoo.evaluation.audit.page import write_pages
    from flatzoo.evaluation.audit.run import audit, rank_models

    audits: list[Audit] = []
    try:
        videos = read_videos(args.spec, args.root, args.split)
        for name in args.model:
            foreign = name.startswith(('torchvision:', 'transformers:'))
            audits.append(audit(
                name, videos, batch_size=args.batch_size, workers=args.workers, seed=args.seed,
                calibrate=args.calibrate, progress=True, device=args.device,
                **({'num_frames': args.num_frames, 'img_size': args.img_size} if foreign else {})))
        ranking = rank_models(audits) if len(audits) > 1 else []
        if args.out is not None:
            command = f'flatzoo audit {args.spec} ROOT --split {args.split} --model {" ".join(args.model)}'
            for file in write_pages(audits, args.out, command):
                write(str(file), sys.stderr)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise CommandError(one_line(error, args.out)) from error
    if args.json:
        place = {row['name']: place for place, row in enumerate(ranking, 1)}
        write(json.dumps([{**_entry(found), 'rank': place.get(found.name, 1)} for found in audits], indent=2))
    else:
        write('\n\n'.join(map(_text, audits)))
        for place, row in enumerate(ranking, 1):
            p = '' if row['p'] is None else f', p = {row["p"]:.2g} against the one above'
            write(f'{place}. {row["name"]}: {row["title"]} (order gains {row["gain_order"]:.1f} points{p})')
    broken = sorted({reason for found in audits for reason in found.broken})
    for reason in broken:
        write_error(reason)
    return int(bool(broken))


def _text(found: 'Audit') -> str:
    lines = [f'{printable(found.name)} on {printable(found.data)}: {found.verdict.sentence}']
    lines += [f'  {reason}' for reason in found.verdict.reasons]
    lines += [
        f'{row["accuracy"]:8.1f} %  {row["shown"]}' + ('' if row['p'] is None else f' (p = {row["p"]:.2g})')
        for row in found.rows()]
    if found.symmetric:
        lines.append('  reversed, these are taken for each other: ' + '; '.join(
            f'{printable(a)} and {printable(b)}' for a, b in found.symmetric))
    if found.calibration is not None:
        lines.append('  expected calibration error {:.1f} %, with the temperature {:.2f} {:.1f} %'.format(
            100 * found.calibration['before'], found.calibration['temperature'], 100 * found.calibration['after']))
    return '\n'.join(lines)


def _entry(found: 'Audit') -> dict[str, Any]:
    return {
        'model': found.name, 'data': found.data, 'level': found.verdict.level, 'verdict': found.verdict.title,
        'reasons': list(found.verdict.reasons), 'p': found.verdict.p, 'controls': found.rows(),
        'classes': found.per_class(), 'symmetric': [list(pair) for pair in found.symmetric],
        'calibration': found.calibration, 'broken': list(found.broken), 'seconds': round(found.seconds, 1)}
