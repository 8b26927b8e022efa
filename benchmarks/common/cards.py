"""`model_cards/`: one card for every tag with weights, from the registry and the measured results."""
import csv
import json
from pathlib import Path

import timm

import flatzoo
from benchmarks.common.files import write_file
from flatzoo.hub.card import model_card

__all__ = ['cards', 'names_with_weights', 'write_cards']

ROOT = Path(__file__).resolve().parents[2]


def names_with_weights() -> list[str]:
    """Every `architecture.tag` that has a card: the video models and the image models that are ours."""
    return flatzoo.list_models(pretrained=True) + timm.list_models('uniformer*', pretrained=True)


def cards() -> dict[str, str]:
    """File name -> text of every card.

    Raises:
        SystemExit: If the cost of a model was not counted.
    """
    with (ROOT / 'benchmarks/results/data/cost.csv').open() as file:
        costs = {row['model']: row for row in csv.DictReader(file)}
    missing = {name.split('.', 1)[0] for name in names_with_weights()} - set(costs)
    if missing:
        raise SystemExit(
            f'benchmarks/results/data/cost.csv has no row for {", ".join(sorted(missing))}. Count them: '
            'python benchmarks/regenerate.py')
    texts = {}
    for name in names_with_weights():
        results = ROOT / 'benchmarks/results/data' / f'{name.replace(".", "_")}.json'
        measured = json.loads(results.read_text()) if results.exists() else None
        texts[f'{name}.md'] = model_card(name, costs[name.split('.', 1)[0]], measured)
    return texts


def write_cards() -> list[str]:
    """Writes the cards that differ, removes those of tags that are gone, and names both."""
    folder = ROOT / 'model_cards'
    folder.mkdir(exist_ok=True)
    texts, changed = cards(), []
    for old in folder.glob('*.md'):
        if old.name not in texts:
            old.unlink()
            changed.append(old.name)
    for name, text in texts.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            write_file(folder / name, text.encode())
            changed.append(name)
    return changed
