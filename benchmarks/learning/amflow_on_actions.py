"""Does AM Flow do what the paper says? On the procedural actions, with equal data, epochs and recipe for every variant.

First a small ViT learns what single frames show, then it is frozen (adapters on a frozen random ViT prove nothing):

    python benchmarks/learning/train_frames_vit.py
    python benchmarks/learning/amflow_on_actions.py --seeds 0 1 2 --jobs 2

Variants: without AM flow, vanilla and aligned, each with a still and a shaking camera; LSTM and transformer in place of
the TCN; 16 frames in place of 8; the same model with nothing frozen, from the weights of the ViT and from scratch; and
on a frozen ViT of random weights. The training clips are rendered once and held in memory, each scene in both
directions; every epoch is measured on the held-out split (textures that training never shows), so that the epochs to a
stated accuracy can be counted. A seed fixes the training clips, their order and the initial weights: runs of one seed
are pairs. The held-out clips are the same for all. The learning rates (aligned, fine-tuned, from scratch) are each the
better of two on another seed and another held-out set. A run that is in the results file already is not repeated.
"""
import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

import flatzoo
from benchmarks.common.actions import predict, share
from benchmarks.common.files import beside_data, write_file
from benchmarks.common.frames_vit import ARCHITECTURE, WEIGHTS
from flatzoo.data.actions import ACTIONS, ActionClips, render_action

SHAKE = 0.05  # of the frame: a nervous hand
# What all variants share: the widths of the paper's modules, shrunk as the ViT is.
WIDTHS = dict(
    bottleneck=32, aligner_dim=32, aligner_depth=1, aligner_mlp_dim=64, aligner_heads=4, tcn_dim=32, tcn_kernel_size=3,
    tcn_dilations=(1, 2, 4), lstm_dim=32, lstm_depth=1, transformer_mlp_dim=64, transformer_heads=4)
DEFAULTS = dict(flow='aligned', temporal='tcn', shake=0.0, frames=8, regime='frozen', lr=2e-2)
VARIANTS = {
    'no flow': dict(flow='none'),
    'vanilla': dict(flow='vanilla'),
    'aligned': {},
    'no flow, shaking': dict(flow='none', shake=SHAKE),
    'vanilla, shaking': dict(flow='vanilla', shake=SHAKE),
    'aligned, shaking': dict(shake=SHAKE),
    'LSTM': dict(temporal='lstm'),
    'transformer': dict(temporal='transformer'),
    '16 frames': dict(frames=16),
    'fine-tuned': dict(regime='full', lr=5e-3),
    'from scratch': dict(regime='scratch'),
    'frozen random ViT': dict(regime='random'),
}
SECTIONS = {  # heading -> rows, the first being the one that the others are compared with
    'Flow, still camera': ('no flow', 'vanilla', 'aligned'),
    'Flow, shaking camera': ('no flow, shaking', 'vanilla, shaking', 'aligned, shaking'),
    'Temporal unit (aligned, still)': ('aligned', 'LSTM', 'transformer'),
    'Frames (aligned, still)': ('aligned', '16 frames'),
    'What is trained (aligned, still)': ('aligned', 'fine-tuned', 'from scratch', 'frozen random ViT'),
}


def clips_of(count: int, frames: int, shake: float, seed: int, split: str, cache: Path) -> tuple[Tensor, Tensor]:
    """Clips uint8 `[N, C, T, S, S]` and labels `[N]`, rendered once and kept as a file.

    Those of training are scenes in both directions, next to each other; those of testing are independent.
    """
    size = ARCHITECTURE['img_size']
    path = cache / f'{split}-{count}-{frames}x{size}-shake{shake:g}-seed{seed}.safetensors'
    if not path.exists():
        if split == 'train':
            labels = [2 * (i % (len(ACTIONS) // 2)) for i in range(count // 2)]
            clips = [
                render_action(label, (seed << 32) + i, frames, size, camera_shake=shake).transpose(0, 1)
                for i, label in enumerate(labels)]
            clips = [clip for even in clips for clip in (even, even.flip(1))]
            labels = [label for even in labels for label in (even, even + 1)]
        else:
            data = ActionClips(count, frames, size, seed=seed, split=split, camera_shake=shake)
            clips, labels = zip(*data, strict=True)
        clips = torch.stack(clips).contiguous()
        write_file(path, safetensors.torch.save({'clips': clips, 'labels': torch.tensor(labels)}))
    data = safetensors.torch.load_file(path)
    return data['clips'], data['labels']


def load_clips(name: str, seed: int, options: argparse.Namespace) -> list[tuple[Tensor, Tensor]]:
    """Clips and labels of a run: for training, for testing, and for testing with the other camera."""
    frames, shake = ({**DEFAULTS, **VARIANTS[name]}[key] for key in ('frames', 'shake'))
    return [
        clips_of(options.train_clips, frames, shake, seed, 'train', options.cache),
        *(clips_of(options.eval_clips, frames, s, 1, 'test', options.cache) for s in (shake, SHAKE - shake))]


def build(variant: dict, vit: Path, seed: int) -> nn.Module:
    """The model of a variant, its backbone loaded and frozen as the variant has it."""
    torch.manual_seed(seed)
    model = timm.create_model(
        'amflow_dinov2_b_tcn_lite', backbone='vit_tiny_patch16_224', num_classes=len(ACTIONS),
        num_frames=variant['frames'], flow=variant['flow'], temporal=variant['temporal'], **ARCHITECTURE, **WIDTHS)
    if variant['regime'] in ('frozen', 'full'):
        state = safetensors.torch.load_file(vit)
        model.backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith('head.')})
    if variant['regime'] in ('frozen', 'random'):
        model.freeze_backbone()
    return model


def measure(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy, and that of the pair of actions where their direction does not count."""
    called = predict(model, data[0])
    return {'accuracy': share(called == data[1]), 'pair': share(called // 2 == data[1] // 2)}


def run(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Trains and measures one variant with one seed."""
    torch.set_num_threads(1)
    (clips, labels), test, other = load_clips(name, seed, options)
    variant = {**DEFAULTS, **VARIANTS[name]}
    model = build(variant, options.vit, seed)
    steps_per_epoch = len(clips) // options.batch_size
    steps = options.epochs * steps_per_epoch
    lr = variant['lr']
    optimizer = create_optimizer_v2(model, opt=options.opt, lr=lr, weight_decay=options.weight_decay)
    scheduler = CosineLRScheduler(
        optimizer, steps, lr_min=lr / 100, warmup_t=steps // 20, warmup_lr_init=lr / 50, t_in_epochs=False)
    order = torch.Generator().manual_seed(seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    epochs, start = [], time.process_time()
    for epoch in range(options.epochs):
        model.train()
        losses = []
        # Whole scenes are drawn, so that both directions of each are in one batch.
        scenes = torch.randperm(len(clips) // 2, generator=order)
        batches = torch.stack((2 * scenes, 2 * scenes + 1), 1).flatten().split(options.batch_size)
        for i, batch in enumerate(batches[:steps_per_epoch]):
            loss = F.cross_entropy(model(clips[batch]), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
            scheduler.step_update(epoch * steps_per_epoch + i + 1)
            losses.append(loss.item())
        epochs.append({'loss': round(statistics.mean(losses), 4), **measure(model, test)})
    seconds = time.process_time() - start
    return {
        'variant': name,
        'seed': seed,
        'accuracy': epochs[-1]['accuracy'],
        'pair': epochs[-1]['pair'],
        'train_accuracy': measure(model, (clips[:512], labels[:512]))['accuracy'],
        'other_camera': measure(model, other)['accuracy'],
        'parameters': sum(p.numel() for p in model.parameters()),
        'trained': sum(p.numel() for p in trained),
        'cpu_seconds': round(seconds),
        'epochs': epochs,
        'versions': dict(torch=torch.__version__, timm=timm.__version__, flatzoo=flatzoo.__version__),
    }


def epochs_to(record: dict, accuracy: float) -> int | None:
    """The first epoch, counted from 1, that reached an accuracy."""
    return next((i for i, epoch in enumerate(record['epochs'], 1) if epoch['accuracy'] >= accuracy), None)


def section(rows: tuple[str, ...], runs: list[dict], targets: list[float]) -> list[str]:
    """Rows of mean and spread per variant, and of the differences to the first variant, seed by seed."""
    def cell(values: list[float]) -> str:
        values = [100 * value for value in values]
        return f'{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}'

    mine = {name: sorted((r for r in runs if r['variant'] == name), key=lambda r: r['seed']) for name in rows}
    base = {r['seed']: r['accuracy'] for r in mine[rows[0]]}
    heads = ' | '.join(f'epochs to {100 * target:g} %' for target in targets)
    lines = [
        f'| variant | trained | seeds | held-out | difference to the first, each seed | pair right | other camera '
        f'| training clips | {heads} |',
        '|---|---|---|---|---|---|---|---|' + '---|' * len(targets),
    ]
    for name, records in mine.items():
        if not records:
            continue
        differences = ', '.join(
            f'{100 * (r["accuracy"] - base[r["seed"]]):+.1f}' for r in records if r['seed'] in base)
        reached = ' | '.join(', '.join(str(epochs_to(r, target) or '-') for r in records) for target in targets)
        cells = [cell([r[key] for r in records]) for key in ('accuracy', 'pair', 'other_camera', 'train_accuracy')]
        lines.append(
            f'| {name} | {records[0]["trained"] / 1e3:.0f} k | {len(records)} | {cells[0]} '
            f'| {"" if name == rows[0] else differences} | {" | ".join(cells[1:])} | {reached} |')
    return lines


def report(results: dict, targets: list[float]) -> list[str]:
    """The Markdown file."""
    runs = results['runs']
    rates = [f'{name} {variant["lr"]:g}' for name, variant in VARIANTS.items() if 'lr' in variant]
    versions = {' and '.join(f'{key} {value}' for key, value in r['versions'].items()) for r in runs}
    lines = [
        '# AM Flow on the procedural actions', '',
        f'`{results["commands"][-1]}`; {"; ".join(sorted(versions))}; CPU, one thread per run, '
        f'{sum(r["cpu_seconds"] for r in runs) / 3600:.1f} core hours. {results["recipe"]}; '
        f'learning rate {DEFAULTS["lr"]:g} ({", ".join(rates)}).',
        'Top-1 in % after the last epoch, mean ± standard deviation over the seeds; chance is 6.25 %. "Pair right": '
        'the clip was called its action or the reverse of it; what ignores order gets half of these. "Other camera": '
        'the shaking one for what was trained with a still one and the other way round. Epochs are given seed by seed, '
        '- where never reached. Unless a row says otherwise: aligned flow, TCN, still camera, 8 frames, adapters on '
        'the frozen ViT.',
    ]
    for heading, rows in SECTIONS.items():
        if not {r['variant'] for r in runs} & set(rows):
            continue
        lines += ['', f'## {heading}', '', *section(rows, runs, targets)]
    return lines


def main() -> None:
    """Runs what is missing, then writes JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--vit', type=Path, default=WEIGHTS)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS), metavar='NAME')
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--train-clips', type=int, default=1024)
    parser.add_argument('--eval-clips', type=int, default=512)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--opt', default='muon')
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--targets', type=float, nargs='+', default=[0.3, 0.5, 0.6], help='accuracies, 0..1')
    parser.add_argument('--cache', type=Path, default=Path(tempfile.gettempdir()) / 'flatzoo_actions')
    parser.add_argument('--jobs', type=int, default=1, help='runs side by side')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/data/amflow_on_actions.json'))
    args = parser.parse_args()

    keys = ('epochs', 'train_clips', 'eval_clips', 'batch_size', 'opt', 'weight_decay')
    recipe = {key: getattr(args, key) for key in keys}
    results = json.loads(args.out.read_text()) if args.out.exists() else dict(recipe=recipe, runs=[])
    if results['recipe'] != recipe:
        parser.error(f'{args.out} holds runs of another recipe, {results["recipe"]}: name another --out.')
    results.setdefault('commands', []).append(shlex.join(['python', *sys.argv]))
    done = {(r['variant'], r['seed']) for r in results['runs']}
    todo = [(name, seed) for seed in args.seeds for name in args.variants if (name, seed) not in done]
    torch.set_num_threads(1)
    for name, seed in todo:  # here, not in the runs: no two write the same file
        load_clips(name, seed, args)
    with ProcessPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(run, name, seed, args) for name, seed in todo]):
            last = future.result()
            results['runs'].append(last)
            write_file(args.out, (json.dumps(results, indent=1) + '\n').encode())
            print('{variant}, seed {seed}: {accuracy:.3f} in {cpu_seconds} s'.format(**last), flush=True)
    write_file(args.out, (json.dumps(results, indent=1) + '\n').encode())
    lines = report(results, args.targets)
    write_file(beside_data(args.out, '.md'), ('\n'.join(lines) + '\n').encode())
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
