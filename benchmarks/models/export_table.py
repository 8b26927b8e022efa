"""Exports a small member of every family in every format and writes a table of what works, and why the rest does not.

Widths, depths and frames are small and weights random (all of them, so that adapters that start as zero count, too),
except those of sifar_resnet10t: what is tried is the programs, every operator of which the full sizes have, too. Each
file is compared with its model as `flatzoo export` does, on noise and on real videos, in batches of 1, 2 and 3. Speed
is that of the file over that of the model in turns, one clip at a time on one CPU thread, by the time of the process;
in models this small it is mostly what a framework spends around the arithmetic, so it says little of full sizes.

    python benchmarks/models/export_table.py
    python benchmarks/models/export_table.py --formats aoti --models 'superimage*'

Cells that are not asked for keep what the table has.
"""
import argparse
import csv
import fnmatch
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch

import flatzoo
from flatzoo.export import FORMATS, ExportError, export

UNIFORMER = dict(depths=(1, 1, 2, 1), embed_dims=(16, 24, 32, 48), head_dim=16, img_size=32)
SWIN = dict(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), img_size=32)
VIT = dict(embed_dim=32, depth=4, num_heads=4, img_size=32)
AMFLOW = dict(
    embed_dim=32, depth=2, num_heads=2, num_frames=4, img_size=28, patch_size=7, bottleneck=16, aligner_dim=24,
    aligner_depth=1, aligner_mlp_dim=32, aligner_heads=4, tcn_dim=8, lstm_dim=12, transformer_mlp_dim=24,
    transformer_heads=4)
EVA = dict(AMFLOW, img_size=32, patch_size=8)
HIERA = {key: value for key, value in AMFLOW.items() if key not in ('depth', 'patch_size')} | dict(
    embed_dim=8, num_heads=1, stages=(1, 1, 2, 1), img_size=64, mask_unit_size=(8, 8))
# name in the table -> model and arguments
MODELS = {
    'sifar_resnet10t': ('sifar_resnet10t', dict(pretrained=True)),
    'sifar_swin': ('sifar_swin_b12', dict(SWIN, window_size=(3, 3, 3, None))),
    'sifar_swin, 16 frames, ape': ('sifar_swin_b12', dict(SWIN, num_frames=16, ape=True, window_size=(4, 4, 4, None))),
    'sifar_resnet c7': ('sifar_resnet50_c7', dict(backbone='resnetv2_18', groups=128, img_size=32)),
    'flatten_uniformer': ('flatten_uniformer_s', UNIFORMER),
    'flatten_uniformer, hybrid, nested': (
        'flatten_uniformer_s', dict(UNIFORMER, attn='hybrid', layout='nested:1x2/2x2')),
    'flatten_swinv2': ('flatten_swinv2_t', dict(SWIN, window_size=4)),
    'flatten_resnet': ('flatten_resnet50', dict(backbone='test_resnet', img_size=32)),
    'amflow_dinov2 tcn': ('amflow_dinov2_b_tcn', dict(AMFLOW, backbone='vit_base_patch14_reg4_dinov2')),
    'amflow_clip transformer': (
        'amflow_clip_b_transformer', dict(AMFLOW, backbone='vit_base_patch16_clip_quickgelu_224')),
    'amflow, DINOv3, vanilla, lstm': (
        'amflow_dinov2_b_smarthome', dict(EVA, backbone='vit_base_patch16_dinov3', fusion='linear')),
    'amflow, hyper adapters': (
        'amflow_dinov2_b_tcn', dict(AMFLOW, backbone='deit3_base_patch16_224', adapter='hyper', flow='vanilla')),
    'amflow, Hiera': ('amflow_dinov2_b_tcn', dict(HIERA, backbone='hiera_tiny_224')),
    'time_resnet50': ('time_resnet50', dict(backbone='test_resnet', img_size=64, num_new_frames=2)),
    'time_vit_b': ('time_vit_b', dict(backbone='test_vit', img_size=32, num_new_frames=2)),
    'time_videomae_b': ('time_videomae_b', dict(VIT, num_new_frames=4)),
    'videomae_vit': ('videomae_vit_b', VIT),
    **{f'superimage, {backbone}': ('superimage', dict(backbone=backbone, img_size=32)) for backbone in (
        'test_vit', 'test_vit_relpos', 'test_convnext', 'test_efficientnet', 'test_byobnet', 'test_mambaout')},
    'superimage, uniformer': ('superimage', dict(UNIFORMER, backbone='uniformer_small')),
    'superimage, random layout': (
        'superimage', dict(backbone='test_resnet', img_size=32, layout='random:3x3')),
    'superimage, resized cells': (
        'superimage', dict(backbone='test_resnet', img_size=48, layout='3x3,scale=cell')),
}
COLUMNS = ('model', 'format', 'works', 'difference', 'speed', 'kilobytes', 'torch', 'note')


def attempt(name: str, format: str, input: str, folder: str) -> dict[str, str]:
    """The cell of a model and a format."""
    torch.manual_seed(0)
    model_name, kwargs = MODELS[name]
    if not kwargs.get('pretrained'):
        kwargs = dict(kwargs, num_classes=10)
    model = timm.create_model(model_name, **kwargs)
    if not model.head_trained:
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    cell = dict.fromkeys(COLUMNS, '') | dict(model=name, format=format, torch=torch.__version__)
    try:
        report = export(model, Path(folder, f'model{FORMATS[format]}'), format, input)
    except (ExportError, ValueError) as error:
        return cell | dict(works='no', note=' '.join(str(error).split()))
    return cell | dict(
        works='yes', difference=f'{report.difference:.1e}', speed=f'{report.speed:.2f}',
        kilobytes=f'{report.size / 1000:.0f}')


def table(cells: list[dict[str, str]]) -> list[str]:
    """Lines of Markdown."""
    by_place = {(cell['model'], cell['format']): cell for cell in cells}

    def text(cell: dict[str, str] | None) -> str:
        if cell is None:
            return 'not tried'
        return f'{cell["difference"]}, x{cell["speed"]}' if cell['works'] == 'yes' else 'no (below)'

    lines = [
        '# Every family in every export format',
        '',
        f'`python benchmarks/models/export_table.py`, torch {torch.__version__}, timm {timm.__version__}, flatzoo '
        f'{flatzoo.__version__}, CPU, one thread, uint8 clips. Small members of each family (the script has their '
        'sizes), random weights but for `sifar_resnet10t`. A cell says that the file works: the largest difference of '
        'a logit to the model\'s, over the largest logit, on noise and real videos in batches of 1, 2 and 3; and the '
        'speed beside the model, which in models this small says little of full sizes.',
        '',
        '| model | ' + ' | '.join(FORMATS) + ' |',
        '|' + '---|' * (1 + len(FORMATS)),
        *(f'| {name} | ' + ' | '.join(text(by_place.get((name, format))) for format in FORMATS) + ' |'
          for name in MODELS),
        '',
    ]
    return lines + [f'- {cell["model"]}, {cell["format"]}: {cell["note"]}' for cell in cells if cell['works'] == 'no']


def write(path: Path, text: str) -> None:
    """Writes a file under another name first."""
    partial = path.with_name(f'{path.name}.partial')
    partial.write_text(text)
    os.replace(partial, path)


def main() -> None:
    """Parses arguments, tries and writes both files after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--out', type=Path, default=Path('benchmarks/results/export_table.md'),
        help='page; its CSV file goes into data/ beside it')
    parser.add_argument('--formats', nargs='*', default=list(FORMATS), choices=FORMATS)
    parser.add_argument('--models', nargs='*', default=['*'], help='names or patterns of rows')
    parser.add_argument('--input', default='uint8', choices=('uint8', 'float'))
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)

    cells: dict[tuple[str, str], dict[str, str]] = {}
    data = args.out.parent / 'data' / f'{args.out.stem}.csv'
    data.parent.mkdir(parents=True, exist_ok=True)
    if data.exists():
        with data.open(newline='') as file:
            cells = {(cell['model'], cell['format']): cell for cell in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as folder:
        for format in args.formats:
            for name in MODELS:
                if not any(fnmatch.fnmatch(name, pattern) for pattern in args.models):
                    continue
                cell = cells[name, format] = attempt(name, format, args.input, folder)
                print(' | '.join(cell.values()), flush=True)
                ordered = [cells[place] for place in ((m, f) for m in MODELS for f in FORMATS) if place in cells]
                with tempfile.TemporaryFile('w+', newline='') as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
                    writer.writeheader()
                    writer.writerows(ordered)
                    file.seek(0)
                    write(data, file.read())
                write(args.out, '\n'.join(table(ordered)) + '\n')


if __name__ == '__main__':
    logging.disable(logging.WARNING)
    main()
