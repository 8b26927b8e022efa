"""Runs the code blocks of a page of the documentation, one after the other, as its reader would.

    python docs_runner.py PAGE

in a folder that is like a clone of the repository, with the environment of a test Hub. Nothing is set up out of the
reader's sight: what a block needs is made by a block above it, or lies in the clone. Python blocks share one namespace,
and a block whose first line is a path, as in `# tests/test_mine.py`, is that file. The lines of sh blocks run in the
same process where they begin with `flatzoo`, else in bash. Blocks that cannot run in a test are marked:

    <!-- test: parse, it needs eight GPUs -->          the arguments are understood, and no more
    <!-- test: skip, it asks for a password -->        nothing at all

To save time, what is large is small: models that would download hundreds of megabytes have small ones in their place,
whose image weights lie on the test Hub; a data set is rendered with four small classes; training ends after an epoch;
pytest compiles and exports nothing.
"""
import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LANGUAGES = ('python', 'sh', 'text', 'yaml', 'json')  # of which the first two run
_SWIN = dict(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
_VIT = dict(embed_dim=32, depth=3, num_heads=2)
SMALL = {
    'sifar_swin_b12': dict(_SWIN, img_size=64),
    'sifar_swin_b14': _SWIN,
    'amflow_dinov2_b_tcn_lite': dict(_VIT, bottleneck=4),
    'superimage': dict(depths=(1, 1, 1, 1), dims=(16, 16, 16, 16)),  # of the backbone below
}
"""Names that stand in the documentation -> what makes their models small."""
_BACKBONE = 'convnext_tiny'


SHORTER = {  # what begins a command -> the options that make it short
    ('flatzoo', 'train'): ['--epochs', '1', '--warmup-epochs', '0', '--workers', '0'],
    ('flatzoo', 'crossval'): ['--epochs', '1', '--warmup-epochs', '0', '--workers', '0'],
    ('flatzoo', 'validate'): ['--workers', '0'],
    ('flatzoo', 'data', 'render'): [
        '--clips', '4', '--classes', '4', '--size', '64', '--frames', '8', '--workers', '1'],
    ('python', '-m', 'pytest'): ['-p', 'no:cacheprovider', '-k', 'not compile and not export'],
}


@dataclass
class Block:
    """A piece of a page: `language` is that of the fence."""
    language: str
    code: str
    line: int
    marker: str = ''  # parse or skip
    reason: str = ''


def blocks(text: str) -> list[Block]:
    """The code blocks of a page, in their order.

    Raises:
        ValueError: For a fence without a known language, or a marker that is none or has no reason.
    """
    found, marker = [], ('', '')
    pattern = r'^<!-- test: *(\w+)(.*?)-->$|^( *)```([^\n]*)\n(.*?)^\3```$'
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        word, rest, indent, language, code = match.groups()
        line = text.count('\n', 0, match.start()) + 1
        if word:
            reason = rest.strip(' ,\n')
            if word not in ('parse', 'skip') or not reason:
                raise ValueError(
                    f'line {line}: a marker is "parse, REASON" or "skip, REASON", not {word!r}. What a block needs '
                    'stands in the text, where its reader sees it.')
            marker = (word, reason)
        elif language.startswith('{'):
            continue  # a directive of the page, such as a figure
        else:
            if language not in LANGUAGES:
                raise ValueError(f'line {line}: a fence has one of the languages {LANGUAGES}, not {language!r}')
            code = re.sub(rf'^{indent}', '', code, flags=re.MULTILINE)
            found.append(Block(language, code, line, *marker))
            marker = ('', '')
    return found


def run_page(page: Path) -> int:
    """Runs a page in the current folder; returns the number of blocks that ran.

    Raises:
        Exception: Whatever the first block that fails raises, with its line.
    """
    namespace = {'__name__': '__page__'}
    count = 0
    for block in blocks(page.read_text()):
        if block.marker == 'skip' or block.language not in ('python', 'sh'):
            continue
        try:
            if block.language == 'sh':
                for line in commands(block.code):
                    run_command(line, only_parse=block.marker == 'parse')
            else:
                run_python(block, page, namespace)
        except BaseException as error:
            error.add_note(f'{page}, block at line {block.line}')
            raise
        count += 1
    return count


def run_python(block: Block, page: Path, namespace: dict) -> None:
    """Runs a python block, or writes the file that it is."""
    code = compile('\n' * block.line + block.code, page, 'exec')
    path = re.match(r'# (\S+\.py)\n', block.code)
    if path:
        Path(path[1]).write_text(block.code.partition('\n')[2])
    elif block.marker != 'parse':
        make_models_small()
        exec(code, namespace)


def commands(code: str) -> list[str]:
    """The commands of a sh block, without comments; `&&` and a backslash join lines as in a shell."""
    code = re.sub(r'\s*\\\n\s*', ' ', code)
    lines = [re.sub(r'(^|\s)#.*', '', line).strip() for line in code.splitlines()]
    return [part.strip() for line in lines if line for part in line.split('&&')]


def run_command(line: str, only_parse: bool = False) -> None:
    """Runs `flatzoo ...` in this process, anything else in bash.

    Raises:
        RuntimeError: If it ends with another code than 0.
    """
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    line, _, target = line.partition(' > ')
    words = shlex.split(line)
    if words[:2] == ['git', 'clone'] or words == ['cd', 'flatzoo']:  # that is where we are
        if words[0] == 'git' and words[2:] != [project['urls']['Repository']]:
            raise RuntimeError(f'{line}: the repository is {project["urls"]["Repository"]}')
        return
    if words[:2] == ['pip', 'install']:
        asked = [name for word in words for name in re.findall(r'\[(.*)\]', word) for name in name.split(',')]
        if unknown := set(asked) - set(project['optional-dependencies']):
            raise RuntimeError(f'{line}: pyproject.toml has no extra {sorted(unknown)}')
        return
    if only_parse:
        words = words[words.index('flatzoo') + 1:] if 'flatzoo' in words else None
        if words is not None:
            from flatzoo import cli
            cli._parser().parse_args(words)
        return
    for begin, options in SHORTER.items():
        if tuple(words[:len(begin)]) == begin:
            words += options
            line = shlex.join(words)
    if words[0] == 'flatzoo':
        make_models_small()
        from flatzoo import cli
        with contextlib.ExitStack() as stack:
            if target:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(target.strip(), 'w'))))
            code = cli.main([os.path.expandvars(word) for word in words[1:]])
    else:
        code = subprocess.run(['bash', '-c', line + (f' > {target}' if target else '')]).returncode
    if code:
        raise RuntimeError(f'{line}: ended with {code}')


@functools.cache
def make_models_small() -> None:
    """Puts a small model behind the names of `SMALL`, and its image weights on the Hub that the environment names."""
    import safetensors.torch
    import timm
    from huggingface_hub import HfApi
    from timm.models import _registry

    import flatzoo  # noqa: F401 - registers the models

    api = HfApi()

    def small(name, entry, pretrained=False, **kwargs):
        if name != 'superimage' or kwargs.get('backbone') == _BACKBONE:
            kwargs = {**SMALL[name], **kwargs}
        overlay = dict(kwargs.get('pretrained_cfg_overlay') or {})
        if pretrained and not overlay.keys() & {'file', 'hf_hub_id'} and not kwargs.get('pretrained_cfg'):
            if not api.repo_exists(f'alice/{name}'):
                upload(name, entry(**{key: value for key, value in kwargs.items() if key != 'num_classes'}))
            kwargs['pretrained_cfg_overlay'] = {**overlay, 'hf_hub_id': f'alice/{name}'}
        return entry(pretrained, **kwargs)

    def upload(name, model):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'model.safetensors')
            safetensors.torch.save_file(model.backbone.state_dict(), path)
            api.create_repo(f'alice/{name}')
            api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=f'alice/{name}')

    def wrap(name, entry):
        @functools.wraps(entry)  # it is known by its module
        def entry_point(*args, **kwargs):
            return small(name, entry, *args, **kwargs)
        return entry_point

    for name in SMALL:
        _registry._model_entrypoints[name] = wrap(name, timm.model_entrypoint(name))


def main(page: str) -> None:
    """Runs a page in the current folder, and puts a clone of the repository there."""
    page, clone = Path(page).resolve(), Path.cwd()
    for name in ('flatzoo', 'examples'):
        shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(ROOT / 'tests', 'tests', ignore=shutil.ignore_patterns('__pycache__', 'data'))
    sys.path[:0] = [str(clone), str(clone / 'tests')]  # in front of the repository that is tested
    os.environ['PYTHONPATH'] = os.pathsep.join(sys.path[:2])
    os.environ['PATH'] = os.pathsep.join((os.path.dirname(sys.executable), os.environ['PATH']))
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(run_page(page), 'blocks ran')


def run_forked(page: str, folder: str) -> None:
    """Runs a page in a process that may have imported flatzoo from the repository already."""
    warnings.simplefilter('ignore')
    os.chdir(folder)
    main(page)


if __name__ == '__main__':
    main(sys.argv[1])
