"""Where registered weights come from: every entry's form, and with the network every address."""
import hashlib
import os
import re
import urllib.request
from pathlib import Path

import pytest
import timm
from huggingface_hub import get_hf_file_metadata
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import validate_repo_id

import flatzoo
from flatzoo.zoo.sources import WeightSource, weight_source

NAMES = flatzoo.list_models(pretrained=True) + timm.list_models('uniformer*', pretrained=True)
LICENCES = ('apache-2.0', 'mit', 'bsd-3-clause', 'cc-by-nc-4.0')


@pytest.mark.parametrize('name', NAMES)
def test_form(name):
    source, cfg = weight_source(name), timm.get_pretrained_cfg(name)
    assert source.name == name
    assert source.licence in LICENCES and source.origin.startswith('https://')
    assert source.task and source.data
    assert source.dataset is None or re.fullmatch(r'[a-z0-9-]+', source.dataset)
    if source.kind == 'hub':
        validate_repo_id(source.address)
        assert cfg.hf_hub_id == source.address and not cfg.url
        assert source.files == ((cfg.hf_hub_filename,) if cfg.hf_hub_filename else (
            'model.safetensors', 'pytorch_model.bin'))
        assert source.urls == tuple(f'https://huggingface.co/{source.address}/resolve/main/{f}' for f in source.files)
    elif source.kind == 'url':
        assert source.urls == (cfg.url,) and source.page == cfg.url
        assert re.fullmatch(
            r'https://(github\.com/[\w/.-]+/releases/download|hanlab18\.mit\.edu/projects/tsm/models)/[\w./-]+\.pth(\.tar)?',
            cfg.url)
        assert cfg.url.endswith('/' + source.files[0])
    else:
        assert source.kind == 'package' and source.urls == () and source.page == 'in the package'
    assert source.sha256 is None or re.fullmatch('[0-9a-f]{64}', source.sha256)
    assert source.size is None or 1e6 < source.size < 3e9


def test_all_kinds_of_weights_are_there():
    sources = {name: weight_source(name) for name in NAMES}
    assert {source.kind for source in sources.values()} == {'hub', 'url', 'package'}
    owners = {source.address.split('/')[0] for source in sources.values() if source.kind == 'hub'}
    assert owners == {'timm', 'Sense-X', 'MCG-NJU', 'OpenGVLab'}
    assert sources['videomae_vit_b.mcg_mae_k400'].task == 'masked autoencoding of videos'
    assert sources['videomae_vit_b.mcg_k400'].task == 'action recognition'
    assert sources['sifar_swin_b12.ms_in22k'].data == 'ImageNet-22k'


def test_tags_agree_with_their_classes():
    """Weights that name actions were trained to, and on the data that their tag names."""
    for name in flatzoo.list_models(pretrained=True):
        source, labels = weight_source(name), timm.get_pretrained_cfg(name).label_names
        if labels:
            assert source.task == 'action recognition'
            assert len(labels) == {
                'Kinetics-400': 400, 'Kinetics-710': 710, 'Something-Something v2': 174, 'Jester': 27,
                'flatzoo.data.actions': 16, 'flatzoo.data.actions, verbs': 49,
            }[source.data]


def test_shipped_file_is_the_published_one():
    source = weight_source('sifar_resnet10t.actions16')
    content = Path(source.address).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (source.size, source.sha256)


def test_one_file_has_one_size_and_one_digest():
    """Also where two papers start from the same weights."""
    files = {}
    for source in map(weight_source, NAMES):
        files.setdefault((source.address, source.files), set()).add((source.size, source.sha256, source.licence))
    assert {key: facts for key, facts in files.items() if len(facts) > 1} == {}
    assert weight_source('uniformer_small.in1k').sha256.startswith('fd192c31')
    assert weight_source('sifar_swin_b14.ibm_k400').size is None  # its publisher does not state it


def test_agreement():
    def source(**known):
        return WeightSource('a.b_in1k', 'hub', 'org/a', ('f',), 'mit', 'https://a', 'task', 'data', **known)

    assert source().agrees_with(5) and source().agrees_with(5, 'ab')
    assert source(size=346_000_000).agrees_with(346_352_444) and not source(size=346_000_000).agrees_with(300_000_000)
    assert source(sha256='ab').agrees_with(5, 'ab') and not source(sha256='ab').agrees_with(5, 'cd')
    assert source(sha256='ab').agrees_with(5)


def test_names_without_weights():
    assert weight_source('sifar_swin_tiny') is None
    assert weight_source('sifar_swin_b14').name == 'sifar_swin_b14.ibm_k400'  # the default tag
    with pytest.raises(RuntimeError):
        weight_source('sifar_swin_b14.none')


def test_weights_without_a_record_are_an_error(monkeypatch):
    cfg = timm.models.PretrainedCfg(hf_hub_id='org/a', architecture='a', tag='b_moments', license='mit')
    monkeypatch.setattr(timm, 'get_pretrained_cfg', lambda name: cfg)
    with pytest.raises(ValueError, match="a.b_moments has weights but no record .*register_records"):
        weight_source('a.b_moments')


@pytest.mark.network
@pytest.mark.parametrize('name', sorted({weight_source(name).urls: name for name in NAMES}.values()))
def test_address_answers_with_the_published_file(name):
    """Nothing is downloaded; the Hub states the digest of each large file."""
    assert os.environ['HF_HUB_OFFLINE'] == '0', 'run with HF_HUB_OFFLINE=0'
    source = weight_source(name)
    if source.kind == 'package':
        pytest.skip('shipped')
    if source.kind == 'url':
        with urllib.request.urlopen(urllib.request.Request(source.address, method='HEAD'), timeout=30) as answer:
            assert source.agrees_with(int(answer.headers['Content-Length']))
        return
    for url in source.urls:
        try:
            found = get_hf_file_metadata(url, timeout=30)
        except EntryNotFoundError:
            continue
        assert re.fullmatch('[0-9a-f]{64}', found.etag)
        assert source.agrees_with(found.size, found.etag)
        return
    pytest.fail(f'{source.address} has none of {source.files}')
