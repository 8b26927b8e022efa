"""The audit ranks models of which the answer is known: one that uses order, a mean over frames, and a single frame."""
import time

import pytest

from flatzoo.evaluation.audit.run import rank_models


@pytest.mark.slow
def test_known_models_are_ranked():
    from benchmarks.learning.audit_on_actions import EXPECTED, main

    start = time.process_time()
    audits = main([])
    assert {name: found.verdict.level for name, found in audits.items()} == EXPECTED
    ranking = rank_models(list(audits.values()))
    assert [row['name'] for row in ranking] == list(EXPECTED)
    assert all(row['p'] < 0.01 for row in ranking[1:])
    assert time.process_time() - start < 600
