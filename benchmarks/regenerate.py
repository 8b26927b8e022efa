"""Rewrites everything that is generated and not timed: after a model is added, or what is known of one has changed.

    python benchmarks/regenerate.py
    python benchmarks/regenerate.py --all  # counts every model again: after the code of a model has changed

Costs (`results/data/cost.csv`, `counted.json`) and the catalogue that `flatzoo list` reads are counted for new names
only. Model cards
are written from them. The reference (`docs/api/models.md`) names the modules of new papers. What takes longer is
written when something that it shows has changed: the comparison of all models (`docs/models.md`, `docs/models/`), that
of the ways to make an image model see video (`docs/image_to_video.md`, `docs/image_to_video/`) and the counted tables
below `results/`. The page of speeds beside stated accuracies is written from its rows.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: benchmarks.common, flatzoo

from benchmarks.common import cost
from benchmarks.common.cards import write_cards
from benchmarks.common.files import write_file
from benchmarks.common.stated import write_stated
from flatzoo.zoo import catalogue, comparison, comparison_page, image_to_video
from flatzoo.zoo.catalogue import list_names

ROOT = Path(__file__).resolve().parents[1]
COSTS = Path('benchmarks/results/data/cost.csv')
LEARNED = Path('benchmarks/results/data/family.json')  # what the ways to make an image model see video reach
SPEEDS = 'benchmarks/results/data/models.csv', 'benchmarks/results/data/image_to_video.csv'
REFERENCE, INDENT = Path('docs/api/models.md'), '   '
COUNTS = Path('benchmarks/results/data/counted.json')  # of the comparisons
PAGES = Path('docs/models'), Path('docs/image_to_video')
COUNTED = {  # page below results: script, and the models of which it is made
    'sifar_cost.md': ('cost/sifar_cost.py', 'sifar_'),
    'amflow_parameters.md': ('cost/amflow_parameters.py', 'amflow_'),
    'uniformer_attention.md': ('cost/uniformer_attention.py', 'flatten_uniformer_'),
}


def count_costs(again: bool) -> set[str]:
    """Counts the models that have no row, drops rows of models that are gone, and names the models that changed."""
    rows = {row['model']: row for row in cost.read(COSTS)}
    names = cost.names()
    new = {}
    for name in names:
        if again or name not in rows:
            new[name] = {key: str(value) for key, value in cost.count(name).items()}
            print(f'counted {name}', flush=True)
    changed = {name for name, row in new.items() if row != rows.get(name)} | (set(rows) - set(names))
    if changed or list(rows) != names:
        cost.write(COSTS, [new.get(name) or rows[name] for name in names])
    return changed


def describe_models(again: bool) -> bool:
    """Writes the catalogue, and says whether it changed."""
    rows = {row['name']: row for row in json.loads(catalogue.FILE.read_text(encoding='utf-8'))}
    rows = {
        name: catalogue.describe(name) if again or name not in rows else rows[name] for name in catalogue.list_names()}
    text = '[\n' + ',\n'.join(json.dumps(row, ensure_ascii=False) for row in rows.values()) + '\n]\n'
    if text == catalogue.FILE.read_text(encoding='utf-8'):
        return False
    write_file(catalogue.FILE, text.encode())
    return True


def name_modules() -> None:
    """Adds the modules of new papers to their list in the reference, and drops those that are gone.

    A module of `flatzoo.models` belongs to a paper if the reference does not name it under what papers share.
    """
    before, start, rest = REFERENCE.read_text(encoding='utf-8').partition(f'{INDENT}flatzoo.models.')
    listed, end, shared = (start + rest).partition('```')
    named = listed.split()
    files = sorted(Path('flatzoo/models').rglob('[!_]*.py'))
    modules = ['.'.join(file.with_suffix('').parts) for file in files]
    papers = [name for name in modules if f'{INDENT}{name}\n' not in shared]
    names = [name for name in named if name in papers] + [name for name in papers if name not in named]
    if names != named:
        text = ''.join(f'{INDENT}{name}\n' for name in names)
        write_file(REFERENCE, f'{before}{text}{end}{shared}'.encode())
        print(f'{REFERENCE} is new.')


def write_comparisons(counted: dict[str, dict[str, int]]) -> None:
    """Writes the pages that `flatzoo compare --page` would, and keeps what was counted for them."""
    models, family = PAGES
    rows = comparison.compare_models(list_names(), comparison.read_measured(SPEEDS), counted)
    command = f'flatzoo compare --measured {" ".join(SPEEDS)} --page {models}'
    comparison_page.write_page(rows, models, command, None)
    measured = comparison.read_measured(SPEEDS[1:], passes=('forward', 'train'))
    members = image_to_video.compare_members(image_to_video.MEMBERS, measured, counted=counted)
    command = f'flatzoo compare --family image-to-video --measured {SPEEDS[1]} --learned {LEARNED} --page {family}'
    table = image_to_video.members_table(members, image_to_video.read_learned(LEARNED))
    comparison_page.write_page(members, family, command, table)
    write_file(COUNTS, (json.dumps(counted, indent=1, sort_keys=True) + '\n').encode())


def main() -> None:
    """Rewrites what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--all', action='store_true', help='count every model again and write every page')
    args = parser.parse_args()
    os.chdir(ROOT)
    name_modules()
    costs = count_costs(args.all)
    listed = describe_models(args.all)
    cards = write_cards()
    print(f'{len(costs)} costs and {len(cards)} cards are new; the catalogue {"is" if listed else "is not"}.')
    with open(SPEEDS[0], newline='', encoding='utf-8') as file:
        write_stated(Path('benchmarks/results/stated_speed.md'), list(csv.DictReader(file)))
    for page, (script, prefix) in COUNTED.items():
        path = Path('benchmarks/results', page)
        if args.all or not path.exists() or any(name.startswith(prefix) for name in costs):
            subprocess.run([sys.executable, f'benchmarks/{script}', '--out', str(path)], check=True)
    if args.all or costs or cards or listed or not all(page.with_suffix('.md').exists() for page in PAGES):
        write_comparisons({} if args.all or not COUNTS.exists() else json.loads(COUNTS.read_text()))


if __name__ == '__main__':
    main()
