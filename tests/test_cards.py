"""Model cards: generated from the registry and the measured results, and not stale."""
import importlib.util
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCard

import flatzoo
from flatzoo.hub.card import PAPER_FIGURES

ROOT = Path(__file__).resolve().parents[1]


def _generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location('write_cards', ROOT / 'benchmarks' / 'write_cards.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cards()


@pytest.fixture(scope='module')
def cards() -> dict[str, str]:
    return _generated()


def test_every_tag_with_weights_has_its_card_and_no_other(cards):
    on_disk = {path.name for path in (ROOT / 'model_cards').glob('*.md')}
    names = flatzoo.list_models(pretrained=True) + timm.list_models('uniformer*', pretrained=True)
    assert on_disk == {f'{name}.md' for name in names} == set(cards)


def test_cards_are_not_stale(cards):
    stale = [name for name, text in cards.items() if (ROOT / 'model_cards' / name).read_text() != text]
    assert not stale, f'run python benchmarks/write_cards.py: {stale}'


def test_front_matter_is_what_the_hub_reads(cards):
    for name, text in cards.items():
        data = ModelCard(text).data
        assert data.library_name == 'flatzoo'
        task = 'image' if name.startswith('uniformer') else 'video'
        assert data.pipeline_tag == f'{task}-classification'
        assert data.license


def test_only_measured_figures_are_in_the_model_index(cards):
    indexed = {name for name, text in cards.items() if ModelCard(text).data.eval_results}
    assert indexed == {'sifar_resnet10t.actions16.md'}


@pytest.mark.parametrize('name', PAPER_FIGURES)
def test_figures_of_papers_are_marked(cards, name):
    text = cards[f'{name}.md']
    assert "The **paper's** figures, not measured by us" in text
    for _, value, _ in PAPER_FIGURES[name]:
        assert value in text
