"""List the clips that look most like a clip.

--in is a folder that 'flatzoo embed' wrote. The model that its features are of looks at each CLIP, and the
nearest of all clips are listed, with the cosine of the angle between the features: 1 is the same. A CLIP that
the folder has is its own nearest one. The search is exact, and faster where faiss is installed.

    flatzoo embed videos/ --model sifar_resnet10t --out features/
    flatzoo similar clip.mp4 --in features/ --topk 5
"""
import argparse
import json

from flatzoo.console.text import printable

from .. import CommandError, write, write_error
from ..arguments import count
from ..sources import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo similar`."""
    parser.add_argument('clips', nargs='+', metavar='CLIP', help='video file, folder or pattern')
    parser.add_argument('--in', dest='folder', required=True, metavar='FOLDER', help='features to look among')
    parser.add_argument('--topk', type=count, default=5, metavar='N', help='clips to list (default: %(default)s)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument('--json', action='store_true', help='print one JSON list in place of text')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo similar`."""
    from flatzoo.inference.embed import embed
    from flatzoo.inference.embedder import Embedder
    from flatzoo.inference.features import load_features
    from flatzoo.inference.similar import nearest

    try:
        features = load_features(args.folder)
        features.pooled()  # tokens are refused before a model is loaded
        queries = embed(args.clips, Embedder.of_settings(features.settings, args.device))
        found = nearest(features, queries.pooled(), args.topk)
    except (ImportError, OSError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    entries = [
        {'path': row.path, 'similar': [
            {'path': near.row.path, 'label': near.row.label, 'similarity': round(near.similarity, 6)}
            for near in nears]}
        for row, nears in zip(queries.rows, found, strict=True)]
    if args.json:
        write(json.dumps(entries, indent=2))
    else:
        for number, entry in enumerate(entries):
            lines = [
                f'{near["similarity"]:8.3f}  {printable(near["path"])}' + (
                    f'  ({printable(near["label"])})' if near['label'] else '')
                for near in entry['similar']]
            write(('\n' if number else '') + '\n'.join([printable(entry['path']), *lines]))
    for row in queries.errors:
        write_error(row.error)
    return int(bool(queries.errors))
