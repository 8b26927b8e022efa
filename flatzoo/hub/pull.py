"""Downloads models from the Hub into the cache, checks them, and makes a folder or a model of them.

`timm.create_model('hf-hub:org/name', pretrained=True)` does the same, with one difference. There timm requests
`config.json` before any code of flatzoo runs, and `huggingface_hub` silently retries if there is no network.
"""
import os
import shutil
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open

from flatzoo.models import VideoModel
from flatzoo.models.borrowed import borrowed_names
from flatzoo.models.builder import is_video_model
from flatzoo.weights.config import CONFIG_FILE, read_config
from flatzoo.weights.download import (
    WEIGHT_FILES,
    HubError,
    check_file,
    deadline,
    explain,
    fetch,
    fetch_first,
    is_offline,
    split_name,
    within,
)

from .preprocessor import PREPROCESSOR_FILE
from .staging import staging_folder

__all__ = ['download', 'pull']

CARD = 'README.md'


def pull(
        name: str,
        *,
        verify: bool = False,
        token: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        **kwargs: Any,
) -> VideoModel:
    """Loads a model from the Hub: weights, layout, windows, class names and evaluation protocol.

        model = flatzoo.pull('org/name@v1')

    Args:
        name: `org/name`, or `org/name@revision` with a branch, tag or commit.
        verify: Whether to also check files that are already in the cache. New files are always checked.
        token: Access token. None takes that of `hf auth login` or `HF_TOKEN`.
        cache_dir: Folder of the cache. None takes that of `huggingface_hub`.
        **kwargs: Arguments for `timm.create_model`, such as `num_classes`.

    Returns:
        The model, in training mode like the models of timm.

    Raises:
        HubError: The model cannot be downloaded, or a file is damaged.
        ValueError: The model cannot be built. It comes from a newer flatzoo, has an unknown architecture, or its parts
            do not match.
    """
    folder = download(name, verify=verify, token=token, cache_dir=cache_dir)
    return timm.create_model(f'local-dir:{folder}', pretrained=True, **kwargs)


def download(
        name: str,
        folder: str | os.PathLike | None = None,
        *,
        verify: bool = False,
        token: str | None = None,
        cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Downloads the files of a model. Checks digests and configuration, and that the weights fit the model.

    Args:
        name: `org/name`, or `org/name@revision`.
        folder: Folder to copy them to, complete or not at all. With None they stay in the cache.
        verify: Whether to also check files that are already in the cache.
        token: Access token.
        cache_dir: Folder of the cache.

    Returns:
        The folder of the files, for `timm.create_model('local-dir:folder', pretrained=True)`.

    Raises:
        HubError, ValueError: As in `pull`.
    """
    repo_id, revision = split_name(name)
    options = dict(token=token, cache_dir=cache_dir)
    try:
        config_path = fetch(repo_id, CONFIG_FILE, revision, **options)
    except EntryNotFoundError as error:
        raise HubError(f'{name} has no {CONFIG_FILE}: flatzoo or timm did not save it. Check the name.') \
            from error
    config = read_config(config_path)
    if not is_video_model(config['architecture']):
        raise HubError(
            f"{name} is an image model ({config['architecture']}): timm.create_model('hf-hub:{name}', pretrained=True) "
            "loads it, and it can be the backbone= of 'superimage'.")
    commit = config_path.parent.name  # one commit for all files, even if something is pushed meanwhile
    files = [config_path, fetch_first(repo_id, WEIGHT_FILES, commit, **options)]
    for filename in (PREPROCESSOR_FILE, CARD):  # optional files
        try:
            files.append(fetch(repo_id, filename, commit, **options))
        except EntryNotFoundError:
            pass
        except HubError as error:
            if error.__cause__ is None and not is_offline():  # the file exists but is damaged
                raise
    if verify:
        for path in files:
            _verify(path, repo_id, commit, token)
    _check_weights(files[1], name)
    return config_path.parent if folder is None else _copy(files, Path(folder))


def _verify(path: Path, repo_id: str, commit: str, token: str | None) -> None:
    """Compares a file of the cache with the digest in the cache, or, if the cache has none, with that of the Hub."""
    what = f'{path.name} of {repo_id}@{commit[:8]}'
    if check_file(path, what=what) is not None:
        return
    if is_offline():
        raise HubError(f'{what} cannot be verified: the cache keeps no digests here, and HF_HUB_OFFLINE is set.')
    url = hf_hub_url(repo_id, path.name, revision=commit)
    try:
        known = within(deadline(), lambda: get_hf_file_metadata(url, token=token, timeout=deadline()))
    except Exception as error:  # noqa: BLE001 - the client raises its own, those of its HTTP library and OSError
        raise HubError(explain(error, what, token)) from error
    if check_file(path, known.etag, what) is None:
        raise HubError(f'{what} cannot be verified: the Hub states no digest.')


def _check_weights(path: Path, name: str) -> None:
    """Compares the header of a weight file with the model on the meta device, so that a pulled model can be loaded.

    Raises:
        ValueError: If they do not match, or the file is damaged.
    """
    if path.suffix != '.safetensors':
        return  # the keys of a pickle are known only after loading
    model = timm.create_model(f'local-dir:{path.parent}', device='meta')
    try:
        with safe_open(path, 'pt') as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except Exception as error:  # noqa: BLE001 - safetensors raises its own type, and OSError
        check_file(path)
        raise ValueError(f'{path}: is not a safetensors file ({error}). Save and push the model again.') from error
    lent = set() if model.borrowed is None else borrowed_names(model, model.borrowed.pooler)
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in lent}
    wrong = [key for key, shape in wanted.items() if shapes.get(key) != shape]
    if wrong:
        raise ValueError(
            f'{name}: its {path.name} is not that of its {CONFIG_FILE}: {wrong[0]} should be {list(wanted[wrong[0]])} '
            f'and is {list(shapes[wrong[0]]) if wrong[0] in shapes else "missing"} (and {len(wrong) - 1} more). '
            'Its owner has to save and push the model again.')


def _copy(files: list[Path], folder: Path) -> Path:
    """Copies files into a folder, each one complete or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f'{folder} cannot be made ({error.strerror}). Give another folder.') from error
    with staging_folder(folder, '.pulling-') as staging:
        for file in files:
            shutil.copyfile(file, Path(staging, file.name))
        for file in reversed(files):  # the configuration comes last
            os.replace(Path(staging, file.name), folder / file.name)
    return folder
