"""The tests that are marked `gpu`, which no machine without one runs."""
import os
from importlib.util import find_spec
from pathlib import Path

from .context import Context, write_facts

__all__ = ['run']

ROOT = Path(__file__).parents[3]
ORDER = ('attention_flow', 'inference', 'full_size')  # most telling first, the others behind them
REHEARSED = 'test_full_size.py'


class Recorder:
    """Writes down what became of each test, as soon as it is known."""

    def __init__(self, context: Context):
        self.context, self.outcomes = context, {}

    def pytest_collection_finish(self, session) -> None:
        write_facts(self.context.out, tests={item.nodeid: 'not reached' for item in session.items})
        self.outcomes = {item.nodeid: 'not reached' for item in session.items}

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            last = str(report.longrepr).strip().splitlines()[-1]
            self.context.note('failed', f'tests of {report.nodeid} cannot be collected: {last[:300]}')

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == 'call' or report.outcome != 'passed':
            self.outcomes[report.nodeid] = report.outcome
            write_facts(self.context.out, tests=self.outcomes)
            print(report.nodeid, report.outcome, f'{report.duration:.1f} s', flush=True)
            if report.failed:
                print(report.longreprtext, flush=True)


def run(context: Context) -> None:
    """Runs them in this process; in a rehearsal they are only collected."""
    if find_spec('pytest') is None:
        context.note('left out', 'GPU tests: pytest is not installed')
        return
    import pytest

    files = [path for path in sorted((ROOT / 'tests').rglob('test_*.py')) if 'mark.gpu' in path.read_text()]
    files.sort(key=lambda path: next((i for i, name in enumerate(ORDER) if name in path.name), len(ORDER)))
    options = ['-o', 'addopts=', '-m', 'gpu', '--continue-on-collection-errors', '-p', 'no:cacheprovider', '--tb=long']
    if context.rehearse:
        files, options = [path for path in files if path.name == REHEARSED], [*options, '--collect-only']
    elif find_spec('pytest_timeout'):
        options += ['--timeout', '60']
    os.chdir(ROOT)
    code = pytest.main([*options, f'--rootdir={ROOT}', *map(str, files)], plugins=[Recorder(context)])
    print('pytest ended with', code, flush=True)
