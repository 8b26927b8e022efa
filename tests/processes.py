"""Processes of tests that need no fresh interpreter: forked from a server that has imported everything."""
import contextlib
import multiprocessing
import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FORKSERVER = multiprocessing.get_context('forkserver')
"""Of its processes each begins in milliseconds. One that imports torch and timm anew takes five seconds of a core."""
FORKSERVER.set_forkserver_preload(['flatzoo.cli', 'flatzoo.hub', 'flatzoo.train.loop', 'timm'])


class Process:
    """A function that runs in a process of its own; what it prints goes into files.

    Args:
        folder: A new folder for what the process prints.
        function: A function of a module that can be imported. What it raises ends the process with 1.
        *args: Its arguments.
        env: Environment variables of the process. Modules that were imported already have read theirs.
    """

    def __init__(self, folder, function, *args, env=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self._process = FORKSERVER.Process(target=_run, args=(str(folder), function, args, env or {}))
        self._process.start()

    def wait(self, seconds=600) -> SimpleNamespace:
        """Waits for its end: `returncode`, `stdout`, `stderr`. A process that does not end is killed."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self.kill()
        texts = {name: (self.folder / name).read_text() for name in ('stdout', 'stderr')}
        return SimpleNamespace(returncode=self._process.exitcode, **texts)

    def kill(self) -> None:
        """Ends the process without warning."""
        self._process.kill()
        self._process.join()

    def terminate(self) -> None:
        """Asks the process to end."""
        self._process.terminate()

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()


def _run(folder, function, args, env):
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR may be another one now
    torch.set_num_threads(1)
    function(*args)


def free_port() -> int:
    """A port at which nobody listens now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def run_code(code):
    """Runs code as a script."""
    exec(compile(code, 'script', 'exec'), {'__name__': '__main__'})


def on_hub(url, token, home, function, *args):
    """Calls a function in a process whose client speaks to a test Hub, with a cache of its own in the folder `home`."""
    from fake_hub.client import connect

    with pytest.MonkeyPatch.context() as patch:
        connect(patch, SimpleNamespace(url=url, token=token), Path(home))
        function(*args)
