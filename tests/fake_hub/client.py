"""A test Hub for the client in this very process, and small models to push to it."""
import contextlib

import huggingface_hub
import timm
import torch
from huggingface_hub import constants

from .server import HubServer

huggingface_hub.utils.disable_progress_bars()  # they would stand among what commands print


def connect(monkeypatch, server, home):
    """Lets the client of this process speak to a server, with an empty cache and the token of its user."""
    huggingface_hub.close_session()  # its connections know the settings of before
    monkeypatch.setattr(constants, 'ENDPOINT', server.url)
    template = server.url + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(home / 'hub'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(home / 'token'))
    for name in ('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv('HF_TOKEN', server.token)


@contextlib.contextmanager
def served_hub(tmp_path, monkeypatch):
    """A Hub without repositories, for this process; user alice is logged in."""
    with HubServer(tmp_path / 'served') as server:
        connect(monkeypatch, server, tmp_path / 'home')
        yield server
    huggingface_hub.close_session()


def small_model(seed=0, **kwargs):
    """A video model of half a million parameters, in eval mode."""
    torch.manual_seed(seed)
    args = dict(backbone='test_resnet', num_frames=4, layout='2x2:column', img_size=32, num_classes=3)
    return timm.create_model('superimage', **dict(args, **kwargs)).eval()
