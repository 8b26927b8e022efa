"""Two processes train as one with the doubled batch does, with copies (DDP) and with shards (FSDP2)."""
import numpy as np
import pytest
import timm
import torch
from timm.task import ClassificationTask
from train_runs import PLAIN, free_port, small_recipe, start, together, weights, write_clips

from flatzoo.train.distributed import GlobalBatches, Processes, parallelise

OPTIONS = dict(PLAIN, epochs=3)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'))


@pytest.fixture(scope='module')
def alone(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('alone')
    return together(small_recipe(root, folder / 'run', batch_size=4, **OPTIONS), folder, 1), folder / 'run'


@pytest.mark.parametrize('options', [
    dict(batch_size=2), dict(batch_size=1, grad_accum_steps=2), dict(batch_size=2, fsdp=True)],
    ids=['ddp', 'accumulated', 'fsdp'])
def test_two_processes_have_the_curve_of_one_with_the_doubled_batch(root, alone, tmp_path, options):
    curve, folder = alone
    ours = together(small_recipe(root, tmp_path / 'run', **OPTIONS, **options), tmp_path, 2)
    assert curve.shape == ours.shape == (9, 3)
    assert np.array_equal(ours[:, 1:], curve[:, 1:])  # right answers and clips
    np.testing.assert_allclose(ours[:, 0], curve[:, 0], rtol=1e-4)
    assert np.ptp(curve[[2, 5, 8], 0]) > 0.01 * curve[2, 0]  # something was learnt
    one, two = weights(folder), weights(tmp_path / 'run')
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
    model = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    assert model.head_trained and (tmp_path / 'run' / 'summary.csv').read_text().count('\n') == 4


def test_shards_go_on_where_they_were(root, tmp_path):
    """The two processes of a run with shards, cut off after its first epoch, end as if they had not been."""
    options = dict(OPTIONS, batch_size=2, fsdp=True, epochs=2)
    straight = together(small_recipe(root, tmp_path / 'straight', **options), tmp_path / 'a', 2)
    recipe = small_recipe(root, tmp_path / 'run', resume='auto', **options)
    (tmp_path / 'b').mkdir()
    port = free_port()
    processes = [start(recipe, tmp_path / 'b', rank, 2, port, kill=('save_last', 2)) for rank in range(2)]
    processes[0].join(600)
    assert processes[0].exitcode == -9
    processes[1].kill()
    processes[1].join()
    rest = together(recipe, tmp_path / 'c', 2)
    np.testing.assert_allclose(rest, straight[-len(rest):], rtol=1e-6)
    one, two = weights(tmp_path / 'straight'), weights(tmp_path / 'run')
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_a_process_whose_batch_is_broken_does_not_keep_the_others_waiting(root, tmp_path):
    broken = write_clips(tmp_path / 'clips', train=4)
    for path in sorted(broken.glob('train/*/0.mp4')):
        path.write_bytes(b'no video')
    curve = together(small_recipe(broken, tmp_path / 'run', **dict(OPTIONS, batch_size=1, epochs=1)), tmp_path, 2)
    assert curve[-1, 2] == 6  # of eight
    assert len((tmp_path / 'run' / 'broken.txt').read_text().splitlines()) == 2


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_share_one_order_and_no_clip(world):
    def batches(size, steps, processes):
        made = [GlobalBatches(50, size, steps, Processes(rank, processes, torch.device('cpu')), seed=1)
                for rank in range(processes)]
        for own in made:
            own.set_epoch(2)
        return made

    parts = [list(own) for own in batches(2, 2, world)]
    updates = [sorted(sum((part[2 * u] + part[2 * u + 1] for part in parts), [])) for u in range(len(parts[0]) // 2)]
    whole = [sorted(batch) for batch in batches(4 * world, 1, 1)[0]]
    assert updates == whole
    seen = sum(whole, [])
    assert len(seen) == len(set(seen)) == 50 // (4 * world) * 4 * world


def test_an_order_differs_between_epochs_and_goes_on_in_the_middle():
    own = GlobalBatches(40, 4, 2, Processes(0, 1, torch.device('cpu')), seed=1)
    orders = []
    for epoch in range(3):
        own.set_epoch(epoch)
        orders.append(list(own))
        own.set_epoch(epoch, first_update=3)
        assert list(own) == orders[-1][6:] and len(own) == 4
    assert orders[0] != orders[1] != orders[2]


def test_one_process_is_not_sharded_nor_a_model_with_scalar_parameters():
    model = torch.nn.Module()
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    task = ClassificationTask(model)
    with pytest.raises(ValueError, match='torchrun'):
        parallelise(task, model, Processes(0, 1, torch.device('cpu')), fsdp=True)
    with pytest.raises(ValueError, match='such as scale.*DDP'):
        parallelise(task, model, Processes(0, 2, torch.device('cpu')), fsdp=True)
