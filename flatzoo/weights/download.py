"""Downloads weight files with a deadline, and checks them before anything reads them.

`huggingface_hub` downloads and caches. This module adds three things. One first request with a deadline avoids the
silent retries of the client (half a minute without a network). A new file is compared with the digest that the Hub
states, because over plain HTTP the client only checks the length. Each error of the client becomes one sentence that
says what to do.
"""
import contextlib
import hashlib
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from flatzoo.console.text import printable
from flatzoo.version import __version__

from .hub_session import PORTAL, HubError, HubUnwell, deadline, guard_session, within

__all__ = [
    'WEIGHT_FILES', 'check_file', 'deadline', 'explain', 'fetch', 'fetch_first', 'fetch_url',
    'fetch_weights', 'is_offline', 'split_name', 'within',
]

WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')  # in the order in which they are looked for

_logger = logging.getLogger(__name__)
_CLIENT = dict(library_name='flatzoo', library_version=__version__)
_COMMIT = re.compile('[0-9a-f]{40}')
_NETWORK = ('httpx', 'httpx2', 'httpcore', 'httpcore2', 'requests', 'urllib3', 'urllib', 'http')  # and OSError


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids requests to the Hub."""
    return constants.HF_HUB_OFFLINE


def split_name(name: str) -> tuple[str, str | None]:
    """Repository and revision of `org/name` or `org/name@revision`; both may have `hf-hub:` in front.

    Raises:
        HubError: If it is none of these.
    """
    repo_id, _, revision = name.removeprefix('hf-hub:').removeprefix('hf_hub:').partition('@')
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', repo_id) or ('@' in name and not revision):
        raise HubError(f"{name!r} is not a repository of the Hub. Give 'org/name' or 'org/name@revision'.")
    return repo_id, revision or None


def fetch(
        repo_id: str,
        filename: str,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
) -> Path:
    """A file of a repository. It comes from the cache if that is up to date; otherwise it is downloaded and checked.

    Args:
        repo_id: `org/name`.
        filename: Path of the file in the repository.
        revision: Branch, tag or commit; the main branch if None.
        token: Access token; by default the one that `huggingface_hub` knows.
        cache_dir: Folder of the cache; that of `huggingface_hub` if None.

    Returns:
        Path in the cache, in a folder that is named after the commit. Without a network it is the last cached copy.

    Raises:
        HubError: The file cannot be downloaded, or is damaged. A damaged file is not kept.
        EntryNotFoundError: If the repository has no such file.
    """
    cached = _cached(repo_id, filename, revision, cache_dir)
    if cached is not None and (is_offline() or _COMMIT.fullmatch(revision or '')):
        return cached
    what = f'{filename} of {repo_id}' + (f'@{revision}' if revision else '')
    if is_offline():
        raise HubError(
            f'{what} is not in the cache ({cache_dir or constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to ask '
            'the Hub. Unset HF_HUB_OFFLINE, or pull the model where there is a network.')
    try:
        url = hf_hub_url(repo_id, filename, revision=revision)
        guard_session()
        known = within(deadline(), lambda: get_hf_file_metadata(url, token=token, timeout=deadline(), **_CLIENT))
        new = _cached(repo_id, filename, known.commit_hash, cache_dir) is None
        path = Path(hf_hub_download(
            repo_id, filename, revision=revision, token=token, cache_dir=cache_dir, **_CLIENT))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the network failed after the first request
            raise HubError(explain(error, what, token)) from error
        raise
    except Exception as error:  # noqa: BLE001 - the client raises its own, those of its HTTP library and OSError
        if cached is not None and _may_pass(error):
            _logger.warning(f'{constants.ENDPOINT} does not answer ({_brief(error)}): {what} is the cached copy.')
            return cached
        raise HubError(explain(error, what, token)) from error
    if new:
        check_file(path, known.etag, what)
    return path


def fetch_first(repo_id: str, filenames: Sequence[str], revision: str | None = None, **kwargs: Any) -> Path:
    """The first of some files that a repository has, see `fetch`.

    Raises:
        HubError: As in `fetch`, or the repository has none of the files.
    """
    if is_offline():  # the Hub cannot be asked what it has
        cached = [name for name in filenames if _cached(repo_id, name, revision, kwargs.get('cache_dir'))]
        return fetch(repo_id, (cached or filenames)[0], revision, **kwargs)
    for filename in filenames:
        with contextlib.suppress(EntryNotFoundError):
            return fetch(repo_id, filename, revision, **kwargs)
    of = f'{repo_id}@{revision}' if revision else repo_id
    raise HubError(
        f'{of} has no {" and no ".join(filenames)}: flatzoo or timm did not save it. Check the name.')


def fetch_url(url: str, cache_dir: str | Path | None = None) -> Path:
    """A file from an address, in torch's cache. Its length is compared with the one that the server states.

    Raises:
        HubError: The file cannot be downloaded, or is incomplete. An incomplete file is not kept.
    """
    folder = Path(cache_dir) if cache_dir else Path(torch.hub.get_dir(), 'checkpoints')
    path = folder / os.path.basename(urllib.parse.urlparse(url).path)
    if path.exists():
        return path
    try:
        size = within(deadline(), lambda: _content_length(url))
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, ValueError) as error:
        raise HubError(
            f'{url} cannot be downloaded ({_brief(error)}). Check the network, or download it yourself and give the '
            "file with pretrained_cfg_overlay=dict(file='...').") from error
    if size is not None and path.stat().st_size != size:
        got = path.stat().st_size
        path.unlink()
        raise HubError(f'{url} arrived incomplete: {got} of {size} bytes. It was not kept; try again.')
    return path


def fetch_weights(cfg: Any, cache_dir: str | Path | None = None, revision: str | None = None) -> Path | None:
    """The file with the weights that timm would load for a configuration.

    Args:
        cfg: timm's `PretrainedCfg`.
        cache_dir: Folder of the cache.
        revision: Revision in place of the configuration's own.

    Returns:
        Path of the file. None if there is nothing to fetch: the weights are in memory, in a file, or there are none.

    Raises:
        HubError: The weights cannot be downloaded.
    """
    if cfg.source == 'local-dir':
        files = (Path(cfg.file) / name for name in WEIGHT_FILES)
        return next((file for file in files if file.is_file()), None)
    if cfg.source != 'hf-hub' and (cfg.state_dict or cfg.file):
        return None
    if cfg.hf_hub_id:
        repo_id, own_revision = split_name(cfg.hf_hub_id)
        files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else WEIGHT_FILES
        return fetch_first(repo_id, files, revision or own_revision, cache_dir=cache_dir)
    return fetch_url(cfg.url, cache_dir) if cfg.url else None


def check_file(path: Path, digest: str | None = None, what: str | None = None) -> str | None:
    """Compares a file of the cache with the digest under which the Hub knows it, and removes it if they differ.

    Args:
        path: The file in the cache.
        digest: The digest, sha256 or git's sha1. None takes it from the cache, if its file is a link: the target of the
            link is named after the digest.
        what: Name of the file in error messages.

    Returns:
        Its digest. None if there is no digest to compare with.

    Raises:
        HubError: If they differ. The message has both digests.
    """
    path = Path(path)
    link = os.readlink(path) if path.is_symlink() else ''
    if os.path.basename(os.path.dirname(link)) == 'blobs':  # a link that the cache made, and not the user
        digest = os.path.basename(link)
    if digest is None or not re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', digest):
        return None
    found = _digest(path, digest)
    if found == digest:
        return digest
    size = path.stat().st_size
    _remove(path)
    raise HubError(
        f'{what or path} is damaged: its {"sha256" if len(digest) == 64 else "git sha1"} should be {digest} and is '
        f'{found} ({size} bytes). It was removed from the cache ({path}); download it again.')


def explain(
        error: BaseException,
        what: str,
        token: str | bool | None = None,
        action: Literal['pull', 'push'] = 'pull',
) -> str:
    """Explains an error of the Hub's client in one or two sentences.

    Args:
        error: The exception.
        what: Name of the requested repository or file.
        token: The token of the request, None if `huggingface_hub` chose one.
        action: `'pull'` or `'push'`.
    """
    hub = constants.ENDPOINT
    status = _status(error)
    has_token = bool(token) or token is None and get_token() is not None
    login = "'hf auth login' or HF_TOKEN gives one"
    while isinstance(error, RuntimeError) and status is None and error.__cause__ is not None:
        file = re.search(r"while uploading '([^']+)'", str(error))  # the client hides the reason behind this
        what, error = f'{file[1]} of {what}' if file else what, error.__cause__
        status = _status(error)
    if isinstance(error, HubError):
        return f'{what}: {error}'
    if isinstance(error, HFValidationError):
        return f'{what}: {_brief(error)}'
    if isinstance(error, OfflineModeIsEnabled) or is_offline():
        return f'{what}: HF_HUB_OFFLINE forbids to ask the Hub. Unset it.'
    if isinstance(error, GatedRepoError):
        return f'{what}: access must be granted first, on its page at {hub}; then use a token of yours.'
    if isinstance(error, RepositoryNotFoundError):
        return (
            f'{what}: there is no such repository at {hub}, or it is private and '
            + ('your token does not open it.' if has_token else 'no token was given.')
            + f' Check the name; a private repository needs the token of a member ({login}).')
    if isinstance(error, RevisionNotFoundError):
        return f'{what}: the repository has no such branch, tag or commit. Check the part after @.'
    if status is None and 'X-Repo-Commit' in str(error):  # the answer lacks the headers that a Hub sends for each file
        return f'{what}: {hub} gives an answer as no Hub does: {PORTAL}.'
    if isinstance(error, LocalEntryNotFoundError) or status is None and _is_network(error):
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        return (
            f'{what}: {_server(cause) or hub} cannot be reached ({_brief(cause)}). Check the network, the proxy and '
            'HF_ENDPOINT, and try again.')
    storage = _server(error)
    if status is not None and storage is not None:  # large files go to another host, by a signed address
        return (
            f'{what}: the storage of {hub} at {storage} answers with error {status} ({_brief(error)}). '
            'Try again. If the error stays, only the Hub can repair it.')
    if status == 401:
        return f'{what}: {hub} does not accept the token. Replace it: {login}.'
    if status == 403:
        return f'{what}: the token may not do this ({_brief(error)}). Use one of a member with write access: {login}.'
    if status is not None and (status == 429 or status >= 500):
        return f'{what}: {hub} answers with error {status} ({_brief(error)}). Try again later.'
    if status == 404:  # a Hub would say what is missing
        return f'{what}: {hub} answers with error 404, as no Hub does. Check HF_ENDPOINT and the proxy.'
    if sizes := re.search(r'should be of size (\d+) but has size (\d+)', str(error)):
        return f'{what} arrived incomplete: {sizes[2]} of {sizes[1]} bytes. It was not kept; try again.'
    if status is not None:
        return f'{what}: {hub} refuses with error {status} ({_brief(error)}).'
    if 'LFS batch API returned errors' in str(error):
        return f'{what}: {hub} does not take the file ({_brief(error)}).'
    if isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):  # the client cannot read an answer
        return f'{what}: {hub} gives an answer as no Hub does ({type(error).__name__}: {_brief(error)}): {PORTAL}.'
    return f'{what}: {_brief(error)}'


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, 'response', None), 'status_code', None)


def _server(error: BaseException) -> str | None:
    """The host that an error is about. None if it is the Hub itself or unknown."""
    try:
        answer = getattr(error, 'response', None)  # its truth value is False for error answers
        url = (error if answer is None else answer).request.url
        host, port = url.host, url.port
    except (AttributeError, RuntimeError):  # of another library, or without a request
        return None
    hub = urllib.parse.urlparse(constants.ENDPOINT)
    return None if host == hub.hostname else f'{host}:{port}' if port else host


def _cached(repo_id: str, filename: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    path = try_to_load_from_cache(repo_id, filename, cache_dir=cache_dir, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _is_network(error: BaseException) -> bool:
    of_client = type(error).__module__.partition('.')[0] in _NETWORK
    return of_client or isinstance(error, (ConnectionError, TimeoutError, urllib.error.URLError))


def _may_pass(error: BaseException) -> bool:
    """Whether an error is not about the file: the Hub cannot be reached, or it fails."""
    status = _status(error)
    if isinstance(error, HubUnwell):
        return True
    return _is_network(error) if status is None else status == 429 or status >= 500


def _brief(error: BaseException) -> str:
    """An error in one line, without the addresses and request numbers of the Hub's client."""
    text = getattr(error, 'server_message', None) or str(error).strip() or type(error).__name__
    if re.match(r'\s*<', text):  # the storage answers in XML, a proxy with a page
        parts = re.findall(r'<(?:Code|Message|title|h1)>([^<]*)<', text, re.IGNORECASE)
        text = ': '.join(dict.fromkeys(parts)) or re.sub(r'<[^>]*>', ' ', text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(' '.join(lines[:2]), 300)


def _content_length(url: str) -> int | None:
    """Length that a server states. None if it states none, or does not accept HEAD requests."""
    try:
        request = urllib.request.Request(url, method='HEAD', headers={'User-Agent': f'flatzoo/{__version__}'})
        with urllib.request.urlopen(request, timeout=deadline()) as response:
            length = response.headers.get('Content-Length')
    except urllib.error.HTTPError as error:
        if error.code in (403, 405, 501):
            return None
        raise
    return int(length) if length else None


def _digest(path: Path, like: str) -> str:
    with open(path, 'rb') as file:
        if len(like) == 64:
            return hashlib.file_digest(file, 'sha256').hexdigest()
        # a file in git is known by the digest of its length and content
        return hashlib.sha1(b'blob %d\0' % path.stat().st_size + file.read()).hexdigest()


def _remove(path: Path) -> None:
    """Removes a file of the cache and the links that lead to it, so that the next download is a new one."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
