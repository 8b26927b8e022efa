"""The documentation: every code block runs or says why not, links lead somewhere, Sphinx has nothing to say."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_runner import Block, blocks, commands, run_forked
from fake_hub.server import HubServer
from processes import Process, on_hub

import flatzoo

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
CARDS = sorted((ROOT / 'model_cards').glob('*.md'))


def _name(path):
    return str(path.relative_to(ROOT))


WITH_CODE = [
    page for page in PAGES
    if any(block.language in ('python', 'sh') and block.marker != 'skip' for block in blocks(page.read_text()))]


FIRST = ('README.md', 'quick_start.md', 'fine_tune.md', 'index.md', 'long_videos.md', 'families.md', 'layouts.md',
         'command_line.md', 'service.md', 'speed.md')
"""Pages that the plain command runs. The others take a quarter to three quarters of a minute each: `-m slow`."""


@pytest.mark.parametrize('page', [
    page if page.name in FIRST else pytest.param(page, marks=pytest.mark.slow) for page in WITH_CODE], ids=_name)
def test_the_code_runs(page, tmp_path):
    code = ''.join(block.code for block in blocks(page.read_text()) if not block.marker)
    needs = {
        'transformers': 'transformers', 'fastapi': 'fastapi', '--format onnx': 'onnx',
        'flatzoo show': 'pytorch_grad_cam'}
    for text, module in needs.items():
        if text in code:
            pytest.importorskip(module)
    (tmp_path / 'reader').mkdir()
    with HubServer(tmp_path / 'served') as server:
        env = {**os.environ, **server.env(tmp_path / 'home'), 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg'}
        env['PYTHONPATH'] = os.pathsep.join((str(ROOT), str(ROOT / 'tests')))
        process = Process(
            tmp_path / 'log', on_hub, server.url, server.token, tmp_path / 'home', run_forked, str(page),
            str(tmp_path / 'reader'), env=env).wait()
    assert process.returncode == 0, process.stderr[-6000:]
    assert re.search(r'[1-9]\d* blocks ran', process.stdout)


@pytest.mark.parametrize('page', ['README.md', 'docs/index.md'])
def test_the_first_block_prints_what_it_says(page, monkeypatch, capsys):
    first = next(block for block in blocks((ROOT / page).read_text()) if block.language == 'python')
    monkeypatch.chdir(ROOT)
    exec(first.code, {})  # offline, as conftest.py says
    assert capsys.readouterr().out.strip() == re.search(r'# (.+)$', first.code.strip())[1]


def test_how_a_page_is_read():
    page = '''
```python
a = 1
```
<!-- test: parse, it needs
two GPUs -->
  ```sh
  torchrun x \\
      -m flatzoo y && z  # a word
  ```
'''
    first, second = blocks(page)
    assert first == Block('python', 'a = 1\n', 2)
    assert (second.marker, second.reason) == ('parse', 'it needs\ntwo GPUs')
    assert commands(second.code) == ['torchrun x -m flatzoo y', 'z']
    hidden = '<!-- test: setup\nclip = 1\n-->'  # nothing is set up out of sight
    for wrong in ('```\nx\n```', '```python3\nx\n```', '<!-- test: skip -->', '<!-- test: ignore, so -->', hidden):
        with pytest.raises(ValueError, match='line 1: a'):
            blocks(wrong)


def test_few_blocks_are_left_out():
    """What a reader is told to type is what is tested, here or by the test that the marker names."""
    every = [block for page in PAGES for block in blocks(page.read_text()) if block.language in ('python', 'sh')]
    assert sum(block.marker == '' or 'test' in block.reason for block in every) >= 0.85 * len(every)


@pytest.mark.parametrize('page', [*PAGES, *CARDS[:1], *CARDS[-1:]], ids=_name)
def test_links_lead_somewhere(page):
    """Files and headings that a page links to exist; addresses of other hosts are left to `-m network`."""
    text = re.sub(r'^( *)```.*?^\1```$', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?://', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f'{target}: there is no {file}'
        assert not path or ROOT in file.parents or file == ROOT, f'{target} lies outside of the project'
        if anchor:
            headings = re.findall(r'^#+ (.+)$', file.read_text(), re.MULTILINE)
            assert anchor in map(_anchor, headings), f'{target}: there is no such heading'


def _anchor(heading):
    """The name that GitHub and Sphinx give to a heading."""
    return re.sub(r'[^\w\- ]', '', heading.replace('`', '').lower()).replace(' ', '-')


def _sphinx(builder, folder):
    pytest.importorskip('sphinx')
    pytest.importorskip('furo')
    pytest.importorskip('myst_parser')
    return subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', builder, ROOT / 'docs', folder],
        capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow  # a minute and more
def test_sphinx_has_nothing_to_say(tmp_path):
    process = _sphinx('html', tmp_path)
    assert process.returncode == 0, process.stderr[-6000:]
    assert (tmp_path / 'index.html').stat().st_size > 1000
    page = (tmp_path / 'api/generated/flatzoo.VideoModel.html').read_text()
    assert 'set_input_size' in page and 'num_frames' in page  # from docstrings


def test_the_reference_has_every_public_name_and_module():
    text = ''.join(page.read_text() for page in (ROOT / 'docs/api').glob('*.md'))
    named = re.findall(r'^   (flatzoo\.\S+)$', text, re.MULTILINE)
    files = [path.relative_to(ROOT).with_suffix('') for path in (ROOT / 'flatzoo').glob('*/**/*.py')]
    public = {'.'.join(file.parts) for file in files if not file.name.startswith('_') and file.parts[1] != 'cli'}
    public |= {f'flatzoo.{name}' for name in flatzoo.__all__ if not name.startswith('_')}
    assert not public - set(named) and len(named) == len(set(named))


@pytest.mark.network
def test_addresses_of_other_hosts(tmp_path):
    process = _sphinx('linkcheck', tmp_path)
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-6000:]


def test_every_page_of_results_has_its_row():
    folder = ROOT / 'benchmarks/results'
    named = set(re.findall(r'\]\((\w+\.md)\)', (folder / 'README.md').read_text()))
    assert named == {path.name for path in folder.glob('*.md')} - {'README.md'}


def test_no_script_imports_another():
    scripts = [path for path in (ROOT / 'benchmarks').rglob('*.py') if 'common' not in path.parts]
    for path in scripts:
        assert not re.search(r'^\s*(from|import) benchmarks\.(?!common)', path.read_text(), re.MULTILINE), path
