"""The audit ranks models of which the answer is known: one that uses order, a mean over frames, and a single frame."""
import time

import pytest

from flatzoo.evaluation.audit.run import rank_models


@pytest.mark.slow
def test_known_models_are_ranked():
    from benchmarks.learning.audit_on_actions import EXPECTED, main

    start = time.process_time()
    audits = main([])
    assert all(found.verdict.level in EXPECTED[name] for name, found in audits.items())
    ranking = rank_models(list(audits.values()))
    assert [row['name'] for row in ranking] == list(EXPECTED)
    assert ranking[1]['p'] < 0.01  # 160 clips do not tell the mean over frames from the best frame
    assert time.process_time() - start < 600
