"""As long a training run as time allows: the tiny SIFAR on rendered actions, from random weights."""
import math
import os
import time
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .context import Context, write_facts

__all__ = ['run']

MODEL, BATCH, RATE = 'sifar_resnet10t', 256, 8e-3
TEST_CLIPS, LAST = 1600, 0.12  # of the time, for the measurement at the end


def run(context: Context) -> None:
    """Trains under a cosine over time, then measures clips whose textures training never showed."""
    import timm
    from timm.optim import create_optimizer_v2

    import flatzoo  # noqa: F401 - registers the models
    from flatzoo.data.actions import ACTIONS, ActionClips

    if find_spec('av') is None:
        textures_without_av(context)
    torch.manual_seed(0)
    device = torch.device(context.device)
    workers = 0 if context.rehearse else max(1, (os.cpu_count() or 2) - 1)
    model = timm.create_model(MODEL, num_classes=len(ACTIONS)).to(device, memory_format=torch.channels_last)
    shape = dict(num_frames=model.num_frames, size=model.img_size[0])
    batch, test_clips = (16, 16) if context.rehearse else (BATCH, TEST_CLIPS)
    test = load(ActionClips(test_clips, seed=1, split='test', **shape), test_clips // max(1, workers) or 1, workers)
    optimizer = create_optimizer_v2(model, opt='sgd' if context.rehearse else 'muon', lr=RATE, weight_decay=0.05)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    held = [torch.cat(parts) for parts in zip(*test, strict=True)]  # before training: it takes workers, too
    start, seen, losses = time.monotonic(), 0, []
    budget = context.left() * (1 - LAST) if not context.rehearse else 1.0
    for clips, labels in load(ActionClips(2 ** 30, seed=2, camera_shake=0.05, **shape), batch, workers):
        share = (time.monotonic() - start) / budget
        if share >= 1:
            break
        for group in optimizer.param_groups:  # warm-up over a twentieth, then a cosine
            group['lr'] = RATE * min(share / 0.05 + 0.02, 0.5 + 0.5 * math.cos(math.pi * share))
        with torch.autocast(device.type, torch.bfloat16):
            logits = model.train()(clips.to(device, non_blocking=True))  # uint8: the model normalises
        loss = criterion(logits.float(), labels.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        seen += len(labels)
        losses.append(loss.detach())
        if len(losses) % 50 == 1 or context.rehearse:
            print(f'{time.monotonic() - start:.0f} s, {seen} clips, loss {loss.item():.3f}', flush=True)
            write_facts(context.out, learn=facts(context, seen, start, losses))
    result = facts(context, seen, start, losses)
    write_facts(context.out, learn=result | accuracy(model.eval(), *held, device))


def load(data, batch: int, workers: int) -> DataLoader:
    """Batches rendered in processes of one thread each."""
    options = dict(prefetch_factor=4, multiprocessing_context='fork') if workers else {}
    return DataLoader(
        data, batch, num_workers=workers, worker_init_fn=lambda _: torch.set_num_threads(1), **options)


def facts(context: Context, seen: int, start: float, losses: list[Tensor]) -> dict:
    """The run so far."""
    took = time.monotonic() - start
    return {
        'model': MODEL, 'clips': seen, 'steps': len(losses), 'seconds': round(took, 1),
        'clips_per_s': round(seen / max(took, 1e-9), 1), 'precision': 'bfloat16 (autocast)',
        'loss_of_last_50': round(torch.stack(losses[-50:]).mean().item(), 4) if losses else None,
        'torch': torch.__version__, 'hardware': context.card().get('name'), 'driver': context.card().get('driver')}


@torch.no_grad()
def accuracy(model: nn.Module, clips: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """Top-1 with frames in order, reversed and shuffled; chance is 1 / 16."""
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([clip[:, torch.randperm(clip.shape[1], generator=generator)] for clip in clips])

    def share(clips: Tensor) -> float:
        hits = [model(part.to(device)).argmax(1).cpu() for part in clips.split(256)]
        return round((torch.cat(hits) == labels).double().mean().item(), 4)

    return {
        'test_clips': len(labels), 'top1': share(clips), 'top1_reversed': share(clips.flip(2)),
        'top1_shuffled': share(shuffled)}


def textures_without_av(context: Context) -> None:
    """Where PyAV is not installed, noise stands for the textures of the real clip."""
    from flatzoo.data.actions import scenes as _scenes

    context.note('missing', 'av: textures that are cut out of a real clip are noise in this run')
    noise = torch.rand(6, 3, 144, 176, generator=torch.Generator().manual_seed(0))
    _scenes._real_frames = lambda: noise
