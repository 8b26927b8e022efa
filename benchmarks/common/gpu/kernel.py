"""The Triton kernels of AM flow: right against float64, then their time against other forms and their floor."""
import gc

import torch

from .context import Context

__all__ = ['run']

ERRORS, SPEED = 'kernel_errors.csv', 'kernel_speed.csv'
HEADS, DIM = 12, 64
SLOW = ('flow, naive compiled', 'flow, flex_attention')  # compiled for a minute per size
# Times that logits are multiplied out and exponentials taken, at least: forward needs the logits once (and both passes
# of a softmax need exponentials), backward the logits again and a product each for dQ and dK.
PRODUCTS, EXPONENTIALS = {'forward': 1, 'forward + backward': 4}, {'forward': 2, 'forward + backward': 4}


def run(context: Context) -> None:
    """Errors first, then speed, the sizes that tell most first."""
    sizes = ((1, 9, 2),) if context.rehearse else ((1, 257, 8), (1, 257, 32), (1, 1370, 8))
    for dtype in (torch.bfloat16, torch.float32):
        for size in sizes:
            if not context.late(f'errors {size} {dtype}'):
                check(context, *size, dtype)
    if context.rehearse:
        sizes = ((1, 9, 2),)
    else:
        sizes = ((1, 257, 8), (1, 1370, 8), (1, 1370, 32), (1, 257, 32), (8, 257, 8), (1, 257, 16), (1, 1370, 16))
    for size in sizes:
        if not context.late(f'speed {size}', 2):
            with context.attempt(f'speed of {size}'):
                measure(context, *size)
        gc.collect()
        if context.device == 'cuda':
            torch.cuda.empty_cache()


def check(context: Context, clips: int, tokens: int, frames: int, dtype: torch.dtype) -> None:
    """Results and gradients against the equations in float64, and whether they are the same twice."""
    from flatzoo.layers.attention_flow import attention_map_flow, attention_received
    implementation = 'chunked' if context.rehearse else 'triton'
    heads = 2 if context.rehearse else HEADS
    torch.manual_seed(tokens + frames)
    q, k = torch.randn(2, clips, frames, heads, tokens, DIM, device=context.device).to(dtype)
    for operator in (attention_map_flow, attention_received):
        what = f'{operator.__name__}, {tokens} tokens, {frames} frames, {dtype}'
        with context.attempt(f'errors of {what}'):
            weights = torch.randn(clips, frames, tokens, heads, device=context.device).to(dtype)

            def results(q, k, implementation, operator=operator, weights=weights):
                q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
                out = operator(q, k, implementation=implementation)
                return out.detach(), *torch.autograd.grad((out * weights.to(out.dtype)).sum(), (q, k))

            got, again = results(q, k, implementation), results(q, k, implementation)
            exact = results(q.double(), k.double(), 'reference')
            rows = []
            for name, x, y, of in zip(('output', 'dq', 'dk'), got, again, exact, strict=True):
                signal = of - 1 if name == 'output' else of  # the output deviates from 1
                error = ((x.double() - of).norm() / signal.norm()).item()
                rows.append({
                    'operator': operator.__name__, 'tokens': tokens, 'frames': frames, 'clips': clips, 'result': name,
                    'error': f'{error:.2e}', 'same_twice': torch.equal(x, y), 'finite': bool(x.isfinite().all()),
                    'implementation': implementation, **_machine(context, dtype)})
                limit = 1e-4 if dtype == torch.float32 else 0.1 if name == 'output' else 0.03  # bfloat16 rounds 1 + x
                if not error < limit or not rows[-1]['same_twice']:
                    context.note('failed', f'{what}: {name} is off by {error:.1e}, same twice: {torch.equal(x, y)}')
            if operator is attention_map_flow:
                flow = operator(q[:, :1].expand_as(q), k[:, :1].expand_as(k), implementation=implementation)
                if not (flow == 1).all():
                    context.note('failed', f'{what}: a still clip does not give 1')
            context.save(ERRORS, rows, ('operator', 'tokens', 'frames', 'result', 'precision'))
            print(rows, flush=True)


def measure(context: Context, clips: int, tokens: int, frames: int) -> None:
    """Time of every form, with the floor of the kernels."""
    from benchmarks.common import attention_flow

    rows = attention_flow.measure(
        tokens, frames, 2 if context.rehearse else 7, context.device, torch.bfloat16, clips=clips, without=SLOW)
    for row in rows:
        row['clips'] = clips
        limit = floor(context.card(), clips, tokens, frames, row['variant'], row['pass'])
        row['floor_ms'] = None if limit is None else f'{1000 * limit:.4g}'
        row['of_floor'] = None if limit is None else f'{float(row["ms"]) / 1000 / limit:.2f}'
    context.save(SPEED, rows, ('clips', 'tokens', 'frames', 'pass', 'variant'))


def floor(card: dict, clips: int, tokens: int, frames: int, variant: str, passes: str) -> float | None:
    """Seconds that the operator takes at least at the rates of this card, the largest of three; None if not known.

    Products at the rate of large ones, exponentials at the rate of registers, and queries and keys read once (with
    backward twice, and two gradients written).
    """
    kind = variant.partition(',')[0]
    rates = [card.get(key) for key in ('matrix_tflops', 'exponentials_t_per_s', 'copy_gb_per_s')]
    if kind not in ('flow', 'received') or None in rates:
        return None
    maps = clips * HEADS * tokens ** 2
    products = PRODUCTS[passes] * 2 * DIM * frames * maps
    exponentials = EXPONENTIALS[passes] * (frames - (kind == 'flow')) * maps
    moved = (2 if passes == 'forward' else 6) * 2 * clips * HEADS * frames * tokens * DIM
    return max(products / rates[0] / 1e12, exponentials / rates[1] / 1e12, moved / rates[2] / 1e9)


def _machine(context: Context, dtype: torch.dtype) -> dict[str, str]:
    from benchmarks.common.timing import setting
    return setting(context.device, str(dtype).removeprefix('torch.'))
