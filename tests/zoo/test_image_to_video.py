"""The family image-to-video: what its rows count, quote and take from files of speeds, and what training keeps."""
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import timm
import torch

from flatzoo.cli import main
from flatzoo.models.record import tag_record
from flatzoo.runtime.cost import count_kept
from flatzoo.zoo.image_to_video import MEMBERS, compare_members, matching_members

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which('chromium')
TINY = dict(backbone='vit_tiny_patch16_224', img_size=32, num_classes=5)


def kept_on_the_cpu(model):
    """Bytes of what autograd packs in a real forward pass."""
    clip = torch.zeros(1, model.in_chans, model.num_frames, *model.img_size)
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers(), clip)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(clip)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize('name, args', [
    ('st_adapter_clip_b', TINY), ('zeroi2v_clip_b', TINY), ('amflow_clip_b_tcn_lite', TINY),
    ('probe', dict(TINY, probe='step')), ('superimage', dict(TINY, num_frames=4)), ('sifar_resnet10t', {})])
def test_what_training_keeps_is_what_autograd_keeps(name, args):
    kept = []
    for device, count in (('meta', count_kept), ('cpu', kept_on_the_cpu)):
        model = timm.create_model(name, device=device, **args)
        if hasattr(model, 'freeze_backbone'):
            model.freeze_backbone()
        kept.append(count(model))
    assert kept[0] == kept[1] > 0


def test_members_are_models_of_the_zoo_each_there_once():
    assert len({(member.group, member.name) for member in MEMBERS}) == len(MEMBERS)
    assert all(timm.is_model(member.model) for member in MEMBERS)
    assert matching_members(['STEP*'])[0].built.startswith("timm.create_model('probe', backbone='vit_base_patch16_clip")


def test_rows():
    rows = {row['name']: row for row in compare_members(
        matching_members(['linear probe', 'st_adapter_clip_b', 'zeroi2v_clip_b']))}
    assert list(rows) == ['linear probe', 'st_adapter_clip_b', 'zeroi2v_clip_b', 'zeroi2v_clip_b, merged']
    adapters = rows['st_adapter_clip_b']
    assert adapters['trainable'] == 7_417_744 and adapters['file_bytes'] == 4 * adapters['trainable']
    assert adapters['macs'] == pytest.approx(151.6e9, rel=1e-3) and adapters['licence'] == 'apache-2.0'
    assert [(f['top1'], f['frames'], f['views'], f['of_weights']) for f in adapters['paper']] == [
        (82.2, 8, 3, False), (82.7, 32, 3, False)]
    assert rows['linear probe']['kept_bytes'] < 10_000  # the features of a clip
    merged, plain = rows['zeroi2v_clip_b, merged'], rows['zeroi2v_clip_b']
    assert merged['trainable'] == merged['kept_bytes'] == 0 and merged['file_bytes'] == 4 * merged['params']
    assert merged['macs'] < plain['macs']


def test_command(tmp_path, capsys):
    speeds = tmp_path / 'speeds.csv'
    speeds.write_text(
        'model,pass,clips_per_s,hardware,precision,batch\n'
        'tsm_mobilenetv2_100,forward,3,CPU,float32,1\ntsm_mobilenetv2_100,train,1,CPU,float32,1\n'
        'tsm_mobilenetv2_100,forward,30,GPU,float32,1\ntsm_mobilenetv2_100,train,10,GPU,float32,1\n')
    command = ['compare', '--family', 'image-to-video', 'tsm_mobile*', '--measured', str(speeds)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.count('clips/s, forward') == text.count('clips/s, backward') == 1  # one machine, named below
    assert 'clips/s: CPU, float32.' in text and re.search(r'tsm_mobilenetv2_100 .* 3 +1 ', text)
    assert '69.5 Kinetics-400 (8 frames, 30 views' in text
    assert main([*command, '--json']) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [entry['clips_per_s'] for entry in row['measured']] == [3, 1, 30, 10] and row['licence'] == 'mit, apache-2.0'
    assert main([*command, '--csv']) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row['clips_per_s: CPU, float32'] == '3.0' and row['clips_per_s of training: CPU, float32'] == '1.0'
    assert main([*command, '--machine', 'gpu', '--page', str(tmp_path / 'page')]) == 0
    assert "--machine gpu" in (tmp_path / 'page.md').read_text()
    assert re.search(r'\| 30 \| 10 \|', (tmp_path / 'page.md').read_text())
    page = (tmp_path / 'page/comparison.html').read_text()
    assert page.count('<select data-selection="machine">') == 1  # which rules both columns
    assert re.findall(r'data-selection="machine" data-choice="([^"]*)"( hidden)?', page) == [
        ('GPU, float32', ''), ('GPU, float32', ''), ('CPU, float32', ' hidden'), ('CPU, float32', ' hidden')]
    assert main(['compare', '--family', 'image-to-video', 'no_such']) == 1
    assert "no row of the family matches 'no_such'" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason='no chromium to open the page in')
def test_one_choice_of_the_machine_for_both_speeds(tmp_path):
    speeds = tmp_path / 'speeds.csv'
    speeds.write_text('model,pass,clips_per_s,hardware,precision,batch\n' + ''.join(
        f'{name},{kind},{speed},{machine},float32,1\n' for name, kind, speed, machine in (
            ('tsm_mobilenetv2_100', 'forward', 3, 'CPU'), ('tsm_mobilenetv2_100', 'train', 1, 'CPU'),
            ('linear probe', 'forward', 4, 'CPU'), ('linear probe', 'train', 2, 'CPU'),
            ('tsm_resnet50', 'forward', 5, 'CPU'), ('tsm_resnet101', 'forward', 5, 'CPU'),
            ('tsm_mobilenetv2_100', 'forward', 30, 'GPU'))))
    names = ['tsm_mobilenetv2_100', 'linear probe', 'tsm_resnet50', 'tsm_resnet101']
    command = ['compare', '--family', 'image-to-video', *names, '--measured', str(speeds)]
    assert main([*command, '--page', str(tmp_path / 'page')]) == 0
    choose = """<script>
        const choice = [...document.querySelectorAll('select')].find(one => one.dataset.selection === 'machine');
        choice.value = 'GPU, float32'; choice.dispatchEvent(new Event('change'));
    </script></body>"""
    page = tmp_path / 'page/comparison.html'
    page.write_text(page.read_text().replace('</body>', choose))
    out = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path / "profile"}',
         '--dump-dom', page.as_uri()], capture_output=True, text=True, timeout=300, check=True).stdout
    shown = re.findall(r'<th [^>]*data-selection="machine" data-choice="(\w+), float32"( hidden="")?', out)
    assert shown == [('CPU', ' hidden=""'), ('CPU', ' hidden=""'), ('GPU', ''), ('GPU', '')]
    found = re.findall(r'<tr data-family="[^"]*"( hidden="")?><td [^>]*>([^<]*)', out)
    assert [name for hidden, name in found if not hidden] == ['tsm_mobilenetv2_100']  # the others have no such speed


def test_what_was_learned_stands_below(tmp_path, capsys):
    rows = [dict(
        arm='a <way>', normal=50.04, reverse=40, shuffle=30, epochs=None, seed=3, cpu_seconds=90, machine='A CPU')]
    path = tmp_path / 'learned.json'
    path.write_text(json.dumps(dict(title='Learned', about='On `clips`.', rows=rows)))
    command = ['compare', '--family', 'image-to-video', 'tsm_mobile*', '--learned', str(path)]
    assert main(command) == 0
    table = r'Learned\n\nway .*\na <way> +50\.0 +40\.0 +30\.0 +- +3 +1\.5 \[1\]\n\nOn `clips`\. CPU .* \[1\] A CPU\.'
    assert re.search(table, capsys.readouterr().out)
    assert main([*command, '--page', str(tmp_path / 'page')]) == 0
    text = (tmp_path / 'page.md').read_text()
    assert '## Learned\n\nOn `clips`. CPU' in text and '| a <way> | 50.0 | 40.0 | 30.0 | - | 3 | 1.5 [1] |' in text
    assert f'--learned {path}' in text
    page = (tmp_path / 'page/comparison.html').read_text()
    assert '<h2>Learned</h2>' in page and '>a &lt;way&gt;</td>' in page and '<code>clips</code>' in page


@pytest.mark.parametrize('text', ['[]', '{"title": "a"}', 'x', '{"title": "a", "about": "b", "rows": [{"arm": "c"}]}'])
def test_files_that_are_not_of_the_comparison(text, tmp_path, capsys):
    path = tmp_path / 'learned.json'
    path.write_text(text)
    assert main(['compare', '--family', 'image-to-video', 'tsm_mobile*', '--learned', str(path)]) == 1
    assert 'no accuracies as benchmarks/learning/family.py keeps them' in capsys.readouterr().err
    assert main(['compare', 'tsm_mobile*', '--learned', str(path)]) == 1
    assert '--learned goes with --family image-to-video' in capsys.readouterr().err


def test_printed_accuracies_are_those_of_the_notes():
    printed = {(name, f.data, f.frames): (f.top1, f.views) for name in (
        'aim_clip_b.openai', 'aim_clip_l.openai', 'zeroi2v_clip_b.openai', 'zeroi2v_clip_l_ssv2.openai',
        'dualpath_clip_l.openai', 'st_adapter_clip_b_ssv2.openai') for f in tag_record(name).figures}
    k400, ssv2 = 'Kinetics-400', 'Something-Something v2'
    assert [printed['aim_clip_b.openai', k400, frames] for frames in (8, 16, 32)] == [(83.9, 3), (84.5, 3), (84.7, 3)]
    assert printed['aim_clip_l.openai', 'Diving48', 32] == (90.6, 1)
    assert printed['zeroi2v_clip_b.openai', k400, 8] == (83.0, 3)
    assert printed['zeroi2v_clip_l_ssv2.openai', ssv2, 32] == (72.2, 3)
    assert printed['dualpath_clip_l.openai', k400, None] == (87.7, None)
    assert printed['st_adapter_clip_b_ssv2.openai', ssv2, 8] == (66.9, 3)


def test_the_page_of_the_documentation_has_every_row():
    text = (ROOT / 'docs/image_to_video.md').read_text()
    page = (ROOT / 'docs/image_to_video/comparison.html').read_text()
    for member in MEMBERS:
        assert f'| `{member.name}` |' in text and f'>{member.name}</td>' in page
