"""The operators of AM Flow: values, gradients, what holds for every input, and the ways to run them."""
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flatzoo.layers import attention_flow
from flatzoo.layers.attention_flow import attention_map_flow, attention_received

OPERATORS = (attention_map_flow, attention_received)
EAGER = ('reference', 'chunked')  # what runs everywhere


@pytest.fixture(params=[64, 500, 2 ** 17], ids=['rows', 'heads', 'whole'])
def chunks(request, monkeypatch):
    """Chunks of a few rows with a remainder, of whole maps of some heads, and of all heads, for the sizes used here."""
    monkeypatch.setitem(attention_flow.CHUNK_ELEMENTS, 'cpu', request.param)


def random_qk(batch=2, frames=4, heads=3, tokens=13, dim=5, dtype=torch.float64, seed=0):
    """Queries and keys as backbones give them: cut out of one tensor `[B * T, N, 3, heads, d]`."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(batch * frames, tokens, 3, heads, dim, dtype=torch.float64, generator=generator).to(dtype)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unflatten(1, (batch, frames)).unbind()
    return q, k  # [B, T, heads, N, d]


def outputs_and_gradients(operator, q, k, context=None, **options):
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    with context or nullcontext():
        out = operator(q, k, **options)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out).square()
    return out, *torch.autograd.grad((out * weights).sum(), (q, k))


@pytest.mark.parametrize('implementation', EAGER)
def test_values_are_those_of_the_equations(implementation):
    q, k = random_qk(batch=1, frames=3, heads=2)
    maps = torch.einsum('bthid,bthjd->bthij', q, k) * 0.3
    flow = attention_map_flow(q, k, scale=0.3, implementation=implementation)
    received = attention_received(q, k, scale=0.3, implementation=implementation)
    assert flow.shape == received.shape == (1, 3, 13, 2)
    for t in range(3):
        for head in range(2):
            of_one = maps[0, t, head].exp() / maps[0, t, head].exp().sum(1, keepdim=True)
            torch.testing.assert_close(received[0, t, :, head], of_one.sum(0))
            if t < 2:
                change = (maps[0, t, head] - maps[0, t + 1, head]).abs().exp()
                torch.testing.assert_close(flow[0, t, :, head], (change / change.sum(1, keepdim=True)).sum(0))
    assert torch.equal(flow[:, 2], flow[:, 1])


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('sizes', [
    dict(), dict(frames=2, tokens=1), dict(tokens=40), dict(batch=1, frames=2, heads=1, dim=1), dict(batch=0)], ids=str)
def test_chunks_equal_the_reference(operator, sizes, chunks):
    q, k = random_qk(**sizes)
    expected = outputs_and_gradients(operator, q, k, implementation='reference')
    for tensors in ((q, k), (q.contiguous(), k)):
        torch.testing.assert_close(outputs_and_gradients(operator, *tensors, implementation='chunked'), expected)
    one_frame = attention_received(q[:, :1], k[:, :1])
    torch.testing.assert_close(one_frame, attention_received(q, k)[:, :1])


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('implementation', EAGER)
def test_gradients(operator, implementation, monkeypatch):
    monkeypatch.setitem(attention_flow.CHUNK_ELEMENTS, 'cpu', 15)  # three of five rows
    q, k = (x.requires_grad_() for x in random_qk(batch=1, frames=3, heads=2, tokens=5, dim=3))
    assert torch.autograd.gradcheck(lambda q, k: operator(q, k, implementation=implementation), (q, k))


@pytest.mark.parametrize('implementation', EAGER)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('tokens', [49, 50, 197, 261])
def test_a_still_clip_gives_ones_and_no_gradient(implementation, dtype, tokens):
    q, k = (x.expand(-1, 3, -1, -1, -1) for x in random_qk(1, 1, 2, tokens, 64, dtype))
    flow, dq, dk = outputs_and_gradients(attention_map_flow, q, k, implementation=implementation)
    assert flow.dtype == dtype and (flow == 1).all()
    assert (dq == 0).all() and (dk == 0).all()


def test_a_still_clip_gives_ones_for_any_size(chunks):
    for tokens in range(1, 40):
        for dim in (1, 3, 7, 33):
            q, k = (x.expand(-1, 3, -1, -1, -1) for x in random_qk(1, 1, 3, tokens, dim, torch.float32))
            assert (attention_map_flow(q, k) == 1).all(), (tokens, dim)


@pytest.mark.parametrize('implementation', EAGER)
def test_only_pairs_that_move_have_flow(implementation):
    q, k = (x.clone() for x in random_qk(frames=5))
    q[:, 3:], k[:, 3:] = q[:, 2:3], k[:, 2:3]  # stands still from the third frame on
    flow = attention_map_flow(q, k, implementation=implementation)
    assert (flow[:, 2:] == 1).all() and (flow[:, :2] != 1).any((2, 3)).all()


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('implementation', EAGER)
def test_mean_over_tokens_is_one(operator, implementation):
    out = operator(*random_qk(tokens=50, dim=16), scale=3., implementation=implementation)
    assert out.min() >= 0 and out.max() > 2  # it is 1 although values differ much
    torch.testing.assert_close(out.mean(2), torch.ones_like(out[:, :, 0]))


def test_small_motion_keeps_its_digits():
    """The signal is a thousandth of 1; float32 keeps four digits of it."""
    q, k = random_qk(1, 1, 2, 257, 64, torch.float32)
    motion = 1e-3 * torch.randn(1, 2, 2, 257, 64, generator=torch.Generator().manual_seed(1))
    q, k = q + motion, k + motion
    exact = attention_map_flow(q.double(), k.double()) - 1
    assert 1e-5 < exact.abs().max() < 1e-2
    for implementation in EAGER:
        signal = attention_map_flow(q, k, implementation=implementation).double() - 1
        assert (signal - exact).abs().max() < 2e-7 and (signal - exact).norm() < 1e-3 * exact.norm()


def test_last_frame():
    q, k = random_qk()
    repeat, ones = attention_map_flow(q, k), attention_map_flow(q, k, last='ones')
    assert torch.equal(repeat[:, -1], repeat[:, -2]) and (ones[:, -1] == 1).all()
    assert torch.equal(repeat[:, :-1], ones[:, :-1])
    still = attention_map_flow(*(torch.cat((x, x[:, -1:]), 1) for x in (q, k)), last='ones')
    assert torch.equal(still[:, :-1], ones)


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('implementation', EAGER)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_float32(operator, implementation, dtype):
    """Results and gradients are those of the same numbers in float32, rounded once."""
    q, k = random_qk(tokens=50, dtype=dtype)
    half = outputs_and_gradients(operator, q, k, implementation=implementation)
    single = operator(q.float(), k.float(), implementation=implementation)
    assert torch.equal(half[0], single.to(dtype))
    for x in half:
        assert x.dtype == dtype
    exact = outputs_and_gradients(operator, q.double(), k.double(), implementation='reference')
    torch.testing.assert_close(half[1:], tuple(x.to(dtype) for x in exact[1:]), rtol=0.03, atol=0.01)


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('implementation', EAGER)
def test_autocast_changes_nothing(operator, implementation):
    q, k = random_qk(tokens=50, dtype=torch.float32)
    plain = outputs_and_gradients(operator, q, k, implementation=implementation)
    autocast = torch.autocast('cpu', dtype=torch.bfloat16)
    cast = outputs_and_gradients(operator, q, k, autocast, implementation=implementation)
    for x, y in zip(plain, cast):
        assert torch.equal(x, y)


@pytest.mark.parametrize('implementation', EAGER)
def test_compiled_without_breaks(implementation):
    q, k = random_qk(dtype=torch.float32)

    def both(q, k):
        flow = attention_map_flow(q, k, implementation=implementation)
        return torch.stack((flow, attention_received(q, k, implementation=implementation)))

    compiled = torch.compile(both, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(outputs_and_gradients(compiled, q, k), outputs_and_gradients(both, q, k))


@pytest.mark.parametrize('implementation', [*EAGER, 'triton', None])
def test_exported_with_any_batch(implementation):
    if implementation == 'triton':
        pytest.importorskip('triton')

    class Both(torch.nn.Module):
        def forward(self, q, k):
            received = attention_received(q, k, implementation=implementation)
            return attention_map_flow(q, k, implementation=implementation), received

    q, k = random_qk(dtype=torch.float32)
    batch = torch.export.Dim('batch', min=1, max=64)
    exported = torch.export.export(Both(), (q, k), dynamic_shapes=({0: batch}, {0: batch})).module()
    q, k = random_qk(batch=5, dtype=torch.float32)
    if implementation != 'triton':  # which is compiled for the CPU in a process of its own, below
        torch.testing.assert_close(exported(q, k), Both()(q, k))


@pytest.mark.parametrize('flow', [False, True])
def test_registered_operator(flow, chunks):
    for dtype in (torch.float32, torch.bfloat16):
        q, k = (x.requires_grad_() for x in random_qk(batch=1, frames=3, dtype=dtype))
        torch.library.opcheck(torch.ops.flatzoo.attention_columns, (q, k, 0.4, flow))


@pytest.mark.parametrize('operator', OPERATORS)
@pytest.mark.parametrize('implementation', [*EAGER, None])
def test_meta_device(operator, implementation):
    q, k = (x.to('meta').requires_grad_() for x in random_qk(dtype=torch.bfloat16))
    out = operator(q, k, implementation=implementation)
    assert out.is_meta and out.shape == (2, 4, 13, 3) and out.dtype == torch.bfloat16
    out.sum().backward()
    assert q.grad.shape == q.shape


@pytest.mark.parametrize('operator', OPERATORS)
def test_memory_does_not_hold_a_map(operator, monkeypatch, tmp_path):
    """Every allocation counted: forward and backward together need less than one map of one frame and head."""
    monkeypatch.setitem(attention_flow.CHUNK_ELEMENTS, 'cpu', 2 ** 12)
    q, k = random_qk(1, 3, 4, 600, 8, torch.float32)
    peaks = {}
    for implementation in EAGER:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            outputs_and_gradients(operator, q, k, implementation=implementation)
        profile.export_chrome_trace(str(tmp_path / 'trace.json'))
        trace = json.loads((tmp_path / 'trace.json').read_text())['traceEvents']
        peaks[implementation] = max(e['args']['Total Allocated'] for e in trace if e.get('name') == '[memory]')
    of_map = 4 * 600 ** 2
    assert peaks['chunked'] < of_map and peaks['reference'] > 3 * 4 * of_map


QK = (torch.zeros(1, 2, 3, 4, 5), torch.zeros(1, 2, 3, 4, 5))


@pytest.mark.parametrize('q, k, options, error, message', [
    (torch.zeros(2, 3, 4, 5), QK[1], {}, ValueError, r'q has shape \[2, 3, 4, 5\]; .*\(B, T, heads, N, d\)'),
    (QK[0], torch.zeros(2, 3, 4, 5), {}, ValueError, 'k has shape'),
    (QK[0], torch.zeros(1, 2, 3, 6, 5), {}, ValueError, 'differ; every token has a query and a key'),
    (torch.zeros(1, 2, 3, 0, 5), torch.zeros(1, 2, 3, 0, 5), {}, ValueError, 'at least 1'),
    (QK[0].long(), QK[1], {}, TypeError, 'q is torch.int64; .* float16, bfloat16, float32 or float64'),
    (QK[0].half(), QK[1], {}, TypeError, 'q is torch.float16 and k torch.float32; cast'),
    (QK[0].to('meta'), QK[1], {}, ValueError, 'q is on meta and k on cpu'),
    (*QK, dict(implementation='fast'), ValueError, "implementation='fast' must be one of reference, chunked, triton"),
], ids=['rank', 'rank_k', 'shapes', 'empty', 'integers', 'dtypes', 'devices', 'implementation'])
@pytest.mark.parametrize('operator', OPERATORS)
def test_errors(operator, q, k, options, error, message):
    with pytest.raises(error, match=message):
        operator(q, k, **options)


def test_errors_of_the_flow():
    with pytest.raises(ValueError, match='at least 2, got T=1'):
        attention_map_flow(*(x[:, :1] for x in QK))
    with pytest.raises(ValueError, match="last='zeros' is neither 'repeat'"):
        attention_map_flow(*QK, last='zeros')


def test_triton_says_why_it_cannot_run(monkeypatch):
    pytest.importorskip('triton')
    for q, message in ((QK[0].double(), 'got torch.float64'), (torch.zeros(1, 2, 1, 4, 129), 'with d=129')):
        with pytest.raises(RuntimeError, match=message):
            attention_map_flow(q, q, implementation='triton')
    if os.environ.get('TRITON_INTERPRET') != '1':
        with pytest.raises(RuntimeError, match='runs on CUDA devices, got tensors on cpu'):
            attention_map_flow(*QK, implementation='triton')
    monkeypatch.setattr(attention_flow, '_HAS_TRITON', False)
    with pytest.raises(RuntimeError, match='install it'):
        attention_map_flow(*QK, implementation='triton')


@pytest.mark.parametrize('device, dtype, dim, triton, chosen', [
    ('cpu', torch.float32, 64, True, 'chunked'),
    ('cuda', torch.float32, 64, True, 'triton'),
    ('cuda', torch.bfloat16, 128, True, 'triton'),
    ('cuda', torch.float64, 64, True, 'chunked'),
    ('cuda', torch.float32, 160, True, 'chunked'),
    ('cuda', torch.float32, 64, False, 'chunked'),
])
def test_choice(device, dtype, dim, triton, chosen, monkeypatch, caplog):
    monkeypatch.setattr(attention_flow, '_HAS_TRITON', triton)
    monkeypatch.setattr(attention_flow, '_said', set())
    q = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 2, 3, 4, dim))
    for _ in range(2):
        assert attention_flow._choose(q, None) == chosen
    assert len(caplog.messages) == (not triton)  # said once


TRITON_CASES = [  # partial blocks, groups of frames that are cut, masked head dims, several clips and heads
    (OPERATORS, dict(batch=1, frames=3, heads=1, tokens=37, dim=5), torch.float32),
    (OPERATORS[1:], dict(batch=2, frames=2, heads=2, tokens=5, dim=24), torch.float16),
    (OPERATORS[:1], dict(batch=1, frames=4, heads=1, tokens=17, dim=65), torch.float32),
    (OPERATORS[:1], dict(batch=1, frames=2, heads=1, tokens=5, dim=80), torch.bfloat16),
]


def check_triton(device, cases):
    """Kernels against the reference, on a still clip, and compiled."""
    for operators, sizes, dtype in cases:
        q, k = (x.to(device) for x in random_qk(**sizes, dtype=dtype))
        for operator in operators:
            got = outputs_and_gradients(operator, q, k, implementation='triton')
            exact = outputs_and_gradients(operator, q.double(), k.double(), implementation='reference')
            assert got[0].dtype == got[1].dtype == got[2].dtype == dtype
            close = dict(rtol=1e-5, atol=3e-6) if dtype == torch.float32 else dict(rtol=0.03, atol=0.02)
            torch.testing.assert_close(got, tuple(x.to(dtype) for x in exact), **close)
    q, k = (x.to(device).expand(-1, 3, -1, -1, -1) for x in random_qk(1, 1, 1, 7, 3, torch.float32))
    flow, dq, dk = outputs_and_gradients(attention_map_flow, q, k, implementation='triton')
    assert (flow == 1).all() and (dq == 0).all() and (dk == 0).all()

    def triton_flow(q, k):
        return attention_map_flow(q, k, implementation='triton')

    q, k = (x.to(device) for x in random_qk(1, 2, 1, 5, 3, dtype=torch.float32))
    compiled = torch.compile(triton_flow, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(outputs_and_gradients(compiled, q, k), outputs_and_gradients(triton_flow, q, k))
    torch.library.opcheck(
        torch.ops.flatzoo.attention_columns_triton, (q.requires_grad_(), k.requires_grad_(), 0.4, True),
        test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'))


def test_triton_interpreted():
    """The kernels in Triton's interpreter, which has to be asked for before Triton is imported."""
    pytest.importorskip('triton')
    tests = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parents[1])!r}]\n" \
        "import torch, test_attention_flow as t; torch.set_num_threads(1); t.check_triton('cpu', t.TRITON_CASES)"
    done = subprocess.run(
        [sys.executable, '-c', code], env=dict(os.environ, TRITON_INTERPRET='1'), capture_output=True, text=True)
    if 'triton/runtime/interpreter.py' in done.stderr and 'only 0-dimensional arrays can be converted' in done.stderr:
        pytest.skip('the interpreter of this Triton cannot run with numpy 2.4 or newer')  # that of torch 2.11
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_triton_on_a_gpu():
    pytest.importorskip('triton')
    large = [(dict(tokens=257, dim=64), torch.bfloat16), (dict(tokens=300, dim=128), torch.float32)]
    check_triton('cuda', TRITON_CASES + [(OPERATORS, *case) for case in large])
    for sizes, dtype in large:
        q, k = (x.cuda() for x in random_qk(**sizes, dtype=dtype))
        for operator in OPERATORS:
            got = outputs_and_gradients(operator, q, k)
            again = outputs_and_gradients(operator, q, k)
            chunked = outputs_and_gradients(operator, q, k, implementation='chunked')
            for x, y in zip(got, again):
                assert torch.equal(x, y)  # deterministic
            close = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else dict(rtol=0.03, atol=0.02)
            torch.testing.assert_close(got, chunked, **close)
