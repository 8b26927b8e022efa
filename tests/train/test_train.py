"""Training from files to a run folder, on one process: what it writes, what it leaves alone, and how it ends badly."""
import csv
import dataclasses
import errno
import hashlib
import json
import math
import re
import shutil

import pytest
import safetensors.torch
import timm
import torch
import yaml
from train_runs import PLAIN, same, small_recipe, train, weights, write_clips

from flatzoo import VideoModel
from flatzoo.cli import main
from flatzoo.data.lists import read_videos
from flatzoo.evaluation.evaluate import evaluate
from flatzoo.models import eval_protocol
from flatzoo.train import build, checkpoint, loop
from flatzoo.train.loop import TrainingStopped

AMFLOW = dict(
    model='amflow_dinov2_s_tcn_lite', freeze_backbone=True, epochs=1, num_frames=3, drop_path=None, model_kwargs=dict(
        backbone='test_vit', bottleneck=8, aligner_dim=12, aligner_mlp_dim=8, aligner_heads=2, aligner_depth=1,
        tcn_dim=8))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'))


@pytest.fixture(scope='module')
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    row, lines = train(root, folder, num_clips=2, num_crops=3, seed=3)
    return folder, row, lines


@pytest.fixture
def broken_root(root, tmp_path):
    """The same clips, two of twelve without a readable byte."""
    copy = tmp_path / 'broken'
    for path in sorted(root.rglob('*.mp4')):
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        bad = path.parent.parent.name == 'train' and path.name == '1.mp4'
        target.write_bytes(b'no video' if bad else path.read_bytes())
    return copy


def rows_of(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_a_run_folder_has_all_that_is_promised(run, root):
    folder, row, lines = run
    assert {path.name for path in folder.iterdir() if not path.name.startswith('events')} >= {
        'args.yaml', 'summary.csv', 'last.pt', 'config.json', 'model.safetensors'}
    assert not list(folder.glob('.*'))  # nothing half written
    rows = rows_of(folder)
    assert [int(r['epoch']) for r in rows] == [1, 2] and float(rows[-1]['eval_top1']) == row['eval_top1']
    assert float(rows[0]['lr']) > float(rows[1]['lr']) > 0 and float(rows[0]['clips_per_second']) > 0
    assert all(0 <= float(r['waiting']) <= 1 for r in rows)
    assert any('12 clips' in line for line in lines) and any('epoch 2/2' in line for line in lines)
    args = yaml.safe_load((folder / 'args.yaml').read_text())
    assert args['seed'] == 3 and args['root'] == str(root)
    state = torch.load(folder / 'last.pt', weights_only=True)
    assert state['update'] == 6 and len(state['history']) == 2


def test_the_best_model_is_the_one_that_was_measured(run, root):
    folder, _, _ = run
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    videos = read_videos('folder', root, 'val')
    best = max(float(row['eval_top1']) for row in rows_of(folder))
    assert evaluate(model, videos, dataclasses.replace(eval_protocol(model), num_clips=1, num_crops=1)).top1 == best
    assert tuple(model.pretrained_cfg['label_names']) == videos.classes
    assert (eval_protocol(model).num_clips, eval_protocol(model).num_crops) == (2, 3)


def test_commands_train_predict_and_push(root, tmp_path, capsys):
    folder = tmp_path / 'run'
    options = ['--model', 'superimage', '--model-kwargs', 'backbone=test_vit', '--num-frames', '4', '--img-size', '32']
    options += ['--epochs', '1', '--batch-size', '4', '--workers', '0', '--device', 'cpu', '--output', str(folder)]
    assert main(['train', 'folder', str(root), *options]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(folder)
    command = re.fullmatch(r'now try: flatzoo (predict \S+ --model \S+)', err.splitlines()[-1])[1].split()
    assert main(command) == 0 and command[-1] == str(folder)
    capsys.readouterr()
    clip = next(root.rglob('*.mp4'))
    assert main(['predict', str(clip), '--model', str(folder), '--json', '--device', 'cpu']) == 0
    names = {answer['label'] for answer in json.loads(capsys.readouterr().out)[0]['predictions']}
    assert names == {path.name for path in (root / 'train').iterdir()}
    assert main(['push', str(folder), 'org/name', '--dry-run']) == 0
    assert 'model.safetensors' in capsys.readouterr().out
    assert main(['train', 'folder', str(root), *options]) == 1
    assert '--resume auto' in capsys.readouterr().err


@pytest.mark.parametrize('options', [
    dict(amp=True), dict(model_ema=True, model_ema_decay=0.5, val_split='none'), dict(layer_decay=0.75, clip_grad=1.0),
    dict(aa='rand-m7-n2', reprob=0.5, scale=(0.5, 1.0)), dict(grad_checkpointing=True, mixup_off_epoch=1),
    dict(torchcompile='eager', opt='sgd'), dict(val_split='none'), dict(sampling='dense', stride=2, workers=1),
], ids=lambda options: '-'.join(options))
def test_options_train(root, tmp_path, options):
    row, _ = train(root, tmp_path / 'run', **options)
    assert row['train_loss'] > 0 and ('eval_top1' in row) == ('val_split' not in options)
    model = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    assert isinstance(model, VideoModel) and model.head_trained
    if options.get('model_ema'):
        state = torch.load(tmp_path / 'run' / 'last.pt', weights_only=True)
        assert same(model.state_dict(), state['ema'])
        assert not same(state['model'], state['ema'])


def test_curves_go_to_tensorboard_where_it_is_installed(run):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    folder, row, _ = run
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    losses = events.Scalars('train/loss')
    assert [event.step for event in losses] == [3, 6] and losses[-1].value == pytest.approx(row['train_loss'])


def test_accumulated_steps_are_one_batch(root, tmp_path):
    options = dict(PLAIN, smoothing=0, opt='sgd', lr=0.05)
    one, _ = train(root, tmp_path / 'one', batch_size=4, **options)
    two, _ = train(root, tmp_path / 'two', batch_size=1, grad_accum_steps=4, **options)
    assert one['train_loss'] == pytest.approx(two['train_loss'], rel=1e-5)
    a, b = weights(tmp_path / 'one'), weights(tmp_path / 'two')
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_normalised_clips_are_what_the_model_makes_of_uint8(root):
    model = timm.create_model('superimage', backbone='test_vit', num_frames=4, img_size=32, num_classes=2).eval()
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    assert torch.allclose(model(clips), model(build.normalised(model, clips)), atol=1e-5)
    images = model.super_image(build.normalised(model, clips))
    assert torch.allclose(images, model.super_image(clips), atol=1e-6)


def test_a_frozen_backbone_stays_as_it_is_and_out_of_the_optimizer(root, tmp_path):
    recipe = small_recipe(root, tmp_path / 'run', freeze_backbone=True)
    trainer = loop.Trainer(recipe, loop.Processes.start('cpu'), report=lambda line: None)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    head = trainer.model.classifier_keys()
    held = {id(p) for group in trainer.optimizer.param_groups for p in group['params']}
    assert held == {id(p) for name, p in trainer.model.named_parameters() if name in head}
    trainer.fit()
    after = trainer.model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == head


@pytest.mark.parametrize('way', ['grad_checkpointing', 'selective_checkpointing'])
def test_recomputing_changes_nothing(root, tmp_path, way):
    train(root, tmp_path / 'plain', epochs=1)
    train(root, tmp_path / way, epochs=1, **{way: True})
    a, b = weights(tmp_path / 'plain'), weights(tmp_path / way)
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_only_one_way_to_recompute(root, tmp_path):
    with pytest.raises(ValueError, match='choose one'):
        train(root, tmp_path / 'run', grad_checkpointing=True, selective_checkpointing=True)
    with pytest.raises(ValueError, match='whole blocks'):
        train(root, tmp_path / 'run', selective_checkpointing=True, **AMFLOW)


def test_am_flow_leaves_a_small_file_of_what_it_trained(root, tmp_path):
    train(root, tmp_path / 'run', **AMFLOW)
    file = tmp_path / 'run' / 'adapters.safetensors'
    names = safetensors.torch.load_file(file)
    assert names and not any(name.startswith('backbone.') for name in names)
    trained = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    fresh = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    torch.nn.init.zeros_(fresh.head.weight)
    fresh.load_adapters(file)
    assert same(fresh.state_dict(), trained.state_dict())
    state = torch.load(tmp_path / 'run' / 'last.pt', weights_only=True)
    kept = sum(len(group['params']) for group in state['optimizer']['param_groups'])
    assert kept == len(list(trained.parameters())) - len(list(trained.backbone.parameters()))


@pytest.mark.parametrize('kind', ['logit', 'feature'])
def test_distillation_shows_the_teacher_what_it_is_used_to(run, root, tmp_path, kind):
    folder, _, _ = run
    teacher = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    recipe = small_recipe(
        root, tmp_path / 'run', kd_model_name=f'local-dir:{folder}', kd_distill_type=kind, distill_loss_weight=1.0,
        model_kwargs={'backbone': 'test_resnet'})
    trainer = loop.Trainer(recipe, loop.Processes.start('cpu'), report=lambda line: None)
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    trainer.model.pretrained_cfg = dict(trainer.model.pretrained_cfg, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    own = build.build_task(recipe, trainer.model, trainer.train_list, torch.device('cpu')).teacher
    shown = own.normalize_input(build.normalised(trainer.model, clips))
    assert torch.allclose(shown, build.normalised(teacher, clips), atol=1e-5)
    assert torch.allclose(own(shown), teacher(clips), atol=1e-4)
    before = {name: tensor.clone() for name, tensor in trainer.task.teacher.state_dict().items()}
    assert trainer.fit()['train_loss'] > 0
    assert same(before, trainer.task.teacher.state_dict())


def test_teachers_and_models_that_do_not_fit_are_refused(run, root, tmp_path):
    folder, _, _ = run
    with pytest.raises(ValueError, match='4 frames'):
        train(root, tmp_path / 'run', kd_model_name=f'local-dir:{folder}', num_frames=6)
    with pytest.raises(ValueError, match='image model'):
        train(root, tmp_path / 'run', model='test_vit', model_kwargs=None, num_frames=None, img_size=None)


def test_broken_clips_are_skipped_counted_and_named(broken_root, tmp_path):
    row, lines = train(broken_root, tmp_path / 'run')
    named = (tmp_path / 'run' / 'broken.txt').read_text().splitlines()
    assert row['broken'] == 2 == len(named) and all('1.mp4' in line for line in named)
    assert any('2 of 12 clips' in line and '1.mp4' in line for line in lines)


def test_batches_without_a_readable_clip_change_nothing(broken_root, tmp_path):
    row, _ = train(broken_root, tmp_path / 'run', batch_size=1, **PLAIN)
    assert row['broken'] == 2 and row['train_loss'] > 0


def test_too_many_broken_clips_stop_the_run_with_the_list(broken_root, tmp_path):
    with pytest.raises(TrainingStopped, match=r'max-broken 0.1 .*1\.mp4.*1\.mp4'):
        train(broken_root, tmp_path / 'run', max_broken=0.1)
    assert len((tmp_path / 'run' / 'broken.txt').read_text().splitlines()) == 2


def after_first_epoch(monkeypatch, attribute, failing, target=loop.Trainer):
    """Lets a method fail from the second epoch on (three updates each)."""
    real = getattr(target, attribute)

    def method(self, *args, **kwargs):
        if self.update < 4:
            return real(self, *args, **kwargs)
        return failing(self, *args, **kwargs)

    monkeypatch.setattr(target, attribute, method)


def stopped(root, folder, match, **options):
    """Runs into the end, and returns the state that is left."""
    with pytest.raises(TrainingStopped, match=match) as caught:
        train(root, folder, **options)
    assert '--resume auto' in str(caught.value) and 'last.pt' in str(caught.value)
    state = torch.load(folder / 'last.pt', weights_only=True)
    assert state['update'] == 3 and all(tensor.isfinite().all() for tensor in state['model'].values())
    assert timm.create_model(f'local-dir:{folder}', pretrained=True).head_trained
    assert not list(folder.glob('.*')) and len(rows_of(folder)) == 1
    return state


@pytest.mark.parametrize('error', [
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB'), MemoryError(),
    RuntimeError('[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can\'t allocate memory: you tried 1 TB'),
], ids=['gpu', 'python', 'cpu'])
def test_out_of_memory_ends_clearly(root, tmp_path, monkeypatch, error):
    def fail(self, batch):
        raise error

    after_first_epoch(monkeypatch, '_step', fail)
    stopped(root, tmp_path / 'run', 'out of memory on cpu.*Halve --batch-size')


def test_a_loss_that_is_no_number_ends_clearly_and_is_not_saved(root, tmp_path, monkeypatch):
    real = loop.Trainer._step

    def poison(self, batch):
        with torch.no_grad():
            next(self.model.parameters()).fill_(float('nan'))
        real(self, batch)

    after_first_epoch(monkeypatch, '_step', poison)
    stopped(root, tmp_path / 'run', 'the loss is nan at update 5.*Lower --lr')


def test_weights_that_are_no_numbers_are_not_saved_though_the_loss_was_one(root, tmp_path, monkeypatch):
    real = loop.Trainer._optimize

    def poison(self):
        if self.update == 5:  # the last of the epoch: no loss will show it before the checkpoint
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float('nan'))
        real(self)

    after_first_epoch(monkeypatch, '_optimize', poison)
    stopped(root, tmp_path / 'run', 'update 6 made weights that are not finite')


class FullDisk:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file, room=1000):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, 'No space left on device')
        return self.file.write(data)


def test_a_full_disk_ends_clearly_with_the_former_checkpoint(root, tmp_path, monkeypatch):
    real = checkpoint.write_file
    trainers = []
    monkeypatch.setattr(
        checkpoint, 'write_file', lambda path, write: real(path, (
            lambda file: write(FullDisk(file))) if trainers and trainers[0].update > 3 else write))
    init = loop.Trainer.__init__
    monkeypatch.setattr(
        loop.Trainer, '__init__', lambda self, *args: (trainers.append(self), init(self, *args))[1])
    stopped(root, tmp_path / 'run', 'the disk of .* is full, or takes.*Make room')


def test_a_disk_that_is_full_when_the_best_model_comes_keeps_the_former_one(root, tmp_path, monkeypatch):
    def no_room(tensors, filename, metadata=None):
        with open(filename, 'wb') as file:
            file.write(b'half a model')
        raise safetensors.SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')

    real = loop.Trainer._save_best
    after_first_epoch(monkeypatch, '_save_best', lambda self: (
        monkeypatch.setattr(safetensors.torch, 'save_file', no_room), real(self)))
    monkeypatch.setattr(loop.Trainer, '_evaluate', lambda self: {'eval_top1': float(self.update), 'eval_top5': 0.0})
    with pytest.raises(TrainingStopped, match='the disk of .* is full.*last.pt; --resume auto'):
        train(root, tmp_path / 'run')
    former = safetensors.torch.load_file(tmp_path / 'run/model.safetensors')
    assert len(rows_of(tmp_path / 'run')) == 1 and not list((tmp_path / 'run').glob('.*'))
    monkeypatch.undo()
    row, _ = train(root, tmp_path / 'run', resume='auto')  # the checkpoint has what there was no room for
    best = safetensors.torch.load_file(tmp_path / 'run/model.safetensors')
    assert row['eval_top1'] == 6 and len(rows_of(tmp_path / 'run')) == 2
    assert not same(best, former) and same(best, weights(tmp_path / 'run'))


def test_a_run_is_not_overwritten_nor_continued_by_another(run, root):
    folder, _, _ = run
    before = (folder / 'last.pt').read_bytes()
    with pytest.raises(ValueError, match='already holds a run'):
        train(root, folder)
    with pytest.raises(ValueError, match=r'mixup 0.5 \(was 0.8\)'):
        train(root, folder, resume='auto', mixup=0.5, lr=0.5, seed=3, num_clips=2, num_crops=3)
    row, lines = train(root, folder, resume='auto', seed=3, num_clips=2, num_crops=3)  # it is complete
    assert row['epoch'] == 2 and (folder / 'last.pt').read_bytes() == before


@pytest.mark.parametrize('sched', ['cosine', 'none'])
def test_what_helps_against_a_loss_that_is_no_number_can_be_changed_on_the_way(root, tmp_path, monkeypatch, sched):
    folder, options = tmp_path / 'run', dict(PLAIN, epochs=3, sched=sched, warmup_epochs=0)
    after_first_epoch(monkeypatch, '_step', lambda self, batch: self.meters.fill_(math.nan))
    stopped(root, folder, 'the loss is nan.*Lower --lr', **options)
    monkeypatch.undo()
    _, lines = train(root, folder, resume='auto', **dict(options, lr=1e-5, min_lr=1e-5, clip_grad=1.0))
    assert 'lr 1e-05 (was 0.001), clip_grad 1.0 (was None)' in next(line for line in lines if 'continues with' in line)
    assert [float(row['lr']) for row in rows_of(folder)][1:] == pytest.approx([1e-5, 1e-5])


def test_a_class_of_the_evaluation_that_is_not_trained_is_refused(root, tmp_path):
    shutil.copytree(root, tmp_path / 'clips')
    one = sorted((tmp_path / 'clips/val').iterdir())[0]
    one.rename(one.with_name('dances'))
    with pytest.raises(ValueError, match='the classes of val are not those of train; name them alike.*dances'):
        train(tmp_path / 'clips', tmp_path / 'run')


@pytest.mark.parametrize('error', [
    OSError(errno.ENOSPC, 'No space left on device'), OSError(errno.EFBIG, 'File too large'),
    safetensors.SafetensorError('I/O error: File too large (os error 27)')])
def test_errors_of_a_full_disk_are_told_from_others(error):
    assert checkpoint.is_full(error) and not checkpoint.is_full(OSError(errno.EACCES, 'Permission denied'))


def test_the_kept_options_alone_go_on_with_a_run(run, capsys):
    folder, _, _ = run
    assert main(['train', '--config', str(folder / 'args.yaml'), '--resume', 'auto']) == 0
    assert 'resumed after 6 updates' in capsys.readouterr().err
    assert main(['train', 'folder', '--model', 'superimage']) == 1
    assert 'name the data set: flatzoo train SPEC ROOT' in capsys.readouterr().err


def test_batches_larger_than_the_data_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match='an update takes 32 clips .*there are 12'):
        train(root, tmp_path / 'run', batch_size=8, grad_accum_steps=4)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / 'last.pt'
    path.write_bytes(b'nothing')
    with pytest.raises(ValueError, match='damaged'):
        checkpoint.load_last(path)
    torch.save({'model': {}}, path)
    with pytest.raises(ValueError, match='not a checkpoint of a flatzoo run'):
        checkpoint.load_last(path)
    torch.save({'format': 99, 'flatzoo_version': '9.9'}, path)
    with pytest.raises(ValueError, match='newer flatzoo'):
        checkpoint.load_last(path)


def test_every_flipped_bit_of_a_checkpoint_is_noticed(run, tmp_path):
    folder, _, _ = run
    content = (folder / 'last.pt').read_bytes()
    digest, name = (folder / 'last.pt.sha256').read_text().split()
    assert name == 'last.pt' and digest == hashlib.sha256(content).hexdigest()
    path, flipped = tmp_path / 'last.pt', bytearray(content)
    place = content.index(weights(folder)['backbone.head.weight'].numpy().tobytes()) + 2
    flipped[place] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match='last.pt: is damaged'):  # by torch's own checksums
        checkpoint.load_last(path)
    flipped = bytearray(content)
    flipped[-1] ^= 1  # of no checksum
    path.write_bytes(flipped)
    shutil.copy(folder / 'last.pt.sha256', tmp_path)
    with pytest.raises(ValueError, match='its sha256 is not the one in last.pt.sha256.*another --output'):
        checkpoint.load_last(path)
    path.write_bytes(content)
    assert checkpoint.load_last(path)['update'] == 6


def test_checkpoints_of_a_flatzoo_without_digests_go_on(run, root, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / 'run')
    state = torch.load(folder / 'last.pt', weights_only=True)
    del state['lists']
    state['history'] = [row | {'epoch': row['epoch'] - 1} for row in state['history']]  # it counted from 0
    torch.save(state, folder / 'last.pt')
    (folder / 'last.pt.sha256').unlink()
    row, _ = train(root, folder, resume='auto', seed=3, num_clips=2, num_crops=3)
    assert row['epoch'] == 2 and [int(row['epoch']) for row in rows_of(folder)] == [1, 2]
    checkpoint.save_last(folder / 'last.pt', state)
    assert checkpoint.load_last(folder / 'last.pt')['update'] == 6


@pytest.mark.parametrize('name, value', [
    ('model', {}), ('model', {'backbone.head.bias': torch.zeros(3)}), ('optimizer', {}), ('update', -1),
    ('update', 10 ** 9), ('history', [1]), ('history', []), ('recipe', None), ('protocol', {'frames': 3}),
    ('meters', torch.zeros(2)), ('format', 'one'), ('broken', ['a']), ('best', 'much'), ('classes', 2), ('scaler', 1),
    ('global_batch', None),
])
def test_handmade_checkpoints_end_in_one_sentence(run, tmp_path, capsys, name, value):
    folder = shutil.copytree(run[0], tmp_path / 'run')
    state = torch.load(folder / 'last.pt', weights_only=True)
    torch.save(state | {name: value}, folder / 'last.pt')
    (folder / 'last.pt.sha256').unlink()
    options = ['--config', str(folder / 'args.yaml'), '--output', str(folder), '--resume', 'auto']
    assert main(['train', *options]) == 1
    err = capsys.readouterr().err
    assert err.startswith('flatzoo train: error: ') and err.count('\n') == 1 and 'last.pt: is damaged' in err


def test_another_list_of_as_many_clips_is_noticed_and_a_moved_one_is_the_same(run, root, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / 'run')
    moved = shutil.copytree(root, tmp_path / 'moved')
    options = dict(resume='auto', seed=3, num_clips=2, num_crops=3)
    train(moved, folder, **options)
    clip = sorted((moved / 'train').rglob('*.mp4'))[0]
    clip.rename(clip.with_name('other.mp4'))
    with pytest.raises(ValueError, match=r'other options: the clips of train \(changed\)'):
        train(moved, folder, **options)


@pytest.mark.parametrize('classes, shown', [(5, False), (6, True)])
def test_top5_is_shown_of_more_than_five_classes(run, classes, shown, monkeypatch, root, tmp_path):
    read = build.read_lists
    monkeypatch.setattr(build, 'read_lists', lambda recipe: tuple(
        dataclasses.replace(v, classes=(*v.classes, *map(str, range(classes - 2)))) for v in read(recipe)))
    _, lines = train(root, tmp_path / 'run', epochs=1)
    assert any('eval_top5' in line for line in lines) is shown
    assert not any('*' in line for line in lines) and any('the best so far' in line for line in lines)


def test_a_log_says_how_far_an_epoch_is(root, tmp_path):
    _, lines = train(root, tmp_path / 'run', epochs=1, log_seconds=0)
    lines = [line for line in lines if ', update ' in line]
    assert [line.partition(':')[0] for line in lines] == ['epoch 1/1, update 1/3', 'epoch 1/1, update 2/3']
    assert all(re.search(r': loss \d+\.\d+, acc .* clips/s, 0:00:\d\d passed, 0:00:\d\d left$', line) for line in lines)
