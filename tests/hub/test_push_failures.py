"""What a push says when something goes wrong: the reason, and what of it is visible on the Hub."""
import logging
import threading
import time

import pytest
from fake_hub.client import served_hub, small_model
from fake_hub.server import Fault
from huggingface_hub import HfApi, constants

import flatzoo
from flatzoo.hub.push import push_to_hub
from flatzoo.weights.hub_session import Watch, within

PAGE = ('text/html; charset=utf-8', '<html><title>Log in</title></html>')
NULL = ('application/json', 'null')
CUT = ('application/json', '{"name": "al')
HIDDEN = 'Nothing of the push is visible.'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with served_hub(tmp_path, monkeypatch) as server:
        push_to_hub(small_model(), 'alice/net')
        yield server


def head():
    return HfApi().model_info('alice/net').sha


def tags():
    return {ref.name: ref.target_commit for ref in HfApi().list_repo_refs('alice/net').tags}


def refusal(**kwargs):
    with pytest.raises(flatzoo.HubError) as caught:
        push_to_hub(small_model(1), 'alice/net', **kwargs)
    return str(caught.value)


@pytest.mark.parametrize('fault', [
    Fault('POST .*/commit/', drop='after'),
    Fault('POST .*/tag/', drop='after'),
])
def test_a_lost_answer(fault, hub, caplog):
    """Only the answer is lost: the branch and the tag are asked, and the push is what they say."""
    before = head()
    hub.faults.append(fault)
    push = push_to_hub(small_model(1), 'alice/net', tag='v2')
    assert push.commit == head() != before and tags() == {'v2': push.commit}
    assert push.url.endswith(f'/alice/net/commit/{push.commit}')
    assert ('arrived all the same' in caplog.text) == ('commit' in fault.match)


def test_a_lost_answer_and_a_lost_hub(hub):
    hub.faults += [Fault('POST .*/commit/', drop='after'), Fault('GET .*/revision/', drop='before')]
    says = refusal()
    assert HIDDEN not in says and 'whether it is visible cannot be asked' in says and '/alice/net/commits/main' in says


@pytest.mark.parametrize('fault', [
    Fault('POST .*/commit/', drop='before'),
    Fault('POST .*/commit/', status=500),
    Fault('POST .*/commit/', answer=NULL),
    Fault('POST .*/commit/', answer=PAGE),
])
def test_a_lost_commit(fault, hub):
    before = head()
    hub.faults.append(fault)
    says = refusal(tag='v2')
    assert head() == before and not tags() and HIDDEN in says and 'was asked just now and has none of it' in says


@pytest.mark.parametrize('fault', [
    Fault('POST .*/tag/', drop='before'),
    Fault('POST .*/tag/', status=403),
    Fault('POST .*/tag/', answer=NULL),
    Fault('POST .*/tag/', answer=PAGE),
])
def test_a_lost_tag(fault, hub):
    hub.faults.append(fault)
    says = refusal(tag='v2')
    assert HIDDEN not in says and f'The commit {head()} is visible on main' in says and 'has no tag v2' in says
    assert f'hf repo tag create alice/net v2 --revision {head()}' in says and not tags()


def test_what_is_made_on_the_way(hub):
    """A repository or branch that the push made is there, though it has no files."""
    hub.faults.append(Fault('PUT /lfs/', status=400))
    assert 'only the new branch side is visible' in refusal(revision='side')
    with pytest.raises(flatzoo.HubError, match='only the new, empty repository alice/new is visible'):
        push_to_hub(small_model(1), 'alice/new')


@pytest.mark.parametrize('fault, says', [
    (Fault('PUT /lfs/', status=403), 'answers with error 403 (A fault of the test Hub)'),
    (Fault('PUT /lfs/', status=400), 'answers with error 400 (A fault of the test Hub)'),
    (Fault('PUT /lfs/', answer=PAGE), 'answers with a web page'),
    (Fault('lfs/verify', status=422), 'refuses with error 422 (A fault of the test Hub)'),
    (Fault('objects/batch', status=413), 'refuses with error 413'),
    (Fault('objects/batch', answer=('application/json', '{"objects": [{"oid": "1", "size": 1, "error": {"code": 422, '
                                    '"message": "quota exceeded"}}]}')), 'quota exceeded'),
])
def test_lfs_errors_name_their_cause(fault, says, hub):
    hub.faults.append(fault)
    text = refusal()
    assert says in text and HIDDEN in text
    assert ('model.safetensors of alice/net' in text) == ('batch' not in fault.match)


@pytest.mark.parametrize('answer', [PAGE, NULL, CUT, ('text/plain', 'Please log in')])
@pytest.mark.parametrize('match', ['', 'whoami', '/refs', 'preupload', 'objects/batch'])
def test_captive_portals(match, answer, hub):
    hub.faults.append(Fault(match, answer=answer))
    says = refusal()
    assert 'as no Hub does' in says and 'log in to this network (a captive portal)' in says and HIDDEN in says


@pytest.mark.parametrize('answer', [PAGE, NULL, CUT])
def test_captive_portals_of_a_pull(answer, hub, tmp_path):
    hub.faults.append(Fault(answer=answer))
    with pytest.raises(flatzoo.HubError, match=r'as no Hub does: log in to this network \(a captive portal\)'):
        flatzoo.pull('alice/net', cache_dir=tmp_path / 'cache')


@pytest.mark.parametrize('match', ['whoami', 'preupload', 'PUT /lfs/', 'POST .*/commit/'])
@pytest.mark.parametrize('headers', [{'Retry-After': '3600'}, {'RateLimit': '"api";r=0;t=3600'}])
def test_a_hub_that_asks_to_wait(headers, match, hub):
    hub.faults.append(Fault(match, status=429, headers=headers))
    start = time.monotonic()
    says = refusal()
    assert 'error 429 and asks to wait for 1 hour' in says and HIDDEN in says and time.monotonic() - start < 600


def test_pull_does_not_wait_either(hub, tmp_path):
    hub.faults.append(Fault('GET .*model.safetensors', status=503, headers={'Retry-After': '3600'}))
    start = time.monotonic()
    with pytest.raises(flatzoo.HubError, match='asks to wait for 1 hour'):
        flatzoo.pull('alice/net', cache_dir=tmp_path / 'cache')
    assert time.monotonic() - start < 600  # of 3600


@pytest.mark.parametrize('match', ['repos/create', '/refs', 'POST .*/tag/'])
def test_every_step_has_a_deadline(match, hub, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', 0.5)
    hub.faults.append(Fault(match, delay=4))
    assert 'no answer within 1.5 s' in refusal(tag='v2')


def test_a_long_step_shows_a_sign_of_life(monkeypatch, caplog):
    clock = [0.]
    monkeypatch.setattr('flatzoo.weights.hub_session.time.monotonic', lambda: clock[0])
    done = threading.Event()

    def tick(passed):
        clock[0] += 10
        if clock[0] > 40:
            done.set()
        original(passed)

    def watched(seconds, call, tick_of_step):
        nonlocal original
        original = tick_of_step
        return within(seconds, call, tick)

    original = None
    monkeypatch.setattr('flatzoo.weights.hub_session.within', watched)
    with caplog.at_level(logging.WARNING), Watch('alice/net') as watch:
        assert watch.step('uploading', lambda: done.wait(20)) is True
    assert 'alice/net: uploading, 20 s so far' in caplog.text


@pytest.mark.parametrize('etag', ['../../../escaped', '..', 'a/b', 'C:\\escaped'])
def test_digests_that_are_paths(etag, hub, tmp_path):
    """The client names files of its cache by what a server calls an ETag."""
    hub.faults.append(Fault('HEAD .*', etag=etag))
    with pytest.raises(flatzoo.HubError, match='is the path of a file and no digest'):
        flatzoo.pull('alice/net', cache_dir=tmp_path / 'cache' / 'in' / 'here')
    assert not [path for path in tmp_path.rglob('*') if 'escaped' in path.name]


def test_sessions_are_left_as_they_were(hub):
    from huggingface_hub.utils import get_session

    session = get_session()
    timeout, hooks = session.timeout, session.event_hooks['request']
    push_to_hub(small_model(1), 'alice/net')
    assert get_session() is session and session.timeout == timeout and session.event_hooks['request'] == hooks


def test_a_card_quotes_what_a_configuration_says(hub):
    model = small_model(1)
    model.pretrained_cfg = dict(
        model.pretrained_cfg, paper_name='A\n---\n# <b>Title</b>\x1b[2J', paper_ids=['x\ny', '[a](b)'])
    push_to_hub(model, 'alice/other')
    card = open(HfApi().hf_hub_download('alice/other', 'README.md'), encoding='utf-8').read()
    assert '\\\\n---\\\\n\\# \\<b\\>Title' in card and '\x1b' not in card and 'x\\\\ny, \\[a\\](b)' in card
