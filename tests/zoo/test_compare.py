"""`flatzoo compare`: what is counted, what is measured and what papers print, and that the three are not mixed."""
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
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import flop_registry

from flatzoo.cli import main
from flatzoo.layers.attention_flow import attention_received
from flatzoo.runtime.cost import _ANY_ATTENTION, _FORMULAS, MultiplyAdds, _LiveBytes, _may_multiply, count_forward
from flatzoo.zoo.catalogue import list_names
from flatzoo.zoo.comparison import compare_models, fastest, read_measured, table_of, variants_in
from flatzoo.zoo.comparison_page import _html, write_page
from flatzoo.zoo.comparison_plot import accuracy_figure, plotted

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which('chromium')


class Model(nn.Module):
    """Clips of 2 * 3 * 4 * 4 floats, 384 bytes, through any function."""
    in_chans, num_frames, img_size = 3, 2, (4, 4)

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))
        self.function = function

    def forward(self, x):
        return self.function(x)


def counts(function):
    return count_forward(Model(function))


@pytest.mark.parametrize('function, peak', [
    (lambda x: x + 1, 2 * 384),
    (lambda x: (x + 1) + 1, 3 * 384),  # the first sum lives until the second is there
    (lambda x: ((x + 1) + 1) + 1, 3 * 384),
    (lambda x: x.mul_(2).flatten()[1:], 384),  # in place, and views
    (lambda x: torch.cat([x, x]).sum(), 3 * 384 + 4),
])
def test_peak_of_few_tensors(function, peak):
    assert counts(function) == (0, peak)


def test_weights_are_not_in_the_peak():
    model = Model(lambda x: x + 1)
    model.function = lambda x: x + model.weight[:4]
    assert count_forward(model).peak_bytes == 2 * 384


def test_peak_is_that_of_a_real_device():
    model = timm.create_model('sifar_resnet10t').eval()
    clip = torch.zeros(1, 3, model.num_frames, *model.img_size)
    memory = _LiveBytes([*model.parameters(), *model.buffers()])
    memory.add(clip)
    with torch.no_grad(), memory:
        model(clip)
    assert count_forward(model).peak_bytes == pytest.approx(memory.peak, rel=1e-3)  # meta batch norms return statistics
    assert memory.now == clip.nbytes  # all else was freed


def test_fused_attention_keeps_no_maps():
    q = torch.empty(1, 2, 300, 8, device='meta')  # queries of 19,200 bytes; the maps would take 720,000
    cost = counts(lambda x: F.scaled_dot_product_attention(q, q, value=q))
    assert cost.macs == 2 * 2 * 300 ** 2 * 8
    assert 384 + 19_200 <= cost.peak_bytes < 30_000


X = torch.empty(2, 3, 5, 4, device='meta')
HEADS = torch.empty(2, 6, 5, 4, device='meta')  # 6 heads in place of 3


@pytest.mark.parametrize('function, macs', [
    (lambda: X @ X.mT, 6 * 5 * 4 * 5),
    (lambda: X[0, 0] @ X[0, 0, 0], 5 * 4),
    (lambda: X[0, 0, 0] @ X[0, 0, 0], 4),
    (lambda: torch.baddbmm(X[0, :, :, :1], X[0], X[0].mT), 3 * 5 * 4 * 5),
    (lambda: torch.einsum('bhnc,bhmd->bhcd', X, X), 0),  # a sum over n and one over m, and an outer product
    (lambda: torch.einsum('bhnc,bhnd->bhcd', X, X), 6 * 4 * 5 * 4),
    (lambda: nn.Linear(4, 7, device='meta')(X), 30 * 4 * 7),
    (lambda: nn.Conv2d(3, 6, (3, 2), device='meta')(X), 2 * (3 * 3) * 6 * 3 * (3 * 2)),
    (lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3, device='meta')(X), 2 * 3 * (5 * 4) * 9),
    (lambda: nn.ConvTranspose2d(3, 6, 2, stride=2, device='meta')(X), 2 * 3 * (5 * 4) * 6 * 4),
    (lambda: nn.Conv1d(5, 2, 2, device='meta')(X[0]), 3 * 3 * 2 * 5 * 2),
    (lambda: nn.LSTM(4, 3, device='meta')(X[0]), 3 * 5 * (4 * 12 + 3 * 12)),
    (lambda: nn.MultiheadAttention(4, 2, device='meta')(X[0], X[0], X[0], need_weights=False),
     15 * 4 * (12 + 4) + 2 * 5 * (3 * 3) * 4),
    (lambda: F.scaled_dot_product_attention(X, X, X[..., :1], is_causal=True), 6 * (5 * 5) * (4 + 1)),
    (lambda: F.scaled_dot_product_attention(HEADS, X, X, enable_gqa=True), 12 * (5 * 5) * (4 + 4)),
    (lambda: F.scaled_dot_product_attention(X[:1], X, X), 6 * (5 * 5) * (4 + 4)),
    (lambda: torch.ops.aten.scaled_dot_product_attention(X, X, X), 6 * (5 * 5) * (4 + 4)),
    (lambda: torch.ops.aten._scaled_dot_product_attention_math(X, X, X), 6 * (5 * 5) * (4 + 4)),
    (lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(X, X, X), 6 * (5 * 5) * (4 + 4)),
    (lambda: torch.ops.aten._scaled_dot_product_flash_attention(X, X, X), 6 * (5 * 5) * (4 + 4)),
    (lambda: torch.ops.aten._scaled_dot_product_efficient_attention(X, X, X, None, False), 6 * (5 * 5) * (4 + 4)),
    (lambda: torch.ops.aten._scaled_dot_product_cudnn_attention(X, X, X, None, False), 6 * (5 * 5) * (4 + 4)),
])
@pytest.mark.parametrize('mode', [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_multiply_adds_by_hand(function, macs, mode):
    with mode(), MultiplyAdds() as counter:
        function()
    assert counter.macs == macs and not counter.unknown
    assert mode is not torch.no_grad or counts(lambda x: (function(), x)[1]).macs == macs


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_multiply_adds_are_those_of_the_real_kernels(dtype):
    model = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2, device='cpu').eval().to(dtype)
    model.in_chans, model.img_size = 3, (32, 32)
    want = count_forward(model).macs
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), MultiplyAdds() as counter:
            model(torch.zeros(1, 3, 32, 32, dtype=dtype))
        assert counter.macs == want == 2 * (5 * 192 ** 2 * 12 + 2 * 5 ** 2 * 192) + 4 * 768 * 192 + 192 * 1000


def test_products_that_are_not_known_are_named():
    with torch.library._scoped_library('flatzoo_test', 'DEF') as library:
        library.define('fused(Tensor x) -> Tensor')
        library.impl('fused', torch.empty_like, 'Meta')
        with pytest.warns(UserWarning, match='of flatzoo_test::fused are not known: Model takes more than the 64 '):
            assert counts(lambda x: (x[0, 0, 0] @ x[0, 0, 0], torch.ops.flatzoo_test.fused(x))).macs == 4 ** 3
    # torch's own: whatever its counter counts in a forward pass has a formula here or is named
    for operator in flop_registry:
        name = getattr(operator, '_qualified_op_name', '')
        if name.startswith('aten::') and not name.endswith('backward'):
            assert name in _FORMULAS or name.startswith(_ANY_ATTENTION) or _may_multiply(name), name


def test_logits_of_am_flow_are_counted():
    q = torch.empty(1, 3, 2, 20, 8, device='meta')
    chunked, reference = (
        counts(lambda x, name=name: attention_received(q, q, implementation=name)).macs
        for name in ('chunked', 'reference'))
    assert chunked == reference == 3 * 2 * 20 ** 2 * 8


@pytest.fixture(scope='module')
def rows():
    names = ['amflow_dinov2_s_tcn_lite.lvd142m', 'sifar_resnet10t.actions16', 'sifar_swin_b14.ibm_k400',
             'sifar_swin_b14.ms_in22k', 'flatten_uniformer_s_16f.in1k']
    return {row['name']: row for row in compare_models(names)}


def test_rows(rows):
    with (ROOT / 'benchmarks/results/data/cost.csv').open() as file:
        table = {row['model']: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        want = table[name.partition('.')[0]]
        assert row['params'] == pytest.approx(1e6 * float(want['params_m']), rel=0.005)  # by classes
        assert row['weight_bytes'] == 4 * row['params']
        assert row['trainable'] == pytest.approx(1e6 * float(want['trainable_m'] or want['params_m']), rel=0.005)
        if row['family'] != 'AM Flow':
            assert row['macs'] == pytest.approx(1e9 * float(want['gmacs_per_view']), rel=0.01)
    assert rows['sifar_swin_b14.ibm_k400']['views'] == 3
    assert rows['sifar_swin_b14.ibm_k400']['licence'] == 'apache-2.0'
    assert rows['sifar_swin_b14.ibm_k400']['peak_bytes'] > 1e8


def test_accuracies_say_whose_they_are(rows):
    assert rows['sifar_swin_b14.ibm_k400']['paper'] == [{
        'data_set': 'Kinetics-400', 'top1': 80.2, 'top5': 94.4, 'frames': 8, 'views': 3, 'setting': '',
        'of_weights': True, 'backbone': '', 'params': '87 M', 'cost': '147 G x 3', 'note': '',
        'where': 'Tables 2 and 3'}]
    (figure,) = rows['flatten_uniformer_s_16f.in1k']['paper']  # weights of an image model: they do not have it
    assert not figure['of_weights'] and figure['frames'] is figure['views'] is figure['top5'] is None
    assert len(rows['sifar_swin_b14.ms_in22k']['paper']) == 6  # to be reached by training
    assert not any(figure['of_weights'] for figure in rows['sifar_swin_b14.ms_in22k']['paper'])
    text = {column.title: column.text for column in table_of(list(rows.values())).columns}["the paper's top-1 (%)"]
    assert text(rows['sifar_swin_b14.ibm_k400']) == '80.2 Kinetics-400 (8 frames, 3 views, Tables 2 and 3)'
    flatten = text(rows['flatten_uniformer_s_16f.in1k'])
    assert flatten == '81.1 Kinetics-400 (views not printed, table not known to us) †'
    assert text(rows['sifar_swin_b14.ms_in22k']) == (  # as it is registered; variants stand below the table
        '80.2 Kinetics-400 (8 frames, 3 views, Tables 2 and 3) †\n'
        '61.6 Something-Something v2 (8 frames, 3 views, Tables 2 and 4) †')
    (variants,) = variants_in(rows.values())
    assert variants.startswith('The paper on variants of sifar_swin_b14: 61.6 Something-Something v2 (with absolute')


def measured_file(path, *lines, header='model,clips_per_s,hardware,precision,batch,pass'):
    path.write_text('\n'.join([header, *lines]) + '\n')
    return path


def test_speeds_are_those_of_one_machine(tmp_path):
    path = measured_file(
        tmp_path / 'speeds.csv', 'sifar_resnet10t,20,CPU one,float32,1,', 'sifar_resnet10t,30,CPU one,float32,8,',
        'sifar_resnet10t.actions16,900,GPU two,bfloat16,8,inference', 'sifar_resnet10t,5,CPU one,float32,1,train',
        'flatten_resnet50,7,CPU one,float32,1,', 'peer,1,CPU one,float32,1,')
    rows = compare_models(['sifar_resnet10t.actions16', 'flatten_resnet50.a1_in1k'], read_measured([path]))
    for machine, speeds, other in (
            ('', ['30 (batch 8)', '7'], 'GPU two, bfloat16'), ('gpu', ['900 (batch 8)', ''], 'CPU one, float32')):
        table = table_of(rows, machine)  # without a name the machine of most models
        (column,) = [column for column in table.columns if column.title == 'clips/s']
        assert [column.text(row) for row in rows] == speeds and column.choice != other
        (note,) = table.settings
        assert note.startswith(f'clips/s: {column.choice}.') and f'for `--machine`: {other}.' in note
    assert fastest(rows[0], 'GPU two, float32') is None
    with pytest.raises(ValueError, match="measured on a machine 'TPU'.*: CPU one, float32; GPU two, bfloat16"):
        table_of(rows, 'TPU')


def test_a_machine_is_chosen_among_measured_ones(tmp_path, capsys):
    path = measured_file(tmp_path / 'speeds.csv', 'sifar_resnet10t,20,CPU,float32,1,')
    for family in ([], ['--family', 'image-to-video']):
        name = 'tsm_mobile*' if family else 'sifar_resnet10t'
        assert main(['compare', name, *family, '--machine', 'GPU']) == 1
        assert '--machine goes with --measured FILE' in capsys.readouterr().err
        assert main(['compare', name, *family, '--measured', str(path), '--machine', 'GPU']) == 1
        assert "nothing was measured on a machine 'GPU'" in capsys.readouterr().err


@pytest.mark.parametrize('header, line, says', [
    ('model,clips_per_s,batch', 'a,1,1', 'no column hardware, precision'),
    ('model,clips_per_s,hardware,precision,batch', 'a,fast,b,c,1', "line 2: clips_per_s is 'fast'"),
    ('model,clips_per_s,hardware,precision,batch', 'a,nan,b,c,1', "line 2: clips_per_s is 'nan'"),
])
def test_files_that_are_no_speeds(header, line, says, tmp_path, capsys):
    path = measured_file(tmp_path / 'speeds.csv', line, header=header)
    assert main(['compare', 'sifar_resnet10t', '--measured', str(path)]) == 1
    assert says in capsys.readouterr().err


def test_files_that_are_no_text(tmp_path, capsys):
    path = tmp_path / 'speeds.csv'
    for content in (b'\xff\xfe\x00', b'model,clips_per_s,hardware,precision,batch\n' + 200_000 * b'a'):
        path.write_bytes(content)
        assert main(['compare', 'sifar_resnet10t', '--measured', str(path)]) == 1
        assert f'{path} is not a CSV file (' in capsys.readouterr().err


def test_page_in_the_current_folder(tmp_path, monkeypatch, capsys):
    pytest.importorskip('matplotlib')
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    assert main(['compare', 'sifar_resnet10t', '--page', '.']) == 0
    assert sorted(path.name for path in tmp_path.rglob('*') if path.is_file()) == ['comparison.html', 'here.md']
    assert 'Made by `flatzoo compare sifar_resnet10t --page .`' in (tmp_path / 'here.md').read_text()
    assert '<code>flatzoo compare sifar_resnet10t --page .</code>' in (tmp_path / 'here/comparison.html').read_text()


def test_command(tmp_path, capsys):
    speeds = str(measured_file(tmp_path / 'speeds.csv', 'sifar_resnet10t,20,CPU one,float32,1,'))
    command = ['compare', 'sifar_resnet10t*', 'flatten_resnet50', '--measured', speeds]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert re.search(r'\nsifar_resnet10t\.actions16 +8 +32 +1\.2 +1\.2 +0\.051 x 1 .* 20  apache-2\.0', text)
    assert 'clips/s: CPU one, float32.' in text and 'none of them was measured by us' in text
    assert main([*command, '--json']) == 0
    names = [row['name'] for row in json.loads(capsys.readouterr().out)]
    assert names == list_names('flatten_resnet50') + list_names('sifar_resnet10t')
    assert main([*command, '--csv']) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row['name'] for row in table] == names and table[-1]['clips_per_s: CPU one, float32'] == '20.0'
    assert main(['compare', 'sifar*', 'no_such*']) == 1
    assert "no model matches 'no_such*'" in capsys.readouterr().err


def test_plotted_are_figures_with_their_own_number_of_frames(rows):
    figure = {
        'data_set': 'Kinetics-400', 'top1': 50., 'frames': 16, 'views': None, 'setting': '', 'of_weights': False}
    tiny = rows['sifar_resnet10t.actions16'] | {'paper': [figure]}
    points = plotted([tiny, *(row for row in rows.values() if row['paper'])])['Kinetics-400']
    assert [point['architecture'] for point in points] == [
        'sifar_resnet10t', 'sifar_swin_b14', 'flatten_uniformer_s_16f']
    assert points[0]['macs'] > 1.5 * tiny['macs']  # 4 x 4 in place of 3 x 3 frames
    assert points[1]['macs'] == rows['sifar_swin_b14.ibm_k400']['macs'] and points[2]['macs'] is None


def test_nothing_to_plot(rows):
    pytest.importorskip('matplotlib')
    assert accuracy_figure([rows['sifar_resnet10t.actions16']]) is None


@pytest.fixture(scope='module')
def page(rows, tmp_path_factory):
    pytest.importorskip('matplotlib')
    folder = tmp_path_factory.mktemp('docs') / 'models'
    files = write_page(list(rows.values()), folder)
    assert sorted(path.name for path in files) == ['accuracy_cost.svg', 'comparison.html', 'models.md']
    assert sorted(path.name for path in folder.iterdir()) == ['accuracy_cost.svg', 'comparison.html']
    return folder


def test_page_needs_nothing_from_outside(rows, page):
    text = (page / 'comparison.html').read_text()
    assert not re.search(r'(src|href)="(?!#)', text) and '@import' not in text
    assert all(f'>{name}</td>' in text for name in rows)
    markdown = (page.parent / 'models.md').read_text()
    assert all(f'| `{name}` |' in markdown for name in rows)
    for link in re.findall(r'\]\((.*?)\)', markdown):
        assert (page.parent / link).is_file()


def test_figures_of_papers_are_sorted_within_a_data_set(rows, page):
    text = (page / 'comparison.html').read_text()
    titles = re.findall(r'<th [^>]*data-choice="([^"]*)"( hidden)?', text)
    data = {figure['data_set'] for row in rows.values() for figure in row['paper'] if not figure['setting']}
    assert {title for title, _ in titles} == data and len(data) > 1
    assert [bool(hidden) for _, hidden in titles] == [False] + [True] * (len(data) - 1)  # one at a time
    assert re.search(r'<td [^>]*data-value="80\.2">80\.2 <small>\(8 frames, 3 views, Tables 2 and 3\)</small><', text)


def test_a_page_has_one_column_of_speeds_and_none_that_is_mostly_empty(rows, tmp_path):
    names = list(rows)[:8]
    speeds = [f'{name},{i + 1},{machine},float32,1,' for machine in ('CPU', 'GPU')
              for i, name in enumerate(names) if machine == 'CPU' or not i]
    compared = compare_models(names, read_measured([measured_file(tmp_path / 'speeds.csv', *speeds)]))
    page = _html(compared, table_of(compared), '', 'command')
    speeds = r'<th [^>]*data-selection="machine" data-choice="([^"]*)"( hidden)?'
    assert re.findall(speeds, page) == [('CPU, float32', ''), ('GPU, float32', ' hidden')]
    assert '<label>machine <select data-selection="machine">' in page
    assert '<option data-sparse>GPU, float32</option>' in page
    page = _html(compared, table_of(compared, 'gpu'), '', 'command')  # who asks for it sees it
    assert re.findall(speeds, page) == [('GPU, float32', ''), ('CPU, float32', ' hidden')]


@pytest.mark.skipif(CHROMIUM is None, reason='no chromium to open the page in')
def test_a_phone_has_nothing_to_scroll_sideways_and_the_plot_follows_the_scheme(page, tmp_path):
    probe = """<script>document.title = [document.documentElement.scrollWidth <= innerWidth,
        getComputedStyle(document.querySelector('td')).position,
        getComputedStyle(document.querySelector('figure path')).fill].join(';')</script></body>"""
    copy = tmp_path / 'page.html'
    text = (page / 'comparison.html').read_text()
    assert not re.search('(fill|stroke): #(ffffff|1f2937)', text)
    copy.write_text(text.replace('</body>', probe))
    out = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--window-size=500,900', '--force-dark-mode',
         f'--user-data-dir={tmp_path / "profile"}', '--dump-dom', copy.as_uri()],
        capture_output=True, text=True, timeout=300, check=True).stdout
    assert re.search(r'<title>true;static;', out)


@pytest.mark.skipif(CHROMIUM is None, reason='no chromium to open the page in')
def test_a_click_sorts_and_words_filter(rows, page, tmp_path):
    clicks = '''<script>
        const buttons = document.querySelectorAll('th button');
        const button = [...buttons].find(button => button.textContent === 'params (M)');
        button.click(); button.click();
        const input = document.querySelector('input');
        input.value = 'SIFAR ibm'; input.dispatchEvent(new Event('input'));
    </script></body>'''
    copy = tmp_path / 'page.html'
    copy.write_text((page / 'comparison.html').read_text().replace('</body>', clicks))
    out = subprocess.run(
        [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path / "profile"}',
         '--dump-dom', copy.as_uri()], capture_output=True, text=True, timeout=300, check=True).stdout
    found = re.findall(r'<tr data-family="[^"]*"( hidden="")?><td [^>]*>([^<]*)', out)
    assert [name for _, name in found] == sorted(rows, key=lambda name: -rows[name]['params'])
    assert [name for hidden, name in found if not hidden] == ['sifar_swin_b14.ibm_k400']


def test_documentation_has_every_model():
    """Made anew by `flatzoo compare --page docs/models`."""
    markdown = (ROOT / 'docs/models.md').read_text()
    page = (ROOT / 'docs/models/comparison.html').read_text()
    for name in list_names():
        assert f'| `{name}` |' in markdown and f'>{name}</td>' in page
