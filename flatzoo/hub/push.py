"""Saves models: into a folder, or in one commit into a repository of the Hub.

Both get the same files: `model.safetensors`, `config.json` (see `config.py`), `video_preprocessor_config.json` for
transformers, and the model's card `README.md`. No pickle is written. A file in a folder is complete or not there. A
repository shows all of a push or nothing.
"""
import dataclasses
import functools
import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData, constants, get_token
from safetensors import safe_open

from flatzoo.console.text import printable
from flatzoo.data.protocol import EvalProtocol
from flatzoo.models import VideoModel, eval_protocol
from flatzoo.models.borrowed import borrowed_digest, borrowed_names
from flatzoo.version import __version__
from flatzoo.weights.config import CONFIG_FILE, NEIGHBOURS_FILE
from flatzoo.weights.download import explain, is_offline
from flatzoo.weights.hub_session import PORTAL, HubError, HubUnwell, Watch, deadline

from .config import model_config
from .preprocessor import PREPROCESSOR_FILE, video_preprocessor_config
from .staging import is_full, staging_folder

__all__ = ['Push', 'open_checkpoint', 'push_to_hub', 'save_pretrained']

WEIGHTS, CARD = 'model.safetensors', 'README.md'

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Push:
    """The files of a push, or of a dry run.

    Attributes:
        repo_id: `org/name`.
        revision: Branch.
        tag: Tag of the commit, None without one.
        files: Size in bytes and sha256 of every file.
        commit: The commit, None after a dry run.
        url: Its page, None after a dry run.
    """
    repo_id: str
    revision: str
    tag: str | None
    files: dict[str, tuple[int, str]]
    commit: str | None = None
    url: str | None = None


def save_pretrained(
        model: VideoModel,
        folder: str | os.PathLike,
        *,
        label_names: Sequence[str] | None = None,
        protocol: EvalProtocol | None = None,
        card: str | None = None,
        with_backbone: bool = False,
) -> Path:
    """Saves a model so that `timm.create_model('local-dir:folder', pretrained=True)` brings back the same one.

    Args:
        model: A video model that `timm.create_model` built.
        folder: The folder. It is made if it does not exist.
        label_names: Names of the classes in the order of the logits. None takes those of the model's weights.
        protocol: How the accuracy is measured. None takes the protocol of the model's weights.
        card: Text of `README.md`. With None no card is written.
        with_backbone: Of a probe that borrows its backbone (`model.borrowed`), whether to write that, too. A backbone
            that was trained further is always written.

    Returns:
        The folder.

    Raises:
        TypeError: `model` is not a video model.
        ValueError: The model cannot be rebuilt, or class names and number of classes do not match.
        OSError: The folder cannot be written. Its content stays unchanged.
    """
    borrows = not with_backbone and _borrows(model)
    config = model_config(model, label_names, protocol, borrows)
    tensors = _saveable(model.state_dict())
    if borrows:
        lent = borrowed_names(model, model.borrowed.pooler)
        tensors = {name: tensor for name, tensor in tensors.items() if name not in lent}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder, '.saving-') as staging:
        # transformers needs the format. With more than one entry, safetensors would write them in a random order.
        safetensors.torch.save_file(tensors, Path(staging, WEIGHTS), {'format': 'pt'})
        _write_json(Path(staging, CONFIG_FILE), config)
        _write_json(Path(staging, PREPROCESSOR_FILE), video_preprocessor_config(config['video']))
        shutil.copymode(Path(staging, CONFIG_FILE), Path(staging, WEIGHTS))  # safetensors lets only the owner read
        if card is not None:
            Path(staging, CARD).write_text(card, encoding='utf-8')
        for file in sorted(Path(staging).iterdir(), key=lambda file: file.name == CONFIG_FILE):
            os.replace(file, folder / file.name)  # the configuration last: with it the folder is a model
    return folder


def push_to_hub(
        model: VideoModel,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        tag: str | None = None,
        commit_message: str | None = None,
        dry_run: bool = False,
        label_names: Sequence[str] | None = None,
        protocol: EvalProtocol | None = None,
        card: str | None = None,
        token: str | None = None,
        with_backbone: bool = False,
) -> Push:
    """Pushes a model to the Hub in one commit. The repository and the branch are made if they do not exist.

        flatzoo.push_to_hub(model, 'org/name', label_names=names, tag='v1')
        model = timm.create_model('hf-hub:org/name@v1', pretrained=True)

    Args:
        model: A video model that `timm.create_model` built.
        repo_id: `org/name`.
        private: Whether a new repository is private. An existing repository is not changed.
        revision: Branch. It is made from the main branch if it does not exist. None is the main branch.
        tag: Tag for the commit.
        commit_message: Message of the commit.
        dry_run: Whether to only report the files of the push. The Hub is not contacted.
        label_names: Names of the classes in the order of the logits. None takes those of the model's weights.
        protocol: How the accuracy is measured. None takes the protocol of the model's weights.
        card: Text of `README.md`. With None the card of the repository stays, and a new repository gets a short card.
        token: Access token. None takes that of `hf auth login` or `HF_TOKEN`.
        with_backbone: Of a probe that borrows its backbone, whether to push that, too. One that lies in a folder of
            this machine has to come along.

    Returns:
        What was pushed.

    Raises:
        TypeError, ValueError: As in `save_pretrained`.
        HubError: The Hub cannot be reached or refuses. The message says what of the push is visible. If only the answer
            was lost and the commit or the tag arrived, there is a warning and no error.
    """
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', repo_id):
        raise HubError(f"{repo_id!r} is not a name for a repository. Give 'org/name'; a branch goes into revision=.")
    branch = revision or 'main'
    for name, value in (('revision', branch), ('tag', tag)):
        if value is not None and not re.fullmatch(r'[\w][\w./-]*', value):
            raise HubError(f'{name}={value!r} is not a name for a branch or tag. Use letters, digits and . _ - /')
    if not with_backbone and isinstance(model, VideoModel) and _borrows(model) and not model.borrowed.is_public:
        raise ValueError(
            f'{repo_id}: the backbone of the model is {model.borrowed.model.removeprefix("local-dir:")}, on this '
            'machine, which nobody else has. Push it along: --with-backbone, in Python with_backbone=True.')
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_pretrained(
                model, folder, label_names=label_names, protocol=protocol, card=card, with_backbone=with_backbone)
            if card is None:
                Path(folder, CARD).write_text(_card(model, repo_id, protocol), encoding='utf-8')
        except OSError as error:
            if not is_full(error):
                raise
            raise HubError(
                f'{repo_id}: {tempfile.gettempdir()}, where the files are written before they go, is full. Nothing was '
                'pushed. Make room there, or name a folder with more by TMPDIR.') from error
        names = (WEIGHTS, CONFIG_FILE, PREPROCESSOR_FILE, CARD)
        push = Push(repo_id, branch, tag, {name: _measure(Path(folder, name)) for name in names})
        if dry_run:
            return push
        if is_offline():
            raise HubError(f'{repo_id}: HF_HUB_OFFLINE forbids to push. Unset it.')
        if token is None and get_token() is None:
            raise HubError(
                f"{repo_id}: pushing needs a token with write access. 'hf auth login' or HF_TOKEN gives one.")
        return _send(push, folder, private, commit_message or 'Push model with flatzoo', card is None, token)


def open_checkpoint(
        path: str | os.PathLike,
        model: str | None = None,
) -> tuple[VideoModel, str | None]:
    """The model of a folder or of a weight file, and the card beside it, if there is one.

    Args:
        path: Folder that `save_pretrained`, a training run or timm's `save_for_hf` wrote, or a weight file.
        model: Registered name of the model that a weight file belongs to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: The model of the weights is not known, or it is another one than `model`.
    """
    path = Path(path)
    folder = path.parent if path.name == WEIGHTS and model is None else path
    if (folder / CONFIG_FILE).is_file():
        if model is not None:
            raise ValueError(f'{path}: its {CONFIG_FILE} already names the model; leave {model} out.')
        built = timm.create_model(f'local-dir:{folder}', pretrained=True)
        readme = folder / CARD
        return built, readme.read_text(encoding='utf-8') if readme.is_file() else None
    if not path.exists():
        raise FileNotFoundError(f'{path}: there is no such file or folder.')
    if (path / NEIGHBOURS_FILE).is_file():
        raise ValueError(
            f'{path}: holds nearest neighbours, which are features and cannot be pushed as a model. A probe of kind '
            'ridge or logistic can.')
    if path.is_dir():
        raise ValueError(
            f'{path}: has no {CONFIG_FILE}, so flatzoo did not save it. Give a folder that save_pretrained or a '
            'training run wrote, or a weight file and the name of its model.')
    if model is None:
        raise ValueError(
            f'{path}: a weight file does not name its model. Give the name of a registered model with --model '
            "('flatzoo list' shows all), or a folder that also has config.json.")
    overlay: dict[str, Any] = {'file': str(path)}
    if '.' not in model:
        overlay['label_names'] = None  # a file has no class names; only a given tag has
    classes = _classes_in(path, model)
    options = {} if classes is None else {'num_classes': classes}
    built = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    if not isinstance(built, VideoModel):
        raise ValueError(f"{model} is an image model. 'flatzoo list' shows the video models.")
    if not built.head_trained:
        raise ValueError(f'{path}: has no classifier, so there is no trained model to push.')
    return built, None


def _borrows(model: VideoModel) -> bool:
    """Whether a model has the very backbone that it borrows."""
    borrowed = getattr(model, 'borrowed', None)
    return borrowed is not None and borrowed_digest(model, borrowed.pooler) == borrowed.digest


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _saveable(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that safetensors accepts: contiguous, and copied if several names share one."""
    seen: set[tuple[str, int]] = set()
    tensors = {}
    for name, tensor in state_dict.items():
        storage = (str(tensor.device), tensor.untyped_storage().data_ptr())
        tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format) if storage in seen \
            else tensor.detach().contiguous()
        seen.add(storage)
    return tensors


def _classes_in(path: Path, model: str) -> int | None:
    """Number of classes of the classifier in a safetensors file. None if it cannot be found."""
    if path.suffix != '.safetensors':
        return None
    names = timm.create_model(model, device='meta').classifier_keys()
    try:
        with safe_open(path, 'pt') as file:
            counts = {file.get_slice(name).get_shape()[0] for name in names if name in file.keys()}
    except Exception:  # noqa: BLE001 - a file that is none is refused where it is loaded
        return None
    return counts.pop() if len(counts) == 1 else None


def _send(push: Push, folder: str, private: bool, message: str, keep_card: bool, token: str | None) -> Push:
    """Makes the repository and the branch if they are missing, commits the files and tags the commit.

    Raises:
        HubError: A step failed. The message says what is visible on the Hub.
    """
    api = HfApi(token=token, library_name='flatzoo', library_version=__version__)
    with Watch(push.repo_id) as watch:
        visible = 'Nothing of the push is visible.'
        try:
            # A first request, with a short deadline and without retries: does the Hub answer, and accept the token?
            user = watch.step('asking for the account', api.whoami, deadline())
            if not isinstance(user, dict) or 'name' not in user:
                raise HubUnwell(f'{constants.ENDPOINT} names no account for the token, as no Hub does: {PORTAL}.')
            visible = _prepare(push, api, watch, private, visible)
            names = list(push.files)
            if keep_card and watch.step('looking for a card', lambda: api.file_exists(
                    push.repo_id, CARD, revision=push.revision), 3 * deadline()):
                names.remove(CARD)
            push = dataclasses.replace(push, files={name: push.files[name] for name in names})
            push = _commit(push, api, watch, folder, message, visible)
        except _Told:
            raise
        except Exception as error:  # noqa: BLE001 - the client raises its own, those of its HTTP library and OSError
            raise HubError(f'{_reason(error, push, token)} {visible}') from error
        if push.tag is not None:
            _tag(push, api, watch, token)
    return push


class _Told(HubError):
    """An error whose text already says what is visible."""


def _prepare(push: Push, api: HfApi, watch: Watch, private: bool, visible: str) -> str:
    """Makes the repository and the branch if they are missing. Returns what of the push is then visible."""
    repo_id, ask = push.repo_id, functools.partial(watch.step, seconds=3 * deadline())
    is_new = not ask('looking for the repository', lambda: api.repo_exists(repo_id))
    try:
        ask('making the repository', lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        if is_new:
            visible = f'Of the push only the new, empty repository {repo_id} is visible.'
        if private and not ask('looking whether it is private', lambda: api.model_info(
                repo_id, timeout=2 * deadline())).private:
            raise HubError(
                f'{repo_id} is there already and is public. Make it private in its settings, choose another name, or '
                'push without private.')
        refs = ask('looking for branches', lambda: api.list_repo_refs(repo_id))
        if push.tag in [ref.name for ref in refs.tags]:
            raise HubError(f'{repo_id} has a tag {push.tag} already. Choose another, or delete it there first.')
        if push.revision in [ref.name for ref in refs.tags]:
            raise HubError(
                f'{repo_id}: {push.revision} is a tag there, and only branches take commits. Choose another.')
        if push.revision not in [ref.name for ref in refs.branches] and push.revision != 'main':
            ask('making the branch', lambda: api.create_branch(repo_id, branch=push.revision, exist_ok=True))
            if not is_new:
                visible = f'Of the push only the new branch {push.revision} is visible, without its files.'
    except Exception as error:  # noqa: BLE001 - as in _send
        if is_new and visible.startswith('Nothing'):  # it may have been made although the answer was lost
            visible = f'Of the push, at most the new, empty repository {repo_id} is visible.'
        raise _Told(f'{_reason(error, push, api.token)} {visible}') from error
    return visible


def _commit(push: Push, api: HfApi, watch: Watch, folder: str, message: str, visible: str) -> Push:
    """Uploads and commits the files. If the answer is lost, the branch shows whether the commit arrived."""
    operations = [CommitOperationAdd(name, os.path.join(folder, name)) for name in push.files]
    try:
        commit = watch.step('uploading and committing', lambda: api.create_commit(
            push.repo_id, operations, commit_message=message, revision=push.revision))
        return dataclasses.replace(push, commit=commit.oid, url=str(commit.commit_url))
    except Exception as error:  # noqa: BLE001 - as in _send
        if not watch.sent_commit:
            raise
        reason = _reason(error, push, api.token)
        try:
            head = watch.step('looking what the branch has', lambda: _head_with(push, api, folder), 3 * deadline())
        except Exception as second:  # noqa: BLE001
            raise _Told(
                f'{reason} The commit was sent, and whether it is visible cannot be asked '
                f'({_reason(second, push, api.token)[:-1]}). Look at {constants.ENDPOINT}/{push.repo_id}/commits/'
                f'{push.revision} before you push again.') from error
        if head is None:
            raise _Told(
                f'{reason} {visible} The branch {push.revision} was asked just now and has none of it.') from error
        _logger.warning(f'{reason} The commit arrived all the same: {push.revision} has the files, commit {head}.')
        return dataclasses.replace(push, commit=head, url=f'{constants.ENDPOINT}/{push.repo_id}/commit/{head}')


def _head_with(push: Push, api: HfApi, folder: str) -> str | None:
    """The last commit of the branch. None if its files are not those of the push."""
    head = api.repo_info(push.repo_id, revision=push.revision, timeout=2 * deadline()).sha
    there = {file.path: file for file in api.get_paths_info(push.repo_id, list(push.files), revision=head)}
    for name, (_, sha256) in push.files.items():
        if name not in there:
            return None
        content = Path(folder, name)
        known, found = (there[name].lfs.sha256, sha256) if there[name].lfs else (
            there[name].blob_id, hashlib.sha1(b'blob %d\0' % content.stat().st_size + content.read_bytes()).hexdigest())
        if known != found:
            return None
    return head


def _tag(push: Push, api: HfApi, watch: Watch, token: str | None) -> None:
    """Tags the commit and checks the tag, since an answer can be lost, or another person can make the same tag."""
    reason, lost = '', None
    try:
        watch.step('tagging', lambda: api.create_tag(push.repo_id, tag=push.tag, revision=push.commit), 3 * deadline())
    except Exception as error:  # noqa: BLE001 - as in _send
        reason, lost = f' ({_reason(error, push, token)[:-1]})', error
    there = f'The commit {push.commit} is visible on {push.revision} of {push.repo_id}: {push.url}.'
    by_hand = f'hf repo tag create {push.repo_id} {push.tag} --revision {push.commit}'
    try:
        refs = watch.step('looking for the tag', lambda: api.list_repo_refs(push.repo_id), 3 * deadline())
        found = {ref.name: ref.target_commit for ref in refs.tags}.get(push.tag)
    except Exception as error:  # noqa: BLE001 - as in _send
        reason = reason or f' ({_reason(error, push, token)[:-1]})'
        raise HubError(
            f'{there} Whether it has the tag {push.tag} cannot be asked{reason}. Look there; if it is missing: '
            f'{by_hand}') from lost or error
    if found is None:
        raise HubError(f'{there} It has no tag {push.tag}{reason}. Make it: {by_hand}') from lost
    if found != push.commit:
        raise HubError(f'{there} The tag {push.tag} is there and points to {found}; somebody else made it{reason}.')


def _reason(error: Exception, push: Push, token: Any) -> str:
    """The reason of a failure, as a full sentence."""
    text = str(error) if type(error) is HubError else explain(error, push.repo_id, token, action='push')
    return text if text.endswith(('.', '!', '?')) else f'{text}.'


def _measure(path: Path) -> tuple[int, str]:
    with open(path, 'rb') as file:
        return path.stat().st_size, hashlib.file_digest(file, 'sha256').hexdigest()


def _one_line(text: Any) -> str:
    """A value of a configuration as text for a card. A foreign one may contain line breaks, tags and links."""
    return re.sub(r'([\\`*\[\]<>|#])', r'\\\1', printable(text, 200))


def _card(model: VideoModel, repo_id: str, protocol: EvalProtocol | None) -> str:
    """A short card: what the model is and how to use it. It invents no facts that only the trainer knows."""
    cfg = model.pretrained_cfg
    data = ModelCardData(
        license=cfg.get('license'), library_name='flatzoo', pipeline_tag='video-classification',
        tags=['flatzoo', 'timm', 'video', 'action-recognition'])
    summary = (inspect.getdoc(timm.model_entrypoint(cfg['architecture'])) or '').partition('\n')[0]
    protocol = protocol or eval_protocol(model)
    (height, width), layout = model.img_size, model.layout
    scores = several = ''
    if model.multi_label:
        scores = 'scores = logits.sigmoid()  # each class by itself: a clip may have several\n'
        several = ', of which a clip may have several (sigmoid scores, no softmax)'
    ids = cfg.get('paper_ids') or ()
    papers = ', '.join(_one_line(text) for text in (ids if isinstance(ids, (list, tuple)) else [ids])[:8])
    paper = f'\nPaper: {_one_line(cfg["paper_name"])}, {papers}.\n' if cfg.get('paper_name') else ''
    return (
        f'---\n{data.to_yaml()}\n---\n\n# {repo_id}\n\n`{cfg["architecture"]}` of flatzoo: {summary}\n{paper}\n'
        f"```python\nimport timm, flatzoo\n\nmodel = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()\n"
        f'logits = model(clip)  # clip: (B, {model.in_chans}, {model.num_frames}, {height}, {width}), float normalised '
        f'or uint8\n{scores}```\n\nOr, on video files: `flatzoo predict clip.mp4 --model hf-hub:{repo_id}`.\n\n'
        f'## Evaluation\n\n{model.num_classes} classes{several}; {model.num_frames} frames of {height}x{width} pixels, '
        f'layout `{layout}`; {protocol.sampling} sampling, {protocol.num_clips} clip(s) x {protocol.num_crops} '
        f'crop(s), fit {protocol.fit}, logits averaged.\n\n'
        '## Training data, accuracy and limits\n\nNot stated by whoever pushed this model.\n'
    )
