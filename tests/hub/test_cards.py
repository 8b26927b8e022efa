"""Model cards: generated from the registry and the measured results, not stale, and with snippets that run.

The snippets run unmodified, in one process of their own, against a Hub on localhost that holds small stand-ins for the
published weights; `timm.create_model` gets the sizes of the stand-ins added there. With `-m network` they run as users
run them.
"""
import argparse
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fake_hub.server import HubServer
from fake_hub.store import front_matter
from huggingface_hub import ModelCard
from processes import Process, on_hub
from safetensors.torch import load_file, save_file
from torch import Tensor

import flatzoo
from flatzoo.hub.card import model_card
from flatzoo.hub.convert import convert_state_dict
from flatzoo.models.record import tag_record
from flatzoo.zoo.sources import WeightSource, weight_source

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parents[1] / 'recorded'
# sizes of the stand-ins: those of their backbones, and of what lies around these
VIT = dict(embed_dim=24, depth=2, num_heads=3)
BACKBONES = {
    'sifar_swin_*': dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    'sifar_resnet10t*': {},
    'sifar_resnet*': dict(channels=(128, 128, 128, 128), stem_chs=32),
    'flatten_swinv2_*': dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    '*uniformer_*': dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 64, 64)),
    'tsm_resnet50_nl*': dict(layers=(1, 3, 5, 1), channels=(8, 16, 16, 16)),
    '*_resnet*': dict(layers=(1, 1, 1, 1), channels=(8, 16, 16, 16)),
    '*videomae_*': VIT, 'time_vit_*': VIT, 'amflow_*': VIT, 'probe_*': VIT,
    **{f'{family}_*': VIT for family in ('st_adapter', 'aim', 'zeroi2v', 'dualpath')},
}
AROUND = {
    'probe_*': dict(probe_heads=3),
    'sifar_resnet10t*': {},
    'sifar_resnet*': dict(img_size=64),
    'zeroi2v_clip_l_ssv2*': dict(frame_shifts=(-1, 1, -2, 2, -3)),
    'amflow_*': dict(
        bottleneck=8, aligner_dim=12, aligner_depth=1, aligner_mlp_dim=12, aligner_heads=3, tcn_dim=8, lstm_dim=8,
        transformer_mlp_dim=8, transformer_heads=2),
}


def tiny(table: dict[str, dict], name: str) -> dict[str, Any]:
    return next((args for pattern, args in table.items() if fnmatch(name, pattern)), {})


@pytest.fixture(scope='module')
def script() -> Any:
    spec = importlib.util.spec_from_file_location('benchmarks.common.cards', ROOT / 'benchmarks/common/cards.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def cards(script) -> dict[str, str]:
    return script.cards()


NAMES = flatzoo.list_models(pretrained=True) + timm.list_models('uniformer*', pretrained=True)


def snippets(text: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', text, re.S)


def test_every_tag_with_weights_has_its_card_and_no_other(cards, script):
    on_disk = {path.name for path in (ROOT / 'model_cards').iterdir()}
    assert on_disk == {f'{name}.md' for name in NAMES} == set(cards)
    assert script.names_with_weights() == NAMES


def test_cards_are_not_stale(cards):
    stale = [name for name, text in cards.items() if (ROOT / 'model_cards' / name).read_text() != text]
    assert not stale, f'run python benchmarks/regenerate.py: {stale}'


def test_front_matter_is_what_the_hub_reads(cards):
    for name, text in cards.items():
        data, errors, warnings = front_matter(text.encode())
        assert data and not errors and not warnings, name
        data, source = ModelCard(text).data, weight_source(name.removesuffix('.md'))
        assert data.library_name == 'flatzoo' and data.license == source.licence
        assert data.pipeline_tag == ('image' if name.startswith('uniformer') else 'video') + '-classification'
        assert data.datasets == ([source.dataset] if source.dataset else None)
        assert data.base_model == (source.address if source.kind == 'hub' else None)


def test_only_measured_figures_are_in_the_model_index(cards, script):
    indexed = {name: ModelCard(text).data.eval_results for name, text in cards.items()}
    results = {name: value for name, value in indexed.items() if value}
    assert set(results) == {'sifar_resnet10t.actions16.md', 'sifar_resnet10t.actions49.md'}
    for name, (result,) in results.items():
        data = ROOT / 'benchmarks/results/data' / f'{name.removesuffix(".md").replace(".", "_")}.json'
        measured = json.loads(data.read_text())
        assert result.metric_value == pytest.approx(100 * measured['eval']['still_camera']['normal'])


def test_sections(cards):
    for name, text in cards.items():
        titles = re.findall(r'^## (.*)$', text, re.M)
        assert titles == ['Usage', 'Intended use', 'Weights', 'Cost, counted', 'Evaluation', 'Limits', 'Citation'], name
        assert 'None' not in text and '\n\n\n' not in text and text.endswith('\n') and not text.endswith('\n\n')
        assert len(snippets(text)) == 1 and '@article{' in text
        fresh = name.startswith('uniformer') or timm.get_pretrained_cfg(name[:-3]).label_names
        assert ('num_classes=51' in text) != bool(fresh)
        assert ('excludes commercial use' in text) == ('license: cc-by-nc-4.0' in text)


@pytest.mark.parametrize('name', [name for name in NAMES if tag_record(name).figures])
def test_figures_of_papers_are_marked(cards, name):
    text = cards[f'{name}.md']
    assert "The **paper's** figures, not measured by us" in text
    trained = name.startswith('uniformer') or timm.get_pretrained_cfg(name).label_names
    assert ('not reached by these weights' in text) != bool(trained)
    for figure in tag_record(name).figures:
        (row,) = [line for line in text.splitlines() if line.startswith(f'| {figure.data} | {figure.top1:.1f} / ')
                  and line.endswith(f' | {figure.where} |') and figure.setting in line]
        assert f'| {figure.clips} x {figure.crops} |' in row or figure.views is None
    if name.startswith('amflow'):
        assert 'The zoo promises none of them.' in text and '"IN-21K"' in text


def test_weights_without_figures_say_so(cards):
    for name in NAMES:
        said = 'no figure of the paper for them is known to us' in cards[f'{name}.md']
        assert said == (not tag_record(name).figures and not name.startswith('sifar_resnet10t.'))


def test_what_is_to_be_trained_stands_beside_the_total(cards):
    named = {name for name, text in cards.items() if 'M trainable' in text}
    families = ('amflow', 'st_adapter', 'aim', 'zeroi2v', 'dualpath', 'probe')
    assert named == {f'{name}.md' for name in NAMES if name.startswith(families)} and named
    for name in ('amflow_dinov2_b_tcn.lvd142m', 'amflow_clip_b_lstm_lite.openai'):
        total, trainable = re.search(r'\| ([\d.]+) M, ([\d.]+) M trainable \|', cards[f'{name}.md']).groups()
        assert 1 < float(trainable) < float(total)
        assert 'adapters, temporal units and classifiers are freshly initialised' in cards[f'{name}.md']


def test_models_without_weights_have_no_card():
    with pytest.raises(ValueError, match='sifar_swin_tiny.untrained has no weights'):
        model_card('sifar_swin_tiny.untrained', {})


# The snippets


def videomae_weights(num_classes: int) -> dict[str, Tensor]:
    """Weights of transformers' VideoMAE; for 0 classes those of a pre-trained one."""
    prefix = 'weights/'
    tensors = load_file(DATA / 'videomae_tiny.safetensors')
    weights = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(('classifier.', 'fc_norm.'))}
    if num_classes == 0:
        return weights | {'videomae.layernorm.weight': torch.ones(24), 'decoder.norm.weight': torch.ones(24)}
    head = {'classifier.weight': torch.randn(num_classes, 24), 'classifier.bias': torch.zeros(num_classes)}
    return weights | head | {'fc_norm.weight': torch.ones(24), 'fc_norm.bias': torch.zeros(24)}


def official_weights(name: str) -> dict[str, Tensor]:
    """Random weights under the names of the official code."""
    args = tiny(BACKBONES, name)
    return convert_state_dict(timm.create_model(name, **args).state_dict(), name, to='official', **args).state_dict


def write_stand_in(source: WeightSource, path: Path) -> None:
    """Writes a small file in place of a published one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return  # several tags start from it
    if source.kind == 'url' and source.name.startswith('tsm'):
        weights = timm.create_model(source.name, **tiny(BACKBONES, source.name)).state_dict()
        if 'resnet' in source.name:
            weights = {re.sub(r'^backbone\.', 'base_model.', key): tensor for key, tensor in weights.items()}
        torch.save({'state_dict': {f'module.{key}': tensor for key, tensor in weights.items()}, 'epoch': 1}, path)
    elif source.address == 'OpenGVLab/VideoMAE2':
        torch.save({'module': official_weights(f'videomae_{path.name[:5]}.v2_k710')}, path)
    elif source.kind == 'url':
        torch.save({'model': official_weights(source.name), 'args': argparse.Namespace(lr=1e-4)}, path)
    elif source.address.startswith('Sense-X/'):
        torch.save({'model': official_weights(path.name.removesuffix('_in1k.pth'))}, path)
    elif source.address.startswith('MCG-NJU/'):
        cfg = timm.get_pretrained_cfg(source.name)
        weights = videomae_weights(0 if '_mae_' in source.name else 400 if cfg.tag == 'mcg_k400' else 174)
        (torch.save if path.suffix == '.bin' else save_file)(weights, path)
    else:  # what timm's repositories hold: weights of an image model
        model = timm.create_model(source.address.split('/')[1], **tiny(BACKBONES, source.name))
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)


def kind(name: str) -> tuple:
    """What a snippet shares with others: the family and the size of its miniature, the origin and format of weights."""
    source, cfg = weight_source(name), timm.get_pretrained_cfg(name)
    pattern = next((pattern for pattern in BACKBONES if fnmatch(name, pattern)), '')
    suffix = ''.join(source.files[-1:]).rpartition('.')[2]
    return name.split('_')[0], pattern, source.kind, source.address.split('/')[0], suffix, bool(cfg.label_names)


FIRST = list({kind(name): name for name in NAMES}.values())
OTHERS = [name for name in NAMES if name not in FIRST]


@pytest.fixture(scope='module')
def ran(tmp_path_factory, cards) -> tuple[HubServer, dict[str, dict]]:
    """The Hub after a snippet of each kind ran, and what `run_snippets` below says about each of them."""
    return run_all(FIRST, cards, tmp_path_factory.mktemp('hub'))


@pytest.fixture(scope='module')
def others_ran(tmp_path_factory, cards) -> tuple[HubServer, dict[str, dict]]:
    return run_all(OTHERS, cards, tmp_path_factory.mktemp('hub'))


def run_all(names, cards, folder) -> tuple[HubServer, dict[str, dict]]:
    repositories = {}
    torch.manual_seed(0)
    for source in map(weight_source, names):
        if source.kind == 'url':  # to be found in torch's cache, for the test Hub is no GitHub
            write_stand_in(source, folder / 'torch/hub/checkpoints' / source.files[0])
        elif source.kind == 'hub':
            repositories[source.address] = str(folder / 'files' / source.address)
            file = source.files[-1 if source.address.endswith('ssv2') else 0]  # these have no safetensors
            write_stand_in(source, folder / 'files' / source.address / file)
    snippets_ = {name: dict(code=snippets(cards[f'{name}.md'])[0], args=tiny(BACKBONES, name) | tiny(AROUND, name))
                 for name in names}
    with HubServer(folder / 'root', orgs=tuple({name.split('/')[0] for name in repositories})) as hub:
        result = Process(
            folder / 'log', on_hub, hub.url, hub.token, folder / 'home', run_snippets, repositories, snippets_,
            env={'TORCH_HOME': str(folder / 'torch')}).wait()
    assert result.returncode == 0, result.stderr[-3000:]
    return hub, json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', FIRST)
def test_snippet_runs(ran, name):
    check_answer(ran[1][name], name)


@pytest.mark.slow
@pytest.mark.parametrize('name', OTHERS)
def test_snippet_of_a_kind_that_ran_runs(others_ran, name):
    check_answer(others_ran[1][name], name)


def check_answer(answer, name):
    assert answer['error'] is None
    cfg = timm.get_pretrained_cfg(name)
    if cfg.label_names:
        assert answer['output'].strip() in cfg.label_names and answer['head_trained']
    else:
        assert answer['output'] == '' and answer['shape'] == [1, 1000 if name.startswith('uniformer') else 51]


def test_snippets_fetched_the_weights(ran):
    """From each repository, in one download however many tags start from it."""
    requests = ran[0].requests
    asked = {path.split('/resolve/')[0].strip('/') for method, path, status in requests
             if method == 'HEAD' and '/resolve/main/' in path and status == 302}
    sources = [weight_source(name) for name in FIRST]
    assert asked == {source.address for source in sources if source.kind == 'hub'}
    downloads = [path for method, path, status in requests if method == 'GET' and path.startswith('/cdn/')]
    assert len(downloads) == len({(source.address, source.files) for source in sources if source.kind == 'hub'})


@pytest.mark.network
@pytest.mark.parametrize('name', NAMES)
def test_snippet_runs_with_the_published_weights(cards, name):
    code = snippets(cards[f'{name}.md'])[0]
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'HF_HUB_OFFLINE': '0'})
    assert result.returncode == 0, result.stderr[-3000:]


def run_snippets(repositories: dict[str, str], jobs: dict[str, dict]) -> None:
    """Pushes the stand-ins and runs the snippets; prints what became of each, as JSON.

    `timm.create_model` gets the sizes of the stand-ins added.
    """
    import contextlib
    import io
    import traceback

    from huggingface_hub import HfApi

    answers, create_model = {}, timm.create_model

    def create_small(name: str, args: dict[str, Any], model_name: str, **kwargs: Any) -> torch.nn.Module:
        return create_model(model_name, **kwargs, **(args if model_name == name else {}))  # not in its own backbone

    for repo_id, folder in repositories.items():
        HfApi().create_repo(repo_id)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    for name, job in jobs.items():
        timm.create_model = functools.partial(create_small, name, job['args'])
        output, namespace, error = io.StringIO(), {}, None
        try:
            with contextlib.redirect_stdout(output):
                exec(compile(job['code'], name, 'exec'), namespace)
        except Exception:  # noqa: BLE001 - the test shows it
            error = traceback.format_exc()
        answers[name] = dict(
            error=error, output=output.getvalue(), shape=list(namespace.get('logits', torch.empty(0)).shape),
            head_trained=getattr(namespace.get('model'), 'head_trained', None))
    print(json.dumps(answers))
