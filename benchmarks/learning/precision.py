"""What computing in bf16 or int8 costs in accuracy: trained models on clips that they were not trained on, in pairs.

Every model answers the same clips in fp32, bf16 and int8, through `flatzoo.runtime.prepare`, which is behind
`--precision`. What counts is the difference of top-1, with the paired 95 % interval of Agresti and Min, and how many
clips change from right to wrong and back. int8 takes here every layer that bears it, also where integers would not be
faster, so the result does not depend on which layers this machine finds fast; `int8 layers` says how many linear
layers those are. In a convolutional network that is the classifier alone. `int8, ONNX` is the file that `flatzoo export
--format onnx --quantize int8` writes, in onnxruntime.

    python benchmarks/learning/precision.py                       # rendered clips, weights in the package
    python benchmarks/learning/precision.py --data msr_action3d/ --model runs/msr  # the split val of a folder

adds rows to `precision.md` and `data/precision.csv`. Real clips are for research and are not part of flatzoo.
"""
import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import torch
from torch import Tensor

from benchmarks.common.timing import markdown, save, setting
from flatzoo.data.actions import ActionClips, VerbClips
from flatzoo.data.clips import ClipDataset
from flatzoo.data.lists import read_videos
from flatzoo.data.transforms import resize
from flatzoo.evaluation.evaluate import match_classes
from flatzoo.evaluation.statistics import difference_interval
from flatzoo.export import export, load
from flatzoo.inference.load import load_model
from flatzoo.models import VideoModel, eval_protocol
from flatzoo.runtime import prepare
from flatzoo.runtime.choice import rule
from flatzoo.runtime.int8 import Int8Linear

RENDERED = {'sifar_resnet10t.actions16': ActionClips, 'sifar_resnet10t.actions49': VerbClips}
FILE = 'int8, ONNX'
LOWER = ('bf16', 'int8', FILE)


def has_onnx() -> bool:
    """Whether files can be measured."""
    return all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime', 'onnxscript'))


def rendered(name: str, model: VideoModel, count: int) -> Iterable[tuple[Tensor, int]]:
    """Clips of textures and seeds that training did not have, rendered at twice the size."""
    size = model.img_size[0]
    data = RENDERED[name](count, model.num_frames, 2 * size, seed=1, split='test')
    for clip, label in (data[index] for index in range(count)):
        yield resize(clip.transpose(0, 1), size).transpose(0, 1)[None], label


def of_folder(folder: Path, model: VideoModel) -> Iterable[tuple[Tensor, int]]:
    """The clips of the split val, with all views of the model's protocol."""
    videos = read_videos('folder', folder, 'val')
    videos = match_classes(videos, model.num_classes, model.pretrained_cfg.get('label_names'))
    data = ClipDataset(videos, model.num_frames, model.img_size, train=False, protocol=eval_protocol(model))
    for index in range(len(data)):
        yield data[index]['clip'], data[index]['label']


def answers(model: Callable[[Tensor], Tensor], clips: list[Tensor], batch: int) -> Tensor:
    """Mean logits `[N, K]` of clips of equally many views."""
    with torch.inference_mode():
        parts = [model(torch.cat(clips[i:i + batch])) for i in range(0, len(clips), batch)]
    return torch.cat(parts).float().unflatten(0, (len(clips), -1)).mean(1)


def compare(model: VideoModel, name: str, data: str, clips: Iterable[tuple[Tensor, int]], batch: int) -> list[dict]:
    """A row for each lower precision."""
    clips, labels = map(list, zip(*clips))
    labels = torch.tensor(labels)
    exact = answers(prepare(model, 'fp32'), clips, batch)
    right = exact.argmax(1) == labels
    rows = []
    for precision in LOWER if has_onnx() else LOWER[:-1]:
        layers: list[Int8Linear] = []
        with rule('always'), tempfile.TemporaryDirectory() as folder:
            if precision == FILE:
                run = export(
                    model, Path(folder, 'model.onnx'), 'onnx', 'uint8' if clips[0].dtype == torch.uint8 else 'float',
                    quantize='int8')
                logits = answers(load(run.path), clips, batch)
            else:
                prepared = prepare(model, precision)
                layers = [layer for layer in prepared.modules() if isinstance(layer, Int8Linear)]
                logits = answers(prepared, clips, batch)
        now = logits.argmax(1) == labels
        low, high = difference_interval(now, right)
        taken = sum(layer.derived('near', layer.weight, lambda _: False) for layer in layers)
        rows.append({
            'model': name, 'clips of': data, 'clips': len(clips), 'fp32 top-1': f'{100 * right.float().mean():.2f}',
            'top-1': f'{100 * now.float().mean():.2f}',
            'points': f'{100 * (now.float().mean() - right.float().mean()):+.2f}',
            '95 %': f'{100 * low:+.2f} to {100 * high:+.2f}', 'became right': int((now & ~right).sum()),
            'became wrong': int((right & ~now).sum()),
            'other answers': int((logits.argmax(1) != exact.argmax(1)).sum()),
            'logits apart': f'{(logits - exact).abs().max() / exact.abs().max():.1e}',
            'int8 layers': f'{taken} of {len(layers)}' if layers else '', **setting('cpu', precision)})
        print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', nargs='+', default=list(RENDERED), help='names in the package; folders with --data')
    parser.add_argument('--data', type=Path, metavar='FOLDER', help='clips in val/CLASS')
    parser.add_argument('--clips', type=int, default=1960, help='rendered ones (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name in args.model:
        model = load_model(name, device='cpu')
        clips = of_folder(args.data, model) if args.data else rendered(name, model, args.clips)
        data = args.data.resolve().name if args.data else 'rendered'
        rows += compare(model, Path(name).name, data, clips, args.batch_size)
    rows = save(args.out / 'data' / 'precision.csv', rows, ('model', 'clips of', 'clips'))
    markdown(args.out / 'precision.md', 'Accuracy in bf16 and int8', [
        '`python benchmarks/learning/precision.py`, which says what is compared: top-1 in % of the same clips in fp32 '
        'and in a lower precision. `points` is the difference, beside it its paired 95 % interval.', rows])
    return rows


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
