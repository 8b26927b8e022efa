"""The examples run as they stand, and what they train learns."""
import importlib.util
from pathlib import Path

import pytest
import timm

from flatzoo.data.actions import write_action
from flatzoo.inference.classifier import classify_file

EXAMPLES = Path(__file__).parents[2] / 'examples'


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', [
    'plain_pytorch',
    pytest.param('transformers_trainer', marks=pytest.mark.filterwarnings("ignore:'pin_memory' argument")),
])
def test_examples(name, tmp_path, capsys):
    if name == 'transformers_trainer':
        pytest.importorskip('transformers')
        pytest.importorskip('accelerate')
    example = load(name)
    losses = example.main(['--steps', '18', '--output', str(tmp_path)])
    sixth = len(losses) // 6
    assert sum(losses[-sixth:]) < 0.85 * sum(losses[:sixth])
    assert 'accuracy' in capsys.readouterr().out

    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert list(model.pretrained_cfg['label_names']) == example.PAIRS
    clip = write_action(tmp_path / 'clip.mp4', 'turns clockwise', seed=1, split='test')
    assert {item.label for item in classify_file(model, clip, topk=8)} == set(example.PAIRS)


def test_every_example_is_tested():
    assert sorted(path.stem for path in EXAMPLES.glob('*.py')) == ['plain_pytorch', 'transformers_trainer']
