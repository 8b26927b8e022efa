"""Train a video model on videos in a folder.

SPEC is the layout of the data set, such as folder, kinetics, ssv2 or ucf101:fold=2. 'auto' recognises
the layout. ROOT is the folder of the data set. The run folder holds the model (config.json,
model.safetensors), the last checkpoint (last.pt), summary.csv and args.yaml.

--recipe auto, the default, looks at the clips, the model and the device. It chooses the options that are
not given, and prints its choices with the reasons. --recipe few_clips does the same, and takes the recipe
for few clips whatever their number is. --recipe sifar takes the defaults below. The name of a preset takes
the options of a paper. --config reads a preset or a YAML file; then nothing is chosen without --recipe.
Options of the command line override all of them:

    flatzoo train folder videos/ --model sifar_swin_b12 --pretrained --output runs/mine
    flatzoo train ssv2 something/ --recipe sifar_ssv2 --batch-size 12 --amp
    flatzoo train --config runs/mine/args.yaml --resume auto
    torchrun --nproc-per-node 8 -m flatzoo train kinetics k400/ --config sifar_k400 --amp
    flatzoo predict clip.mp4 --model runs/mine
    flatzoo push runs/mine org/name

Ctrl-C and SIGTERM finish the update and save. A second signal ends at once. After a kill at any moment,
--resume auto continues from the last checkpoint with the same result.
Presets:
"""
import argparse
import dataclasses
import os
import shlex
import sys
from typing import Any

from flatzoo.train.recipe import RECIPES, Recipe, load_recipe, option_type, presets, read_config

from .. import CommandError, write
from ..arguments import KeyValues

__all__ = ['add_arguments', 'run']

__doc__ += f'    {", ".join(presets())}\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo train`: the fields of `Recipe`."""
    for name, text in (('spec', 'layout of the data set'), ('root', 'folder of the data set')):
        parser.add_argument(
            name, metavar=name.upper(), nargs='?', default=argparse.SUPPRESS, help=f'{text} (default: of --config)')
    parser.add_argument(
        '--recipe', metavar='NAME', help=f'{", ".join(RECIPES)} or a preset (default: auto, without --config)')
    parser.add_argument('--config', metavar='NAME', help='preset, or YAML file with options')
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in dataclasses.fields(Recipe):
        if option.name not in ('spec', 'root', 'reasons'):
            name = option.metadata['group']
            if name not in groups:
                groups[name] = parser.add_argument_group(name)
            _add_option(groups[name], option)


def _add_option(group: argparse._ArgumentGroup, option: dataclasses.Field) -> None:
    kind, several, _ = option_type(option)
    text, default = option.metadata['help'].replace('%', '%%'), option.default
    if kind is not bool and default not in (None, ''):
        shown = ' '.join(f'{value:.3g}' for value in default) if several else default
        text += f' (default: {shown})'
    flag = '--' + option.name.replace('_', '-')
    if option.name.startswith('no_'):  # argparse would take --no-aug for the opposite of --aug
        group.add_argument(flag, action='store_true', default=argparse.SUPPRESS, help=text)
    elif kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
    elif kind is dict:
        group.add_argument(
            flag, nargs='+', action=KeyValues, default=argparse.SUPPRESS, metavar='NAME=VALUE', help=text)
    elif option.name == 'torchcompile':
        group.add_argument(
            flag, nargs='?', const='inductor', default=argparse.SUPPRESS, metavar='BACKEND', help=text)
    else:
        choices = option.metadata['choices'] or None
        metavar = None if choices else {int: 'N', float: 'X'}.get(kind, 'NAME')
        group.add_argument(
            flag, type=kind, nargs='+' if several else None, choices=choices, default=argparse.SUPPRESS,
            metavar=metavar, help=text)


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo train`; prints the folder of the run."""
    from timm.utils.distributed import world_info_from_env

    from flatzoo import HubError
    from flatzoo.inference.load import check_registered, model_name, on_the_shell
    from flatzoo.train.auto import fit_recipe
    from flatzoo.train.loop import train

    first = world_info_from_env()[1] == 0  # of the processes that torchrun started
    try:
        options = _given(args)
        for name in ('model', 'kd_model_name'):
            if options.get(name):
                options[name] = model_name(options[name])
        if options.get('model') and ':' not in options['model']:
            check_registered(options['model'])
        recipe, lines = fit_recipe(args.recipe, options) if args.recipe else (load_recipe(**options), [])
        for line in lines if first else ():
            write(f'recipe {args.recipe}, {line}', sys.stderr)
        train(recipe, report=lambda line: write(line, sys.stderr))
    except HubError as error:
        raise CommandError(on_the_shell(error, '--initial-checkpoint')) from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    if first:
        write(str(recipe.folder))
        write(f'now try: {_next_command(recipe)}', sys.stderr)
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The options that the command line, or the file that it names, sets. Sets `args.recipe` if it is open."""
    options = {name: value for name, value in vars(args).items() if name not in ('command', 'run', 'config', 'recipe')}
    if args.recipe is None and args.config is None:
        args.recipe = 'auto'
    if args.config is not None:
        if args.recipe not in (None, *RECIPES):
            raise CommandError(f'--recipe {args.recipe} and --config {args.config} both set all options; leave out one')
        options = read_config(args.config) | options
    if not load_recipe(**options).root:
        raise CommandError('name the data set: flatzoo train SPEC ROOT, or a --config that has its spec and root')
    return options


def _next_command(recipe: Recipe) -> str:
    """A command that uses the trained model, on a file if the data has files."""
    from flatzoo.train.build import read_lists

    train_list, val_list = read_lists(recipe)
    clip = (val_list or train_list).clips[0]
    model = ['--model', str(recipe.folder)]
    is_file = clip.member is None and clip.end is None and not clip.start and os.path.isfile(clip.path)
    if is_file and train_list.depth is None:
        return shlex.join(['flatzoo', 'predict', clip.path, *model])
    return shlex.join(['flatzoo', 'validate', recipe.spec, recipe.root, *model])
