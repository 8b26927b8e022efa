"""CPU seconds per file from the video to its label: the plain model in fp32, as before, and what `predict` does today.

Both answer the same files by the function behind `flatzoo predict` (`classify_files`): decoding, resizing, the model,
the most probable classes. `before` is the model as it was loaded, in fp32; `today` is the same model after
`flatzoo.runtime.prepare(model, 'auto')`. They take turns, the first round warms up, ratios are taken round by round,
and time is that of the process with all of its threads. `same answers` is how many files keep their class.

    python benchmarks/speed/end_to_end.py                # some minutes
    python benchmarks/speed/end_to_end.py sifar_resnet10t --files 192

writes `end_to_end.md` and `data/end_to_end.csv`. Models without weights in the package have random ones, which
changes no time.
"""
import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
from torch import nn

import flatzoo
from benchmarks.common.timing import in_turn, least, markdown, ratio, save, setting
from flatzoo.inference.classifier import classify_files
from flatzoo.models import eval_protocol
from flatzoo.runtime import precision_of, prepare

ASSETS = Path(flatzoo.__file__).parent / 'data' / 'assets'
CASES = {  # files, and whether weights are in the package
    'sifar_resnet10t': (64, True), 'flatten_uniformer_s': (8, False), 'sifar_swin_b12': (1, False)}


def measure(name: str, count: int, pretrained: bool, rounds: int) -> dict:
    """The row of a model."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=pretrained, **({} if pretrained else {'num_classes': 400})).eval()
    protocol = eval_protocol(model)
    models: dict[str, nn.Module] = {'before': model, 'today': prepare(model, 'auto')}
    answers: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(ASSETS.glob('*.mp4'))
        files = [shutil.copyfile(sources[i % len(sources)], Path(folder, f'{i}.mp4')) for i in range(count)]

        def answer(way: str) -> None:
            found = classify_files(models[way], [str(file) for file in files], protocol, 1, workers=1)
            answers[way] = [top[0].index for _, top in found]

        runs = {way: lambda way=way: answer(way) for way in models}
        for run in runs.values():
            run()
        times = in_turn(runs, rounds, 'cpu')
    return {
        'model': name, 'files': count, 'views': protocol.views, 'rounds': rounds,
        **{f'{way}, CPU s a file': f'{statistics.median(spent) / count:.4f}' for way, spent in times.items()},
        'times as fast': f'{ratio(times["before"], times["today"]):.2f}',
        'at least': f'{least(times["before"], times["today"]):.2f}',
        'same answers': sum(map(int.__eq__, *answers.values())),
        **setting('cpu', f'fp32 / {precision_of(models["today"])}')}


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', default=list(CASES), help='(default: all)')
    parser.add_argument('--files', type=int, help='(default: few of large models)')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict] = []
    for name in args.models:
        count, pretrained = CASES[name]
        row = measure(name, args.files or count, pretrained, args.rounds)
        print(row, flush=True)
        rows = save(args.out / 'data' / 'end_to_end.csv', [row], ('model', 'files'))
        markdown(args.out / 'end_to_end.md', 'From the file to the label', [
            '`python benchmarks/speed/end_to_end.py`: CPU seconds per file of the plain model in fp32 (`before`) and '
            'of what `flatzoo predict` does by itself (`today`), medians. The script says what the columns are.', rows])
    return rows


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
