"""Selective recomputation: the same gradients from less memory, with no matrix product of a linear layer run twice."""
import copy
import pickle
from collections import Counter

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flatzoo  # noqa: F401 - registers the models
from flatzoo.layers import window_attention
from flatzoo.models.recompute import recompute_activations

ATTENTION_PRODUCTS = 'bmm', '_scaled_dot_product_flash_attention_for_cpu'
LINEAR_PRODUCTS = 'mm', 'addmm', 'convolution'
# shifted windows of 12 x 12 tokens in its second block, stochastic depth
SWIN = dict(
    backbone='swin_tiny_patch4_window7_224', window_size=12, embed_dim=32, depths=(2, 2), num_heads=(2, 4), img_size=48,
    num_frames=4, drop_path_rate=0.2, strict_img_size=False)
VIT = dict(backbone='vit_tiny_patch16_224', embed_dim=192, depth=3, num_heads=3, img_size=32, num_frames=4)
CASES = {
    'swin': SWIN,
    'vit': VIT,
    'vit with layer scale': dict(VIT, init_values=0.5, drop_path_rate=0.2, proj_drop_rate=0.1),
    'swin v2': dict(
        backbone='swinv2_tiny_window8_256', embed_dim=32, depths=(2, 2), num_heads=(2, 4), img_size=64, num_frames=4),
    'convnext': dict(backbone='convnext_atto', depths=(1, 1, 2, 1), dims=(8, 16, 32, 64), img_size=32, num_frames=4),
}


def build(args: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model('superimage', num_classes=5, **args).train()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def random_clip(model: torch.nn.Module, batch_size: int = 2) -> torch.Tensor:
    return torch.randn(
        batch_size, 3, model.num_frames, *model.img_size, generator=torch.Generator().manual_seed(1))


def gradients(model: torch.nn.Module, clip: torch.Tensor, passes: int = 1) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(3)  # stochastic depth
    for _ in range(passes):
        model(clip).float().square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def largest_error(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Relative to the largest gradient: some are zero in exact arithmetic, such as those of the keys' biases."""
    scale = max(b.norm().item() for b in expected)
    return max((a - b).norm().item() / max(b.norm().item(), 1e-3 * scale)
               for a, b in zip(actual, expected, strict=True))


class Watch(TorchDispatchMode):
    """Counts operators, and the bytes of what they made that are still alive."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self.refs, self.calls = {}, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                ref = StorageWeakRef(storage)
                self.refs.setdefault(ref.cdata, (ref, storage.nbytes()))
        return out

    def kept(self) -> int:
        return sum(size for ref, size in self.refs.values() if ref.cdata not in self.own and not ref.expired())


@pytest.mark.parametrize('args', CASES.values(), ids=CASES)
def test_gradients_are_equal(args):
    model = build(args)
    clip = random_clip(model)
    names, expected = set(model.state_dict()), gradients(model, clip, passes=2)  # accumulated over two passes
    model.set_grad_checkpointing(selective=True)
    assert set(model.state_dict()) == names
    assert largest_error(gradients(model, clip, passes=2), expected) < 5e-6
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert largest_error(gradients(model, clip, passes=2), expected) < 5e-6  # the copy has its own blocks
    twin = pickle.loads(pickle.dumps(model))
    assert largest_error(gradients(twin, clip, passes=2), expected) < 5e-6
    assert any('forward' in vars(module) for module in twin.modules())
    model.set_grad_checkpointing(False)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, clip, passes=2), expected, strict=True))
    assert not any('forward' in vars(module) for module in model.modules())


# what timm keeps / what is kept then; depends on the share of stem, head and attention maps
@pytest.mark.parametrize(('case', 'less'), [
    ('swin', 2.), ('vit', 1.4), ('vit with layer scale', 1.6), ('swin v2', 2.), ('convnext', 1.3)])
def test_kept_bytes_and_products(case, less):
    model = build(CASES[case])
    clip = random_clip(model)
    kept, calls = {}, {}
    for selective in (False, True):
        model.set_grad_checkpointing(selective, selective=selective)
        with Watch(model) as watch:
            logits = model(clip)
            kept[selective] = watch.kept()
            logits.sum().backward()
            del logits
        calls[selective] = watch.calls
    assert kept[False] / kept[True] >= less
    for name in LINEAR_PRODUCTS:  # as many as without, so none is recomputed
        assert calls[True][name] == calls[False][name], name
    if case == 'swin':  # window attention is one operator, which counts as a whole
        assert calls[True]['attend_in_windows'] == calls[True]['attend_in_windows_backward'] == sum(SWIN['depths'])
    attention = [sum(count[name] for name in ATTENTION_PRODUCTS) for count in (calls[False], calls[True])]
    assert attention[1] <= 4 / 3 * attention[0]  # two in front, four behind, and at most the two in front once more


def test_checkpointing_of_whole_blocks_takes_turns():
    model = build(SWIN)
    model.set_grad_checkpointing(selective=True)
    model.set_grad_checkpointing()
    assert not any('forward' in vars(module) for module in model.modules())
    assert model.backbone.layers[0].grad_checkpointing
    model.set_grad_checkpointing(selective=True)
    assert not model.backbone.layers[0].grad_checkpointing
    assert type(model.backbone.layers[0].blocks[0]) is SwinTransformerBlock
    assert 'forward' in vars(model.backbone.layers[0].blocks[0])


def test_batch_norm_is_refused():
    model = timm.create_model('superimage', backbone='resnet10t', img_size=32, num_frames=4)
    with pytest.raises(ValueError, match='without batch norm'):
        model.set_grad_checkpointing(selective=True)
    assert recompute_activations(torch.nn.Linear(2, 2)) == 0


def test_activations_do_not_overwrite_what_is_kept():
    model = build(dict(backbone='test_nfnet', img_size=32, num_frames=4))
    clip = random_clip(model)
    expected = gradients(model, clip)
    in_place = [getattr(module, 'inplace', None) for module in model.modules()]
    assert True in in_place
    model.set_grad_checkpointing(selective=True)
    assert largest_error(gradients(model, clip), expected) < 5e-6
    model.set_grad_checkpointing(False)
    assert [getattr(module, 'inplace', None) for module in model.modules()] == in_place


def test_forwards_of_others_stay():
    model = build(SWIN)
    block = model.backbone.layers[0].blocks[0]
    block.forward = own = copy.copy(block).forward
    model.set_grad_checkpointing(selective=True)
    assert block.forward is own and 'forward' in vars(model.backbone.layers[0].blocks[1])
    model.set_grad_checkpointing(False)
    assert block.forward is own and 'forward' not in vars(model.backbone.layers[0].blocks[1])


@pytest.mark.parametrize('args', [SWIN, VIT], ids=['swin', 'vit'])
def test_half_precision(args):
    model = build(args)
    clip = random_clip(model)
    exact = gradients(model, clip)
    with torch.autocast('cpu', torch.bfloat16):
        plain = gradients(model, clip)
        model.set_grad_checkpointing(selective=True)
        recomputed = gradients(model, clip)
    assert largest_error(plain, exact) > 1e-3  # so the precision was in force

    def error(actual):
        return sum((a - b).square().sum() for a, b in zip(actual, exact, strict=True)).sqrt()

    assert error(recomputed) < 1.1 * error(plain)


@pytest.mark.parametrize(('args', 'selective'), [(VIT, False), (SWIN, True)], ids=['vit-plain', 'swin-selective'])
def test_compiled_training_has_one_graph(args, selective):
    model = build(dict(args, drop_path_rate=0.))
    clips = [random_clip(model) + i for i in range(3)]
    expected = [gradients(model, clip) for clip in clips]
    model.set_grad_checkpointing(selective, selective=selective)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')  # a graph break is an error
    for clip, gradient in zip(clips, expected, strict=True):
        assert largest_error(gradients(compiled, clip), gradient) < 1e-5
    counters = torch._dynamo.utils.counters
    assert counters['stats']['unique_graphs'] == 1  # no recompilation between batches of one size
    assert not counters['graph_break']


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = build(SWIN)
        clip = random_clip(model)
        expected = gradients(model, clip)
        model.set_grad_checkpointing(selective=True)
        parallel = DistributedDataParallel(model)
        assert largest_error(gradients(parallel, clip), expected) < 5e-6
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('masked', [False, True], ids=['windows', 'shifted windows'])
@pytest.mark.parametrize('chunk', [1, 2 * 4 * 9 ** 2, 2 ** 20])
def test_window_attention(masked, chunk, monkeypatch):
    monkeypatch.setattr(window_attention, 'CHUNK', chunk)  # one, two, all windows at a time
    torch.manual_seed(0)
    attn = WindowAttention(32, num_heads=4, window_size=3).double().train()
    x = torch.randn(2 * 5, 9, 32, dtype=torch.float64, requires_grad=True)
    mask = -100. * torch.randint(0, 2, (5, 9, 9)).double() if masked else None
    inputs = [x, *attn.parameters()]
    weights = torch.randn(x.shape, dtype=torch.float64)
    expected = torch.autograd.grad((attn(x, mask) * weights).sum(), inputs)
    out = window_attention.window_attention_forward(attn, x, mask)
    torch.testing.assert_close(out, attn(x, mask))
    torch.testing.assert_close(torch.autograd.grad((out * weights).sum(), inputs), expected)

    attn.attn_drop.p = 0.5
    torch.manual_seed(1)
    expected = attn(x, mask)
    torch.manual_seed(1)
    assert torch.equal(window_attention.window_attention_forward(attn, x, mask), expected)


def test_operators_are_sound():
    qkv = torch.randn(6, 4, 3, 2, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    for mask in (None, torch.randn(3, 4, 4, dtype=torch.float64)):
        torch.library.opcheck(
            torch.ops.flatzoo.attend_in_windows.default, (qkv, bias, mask, 0.3),
            test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'))


def test_fused_attention_has_one_mask_for_all_images():
    masks = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.scaled_dot_product_attention:
                masks.append(kwargs['attn_mask'])
            return func(*args, **(kwargs or {}))

    images, windows, heads, tokens = 8, 3, 2, 9
    qkv = torch.randn(images * windows, tokens, 3, heads, 4, dtype=torch.float64)
    bias = torch.randn(heads, tokens, tokens, dtype=torch.float64)
    for mask in (None, torch.randn(windows, tokens, tokens, dtype=torch.float64)):
        with Watch():
            out = window_attention.attend_fused(qkv, window_attention.padded_bias(bias, mask, qkv.dtype), 0.3)
        torch.testing.assert_close(out, window_attention.attend_in_windows(qkv, bias, mask, 0.3))
        rows = masks[-1].untyped_storage().nbytes() // (8 * heads * tokens)
        assert rows == 16 * (1 if mask is None else windows)  # of nine numbers, padded
        assert all(stride % 8 == 0 for stride in masks[-1].stride()[:-1])  # as it is, kernels need no copy
