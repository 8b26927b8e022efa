"""Small training runs for tests, in this process or in others that can be killed or train together."""
import json
import os
from pathlib import Path

import numpy as np
import torch
from processes import FORKSERVER, free_port

from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.train import checkpoint, loop
from flatzoo.train.distributed import Processes
from flatzoo.train.recipe import Recipe, load_recipe

SMALL = dict(
    spec='folder', model='superimage', model_kwargs={'backbone': 'test_vit'}, num_frames=4, img_size=32, epochs=2,
    batch_size=4, workers=0, device='cpu', lr=1e-3, log_interval=1, max_broken=0.5)
"""Options of a run of seconds: a transformer with LayerNorm on super images of 64 pixels."""
PLAIN = dict(mixup=0, cutmix=0, drop_path=0)


def write_clips(root, train=6, val=2):
    """A data set of two classes of rendered actions."""
    for split, count in (('train', train), ('val', val)):
        for label in (4, 6):
            folder = Path(root, split, ACTIONS[label].replace(' ', '_'))
            folder.mkdir(parents=True)
            for i in range(count):
                write_action(folder / f'{i}.mp4', label, 100 * label + i + 50 * (split == 'val'), 48, 8)
    return Path(root)


def small_recipe(root, output, **options) -> Recipe:
    return load_recipe(**{**SMALL, 'root': str(root), 'output': str(output), **options})


def train(root, output, **options):
    """A run in this process; the lines that it reports."""
    lines = []
    row = loop.train(small_recipe(root, output, **options), report=lines.append)
    return row, lines


def weights(folder):
    return checkpoint.load_last(Path(folder, checkpoint.LAST))['model']


def same(a, b):
    """Whether two state dicts have the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(loop.Trainer):
    """Keeps what was seen after each update."""

    def _sum_meters(self):
        meters = super()._sum_meters()
        self.__dict__.setdefault('curve', []).append(meters)
        return meters


def _child(recipe, rank, world, port, curve, error, kill):
    """What a process does: its part of a run."""
    torch.set_num_threads(1)
    try:
        if world > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port))
        if kill is not None:
            _die_at(*kill)
        processes = Processes.start('cpu')
        trainer = Recorder(Recipe(**recipe), processes, report=lambda line: None)
        trainer.fit()
        processes.stop()
        if rank == 0 and curve is not None:
            Path(curve).write_text(json.dumps(trainer.curve))
    except BaseException as problem:
        Path(f'{error}.{rank}').write_text(f'{type(problem).__name__}: {problem}')
        raise


def _die_at(name, call, names=1):
    """Kills this process without warning in a call of a function of `checkpoint`, where a file should get its name."""
    function = getattr(checkpoint, name)
    count = [0]

    def deadly(*args, **kwargs):
        count[0] += 1
        if count[0] < call:
            return function(*args, **kwargs)
        real_replace = os.replace
        left = [names]

        def replace(*paths):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), 9)  # written, but without its name
            real_replace(*paths)

        os.replace = replace
        try:
            return function(*args, **kwargs)
        finally:
            os.replace = real_replace

    setattr(checkpoint, name, deadly)


def start(recipe, folder, rank=0, world=1, port=0, curve=None, kill=None):
    """Starts a process that trains; the server that it comes from has imported everything."""
    arguments = (recipe.to_dict(), rank, world, port, curve, str(Path(folder, 'error')), kill)
    process = FORKSERVER.Process(target=_child, args=arguments, daemon=False)
    process.start()
    return process


def finish(processes, folder, timeout=600):
    """Waits for processes and fails with what they said."""
    for process in processes:
        process.join(timeout)
        if process.exitcode is None:
            for other in processes:
                other.kill()
            raise AssertionError('the processes wait for each other')
    said = [path.read_text() for path in sorted(Path(folder).glob('error.*'))]
    assert all(process.exitcode == 0 for process in processes), said


def together(recipe, folder, world):
    """A run of several processes; what was seen after each update: loss, right answers and clips of the epoch."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    port = free_port()
    curve = Path(folder, 'curve.json')
    finish([start(recipe, folder, rank, world, port, str(curve)) for rank in range(world)], folder)
    return np.array(json.loads(curve.read_text()))
