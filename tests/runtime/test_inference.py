"""`flatzoo.optimize`: the same answers from the same tensors, by other operators."""
import copy
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.layers import GELU, GELUTanh, Mlp
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import flatzoo
from flatzoo.layers import window_attention
from flatzoo.runtime import choice, mlp, swin as swin_stage
from flatzoo.runtime.mlp import PackedMlp
from flatzoo.runtime.packed_linear import PackedLinear, _packs
from flatzoo.runtime.swin import WindowOrderStage, _chunks, _window_order

SWIN = dict(embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=5)
VIT = dict(embed_dim=32, depth=2, num_heads=2, num_classes=5, img_size=32, patch_size=8)
CONVNEXT = dict(dims=(8, 16, 24, 32), depths=(1, 2, 1, 1), num_classes=5)
IMAGE_MODELS = {
    'whole map last': (
        'swin_tiny_patch4_window7_224', dict(SWIN, img_size=64, window_size=((4, 4), (8, 8))), (64, 64)),
    'oblong': ('swin_tiny_patch4_window7_224', dict(SWIN, img_size=(48, 96), window_size=((4, 6), (6, 4))), (48, 96)),
    'oblong windows': ('swin_tiny_patch4_window7_224', dict(SWIN, img_size=64, window_size=((4, 8), (2, 4))), (64, 64)),
    'odd windows': ('swin_tiny_patch4_window7_224', dict(SWIN, img_size=72, window_size=3), (72, 72)),
    'does not divide': ('swin_tiny_patch4_window7_224', dict(SWIN, img_size=72, window_size=4), (72, 72)),
    'odd map': ('swin_tiny_patch4_window7_224', dict(SWIN, img_size=60, window_size=5), (60, 60)),
    'any size': (
        'swin_tiny_patch4_window7_224', dict(SWIN, img_size=64, window_size=4, dynamic_img_size=True), (32, 96)),
    'Swin V2': ('swinv2_tiny_window8_256', dict(SWIN, img_size=64, window_size=4), (64, 64)),
    'ViT': ('vit_tiny_patch16_224', VIT, (32, 32)),
    'DINOv2': ('vit_small_patch14_dinov2', dict(VIT, init_values=.1), (32, 32)),
    'SwiGLU': ('vit_giant_patch14_dinov2', VIT, (32, 32)),
    'EVA': ('eva02_tiny_patch14_224', VIT, (32, 32)),
    'ConvNeXt': ('convnext_atto', CONVNEXT, (32, 32)),
    'ConvNeXt of linear layers': ('convnext_tiny', CONVNEXT, (32, 32)),
    'UniFormer': (
        'uniformer_small', dict(embed_dims=(8, 16, 32, 64), depths=(1, 1, 2, 1), head_dim=16, num_classes=5), (64, 64)),
}
CLIP_MODELS = {
    'SIFAR': ('sifar_swin_tiny', dict(num_frames=4, img_size=48, window_size=(4, None), **SWIN)),
    'AM Flow': ('amflow_dinov2_s_tcn_lite', dict(depth=2, img_size=28, num_frames=4, num_classes=5)),
    'VideoMAE': (
        'videomae_vit_s', dict(depth=2, embed_dim=32, num_heads=2, img_size=32, num_frames=4, num_classes=5)),
    'TIME': ('time_vit_b', dict(depth=2, embed_dim=32, num_heads=2, img_size=32, num_frames=4, num_classes=5)),
}


class Operators(TorchDispatchMode):
    """Names of operators, in their order, and how often each was called."""

    def __init__(self):
        super().__init__()
        self.names = []

    @property
    def count(self):
        return Counter(self.names)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **kwargs or {})


@pytest.fixture(autouse=True)
def one_thread():
    """The other ways are taken wherever there are some, whichever is faster on this machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with choice.rule('always'):
        yield
    torch.set_num_threads(threads)


def build(name: str, args: dict) -> nn.Module:
    """A model without zeros, so that every parameter counts."""
    model = timm.create_model(name, **args).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * .1)
    return model


def swin(case: str = 'oblong') -> tuple[nn.Module, torch.Tensor]:
    name, args, size = IMAGE_MODELS[case]
    return build(name, args), torch.randn(2, 3, *size)


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    assert not torch.equal(expected, torch.zeros_like(expected))
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def packed_layers(model: nn.Module) -> int:
    return sum(isinstance(module, PackedLinear) for module in model.modules())


packs = pytest.mark.skipif(
    not _packs(torch.ones(1), nn.Linear(1, 1).requires_grad_(False)), reason='torch was built without oneDNN')


@pytest.mark.parametrize('case', IMAGE_MODELS)
@torch.no_grad()
def test_images_get_the_same_logits(case):
    name, args, size = IMAGE_MODELS[case]
    model = build(name, args)
    prepared = flatzoo.optimize(model)
    linear = sum(type(module) is nn.Linear for module in model.modules())
    assert packed_layers(prepared) == linear > 0 and packed_layers(model) == 0
    for batch in (2, 1, 3):
        x = torch.randn(batch, 3, *size)
        assert_near(prepared(x), model(x))


@pytest.mark.parametrize('case', CLIP_MODELS)
@torch.no_grad()
def test_clips_get_the_same_logits(case):
    name, args = CLIP_MODELS[case]
    model = build(name, args)
    prepared = flatzoo.optimize(model)
    clip = torch.randn(2, 3, 4, *2 * (args['img_size'],))
    assert_near(prepared(clip), model(clip), 5e-6)


@pytest.mark.parametrize('scores', [1, 2 ** 20])  # at a time: one window, all of them
@pytest.mark.parametrize('case', ['oblong', 'whole map last', 'ViT', 'ConvNeXt of linear layers'])
@torch.no_grad()
def test_bfloat16_is_as_exact_as_before(case, scores, monkeypatch):
    monkeypatch.setattr(swin_stage, '_SCORES', scores)
    name, args, size = IMAGE_MODELS[case]
    model, x = build(name, args), torch.randn(2, 3, *size)
    exact, plain = model(x), copy.deepcopy(model).bfloat16()(x.bfloat16()).float()
    prepared = flatzoo.optimize(model, torch.bfloat16)
    for _ in range(2):  # what is kept for the next forward has not been written to
        # two errors of like size, of some twenty logits, that no kernel rounds alike: three times is no coincidence
        assert (prepared(x.bfloat16()).float() - exact).norm() <= 3 * (plain - exact).norm()
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize('rule', ['measure', 'never'])
@pytest.mark.parametrize('case', ['oblong', 'ViT', 'ConvNeXt of linear layers'])
@torch.no_grad()
def test_both_ways_give_the_same_logits(case, rule, monkeypatch):
    monkeypatch.setattr(mlp, '_ROWS_PER_THREAD', 16)
    name, args, size = IMAGE_MODELS[case]
    model, x = build(name, args), torch.randn(2, 3, *size)
    with choice.rule(rule):
        prepared = flatzoo.optimize(model)
        assert_near(prepared(x), model(x))
        assert torch.equal(prepared(x), prepared(x))


@pytest.mark.parametrize('case', [
    'ViT', 'DINOv2', 'SwiGLU', 'ConvNeXt', 'ConvNeXt of linear layers', 'UniFormer', 'VideoMAE', 'TIME'])
@torch.no_grad()
def test_the_plain_way_calls_what_stock_calls_in_its_order(case):
    """So a model in which no other way is faster takes the time of stock, and some microseconds for each layer."""
    name, args, *size = (IMAGE_MODELS | CLIP_MODELS)[case]
    model, x = build(name, args), torch.randn(1, 3, *(size[0] if size else (4, args['img_size'], args['img_size'])))
    called = []
    for each in (model, flatzoo.optimize(model)):
        with choice.rule('never'), Operators() as operators:
            each(x)
        called.append(operators.names)
    assert called[0] == called[1] and called[0]


@pytest.mark.parametrize('call', [
    lambda layer, x: layer(x), lambda layer, x: layer.gelu(x), lambda layer, x: layer.add(x, torch.ones(2, 3, 5))])
@torch.no_grad()
def test_the_plain_way_has_one_product_for_strided_rows(call):
    """Where the weight needs no gradient, torch takes a batch of products, one for each item of the input."""
    prepared = flatzoo.optimize(nn.Sequential(nn.Linear(4, 5)))[0]
    x = torch.randn(2, 4, 3).transpose(1, 2)
    with choice.rule('never'), Operators() as operators:
        out = call(prepared, x)
    assert operators.count['aten::addmm'] == 1 and not operators.count['aten::bmm']
    torch.testing.assert_close(out, call(prepared, x.contiguous()))


@pytest.mark.parametrize(('pause', 'taken'), [(.002, True), (.0098, False), (.02, False)])
def test_the_faster_way_is_taken_and_remembered(monkeypatch, pause, taken):
    calls, now = Counter(), 0.0

    def way(name, seconds):
        nonlocal now
        calls[name] += 1
        now += seconds

    def clock():
        return now

    monkeypatch.setattr(choice, 'time', SimpleNamespace(thread_time=clock, perf_counter=clock))
    plain, other = lambda: way('plain', .01), lambda: way('other', pause)
    key = ('a test', pause)
    with choice.rule('measure'):
        assert choice.faster(key, plain, other) is taken
        tried = dict(calls)
        assert tried['plain'] == tried['other'] >= 2
        assert choice.faster(key, plain, other) is taken and calls == tried
    for rule in ('always', 'never'):
        with choice.rule(rule):
            assert choice.faster(key, plain, other) is (rule == 'always') and calls == tried
    with pytest.raises(ValueError, match="'measure', 'always' or 'never'"):
        choice.rule('fast')


def test_size_classes():
    assert [choice.size_class(rows) for rows in (1, 2, 3, 64, 65, 10 ** 6)] == [1, 2, 4, 64, 128, choice.MOST_ROWS]


@packs
@pytest.mark.parametrize('case', ['whole map last', 'oblong', 'ViT', 'SwiGLU', 'Swin V2', 'EVA'])
@torch.no_grad()
def test_every_linear_layer_runs_packed(case):
    name, args, size = IMAGE_MODELS[case]
    prepared, x = flatzoo.optimize(build(name, args)), torch.randn(1, 3, *size)
    with Operators() as first:
        prepared(x)
    with Operators() as second:
        prepared(x)
    count = second.count
    assert not {'aten::addmm', 'aten::mm', 'aten::linear'} & set(count)
    assert count['mkldnn::_linear_pointwise'] >= packed_layers(prepared) - 2  # some in chunks, a head may be left out
    assert first.count['mkldnn::_reorder_linear_weight'] == packed_layers(prepared)
    assert 'mkldnn::_reorder_linear_weight' not in count


@torch.no_grad()
def test_window_order_needs_neither_rolls_nor_masks():
    model, x = swin()
    with Operators() as plain:
        model(x)
    assert 'aten::roll' in plain.count
    model = flatzoo.optimize(model)
    model(x)  # derives and remembers
    with Operators() as prepared:
        model(x)
    assert 'aten::roll' not in prepared.count
    assert prepared.count['aten::constant_pad_nd'] == 1  # timm's patch merging, by nothing
    blocks = sum(len(stage.blocks) for stage in model.layers)
    assert prepared.count['aten::index_select'] == blocks + len(model.layers)  # one per block, one behind a stage


def test_shifted_windows_are_cut_at_the_mask():
    order, pieces = _window_order(2, 8, 12, (4, 4), (2, 2))
    assert sorted(order.tolist()) == list(range(2 * 8 * 12))
    assert dict(pieces) == {(4, 4): 4, (4, 2): 4, (2, 4): 8, (2, 2): 8}
    assert _window_order(1, 8, 8, (8, 4), (0, 2))[1] == [((8, 4), 1), ((8, 2), 2)]
    assert _window_order(1, 4, 4, (4, 4), (0, 0))[0].tolist() == list(range(16))


@pytest.mark.parametrize('rows', [1, 20, 100])
@torch.no_grad()
def test_windows_in_chunks(monkeypatch, rows):
    monkeypatch.setattr('flatzoo.runtime.mlp._ROWS_PER_THREAD', rows)
    model, x = swin()
    assert_near(flatzoo.optimize(model)(x), model(x))


def test_chunks_are_of_whole_windows():
    pieces = [((4, 4), 3), ((4, 2), 2), ((2, 2), 1)]
    assert _chunks(pieces, 1000) == [pieces]
    assert _chunks(pieces, 32) == [[((4, 4), 2)], [((4, 4), 1), ((4, 2), 2)], [((2, 2), 1)]]
    assert _chunks(pieces, 1) == [[((4, 4), 1)]] * 3 + [[((4, 2), 1)]] * 2 + [[((2, 2), 1)]]


@torch.no_grad()
def test_state_dict_is_that_of_the_model():
    model, x = swin()
    prepared = flatzoo.optimize(model)
    prepared(x)
    ours, theirs = prepared.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    assert all(ours[key].data_ptr() == theirs[key].data_ptr() for key in ours)


@pytest.mark.parametrize('assign', [False, True])
@torch.no_grad()
def test_loading_packs_again(assign):
    model, x = swin()
    other = swin()[0]
    prepared = flatzoo.optimize(model)
    before = prepared(x)
    prepared.load_state_dict({key: value.clone() for key, value in other.state_dict().items()}, assign=assign)
    assert_near(prepared(x), other(x))
    assert (prepared(x) - before).abs().max() > .01


def test_training_of_the_given_model_is_followed():
    model, x = swin()
    prepared = flatzoo.optimize(model)
    before = prepared(x)
    assert not before.requires_grad  # fast without no_grad
    optimizer = torch.optim.SGD(model.parameters(), lr=.1)
    model(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert_near(prepared(x), model(x))
        assert (prepared(x) - before).abs().max() > 1e-4
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_casting_packs_again():
    model, x = swin()
    prepared = flatzoo.optimize(model)
    prepared(x)
    assert_near(prepared.double()(x.double()), model.double()(x.double()), 1e-12)


@torch.no_grad()
def test_casting_there_and_back_packs_again():
    """What was freed in between can come back at the same address; several turns, so that it does."""
    for _ in range(4):
        model, x = swin()
        prepared = flatzoo.optimize(model)
        del model  # whose weights would stay where they are
        prepared(x)
        prepared.bfloat16().float()
        assert torch.equal(prepared(x), copy.deepcopy(prepared)(x))


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_copies_hold_no_packed_weights_and_answer_alike(duplicate):
    model, x = swin()
    prepared = flatzoo.optimize(model)
    expected = prepared(x)
    twin = duplicate(prepared)
    assert not any('_derived' in module.__dict__ for module in twin.modules())
    assert torch.equal(twin(x), expected)
    assert twin.head.fc.weight.data_ptr() != model.head.fc.weight.data_ptr()


def test_names_are_refused():
    with pytest.raises(TypeError, match="got 'sifar_swin_b12': build it first"):
        flatzoo.optimize('sifar_swin_b12')


@torch.no_grad()
def test_prepared_models_are_taken():
    model, x = swin()
    twice = flatzoo.optimize(flatzoo.optimize(model))
    assert_near(twice(x), model(x))
    assert any(isinstance(module, WindowOrderStage) for module in twice.modules())


@torch.no_grad()
def test_inference_mode():
    model, x = swin()
    expected = model(x)
    with torch.inference_mode():
        assert_near(flatzoo.optimize(model)(x.clone()), expected)
        assert_near(flatzoo.optimize(copy.deepcopy(model))(x.clone()), expected)


# Where the plain forward runs

def plain_operators(run) -> Counter:
    with Operators() as operators:
        run()
    assert not any(name.startswith('mkldnn::_linear') for name in operators.count)
    return operators.count


def test_tangents_take_the_plain_way():
    model, x = swin()
    prepared = flatzoo.optimize(model)
    direction = torch.randn_like(x)
    expected, actual = (torch.func.jvp(m, (x,), (direction,))[1] for m in (model, prepared))
    assert_near(actual, expected)


@torch.no_grad()
def test_threads_share_a_prepared_model():
    prepared = flatzoo.optimize(swin()[0])
    clips = [torch.randn(count, 3, *IMAGE_MODELS['oblong'][2]) for count in range(1, 7)]
    expected = [prepared(clip) for clip in clips]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            for _ in range(10):
                for actual, wanted in zip(pool.map(prepared, clips), expected):
                    assert_near(actual, wanted)
    finally:
        sys.setswitchinterval(interval)


def test_input_gradients_take_the_plain_way():
    model, x = swin()
    prepared, x = flatzoo.optimize(model), x.requires_grad_()
    plain_operators(lambda: prepared(x))
    gradients = [torch.autograd.grad(m(x).square().sum(), x)[0] for m in (prepared, model)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize('trained', ['', 'bias', 'relative_position_bias_table'])
def test_parameter_gradients_take_the_plain_way(trained):
    """Of all parameters, of biases alone, and of a table that the window order would read beside autograd."""
    model, x = swin()
    prepared = flatzoo.optimize(model)
    prepared(x)  # derives and remembers
    gradients = []
    for trainee in (model, prepared):
        for name, parameter in trainee.named_parameters():
            parameter.requires_grad_(name.endswith(trained))
        trainee(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in trainee.named_parameters() if p.requires_grad})
    assert gradients[0] and all(torch.allclose(gradients[1][name], g, 1e-3, 1e-5 * g.abs().max())
                                for name, g in gradients[0].items())


@torch.no_grad()
def test_training_mode_takes_the_plain_way():
    stage = flatzoo.optimize(swin()[0]).layers[0]
    with Operators() as fast:
        stage(torch.randn(1, 12, 24, 16))
    with Operators() as plain:
        stage.train()(torch.randn(1, 12, 24, 16))
    assert (fast.count['aten::roll'], plain.count['aten::roll']) == (0, 2)


@torch.no_grad()
def test_autocast_takes_the_plain_way():
    model, x = swin()
    prepared = flatzoo.optimize(model)
    with torch.autocast('cpu', torch.bfloat16):
        plain_operators(lambda: prepared(x))
        assert torch.equal(prepared(x), model(x))


@torch.no_grad()
def test_dropout_that_trains_drops():
    name, args, size = IMAGE_MODELS['whole map last']
    prepared, x = flatzoo.optimize(build(name, dict(args, proj_drop_rate=.5))), torch.randn(1, 3, *size)
    assert torch.equal(prepared(x), prepared(x))
    for module in prepared.modules():
        module.train(isinstance(module, nn.Dropout))
    assert not torch.equal(prepared(x), prepared(x))


class Wrapped(nn.Module):
    """A layer inside another, as adapters put it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize('replace', [Wrapped, nn.utils.parametrizations.weight_norm])
@torch.no_grad()
def test_replaced_layers_are_called(replace):
    model, x = swin()
    for stage in model.layers:
        for block in stage.blocks:
            block.attn.proj = replace(block.attn.proj)
    prepared = flatzoo.optimize(model)
    assert_near(prepared(x), model(x))
    assert type(prepared.layers[0]) is not WindowOrderStage and type(prepared.layers[0].blocks[0].mlp) is PackedMlp


@torch.no_grad()
def test_default_device_of_new_tensors_does_not_matter():
    model, x = swin()
    expected, prepared = model(x), flatzoo.optimize(model)
    with torch.device('meta'):
        assert_near(prepared(x), expected)
    assert_near(prepared(x), expected)


@pytest.mark.parametrize('missing', ['_LINEAR', '_pack'])
@torch.no_grad()
def test_missing_operators_leave_window_order(monkeypatch, missing):
    monkeypatch.setattr(f'flatzoo.runtime.packed_linear.{missing}', None)
    model, x = swin()
    prepared = flatzoo.optimize(model)
    count = plain_operators(lambda: prepared(x))
    assert count['aten::addmm'] and 'aten::roll' not in count
    assert_near(prepared(x), model(x))


@torch.no_grad()
def test_disabled_onednn():
    model, x = swin()
    with torch.backends.mkldnn.flags(enabled=False):
        prepared = flatzoo.optimize(model)
        plain_operators(lambda: prepared(x))
        assert_near(prepared(x), model(x))


@torch.no_grad()
def test_hooks_hear_their_modules():
    model, x = swin()
    prepared = flatzoo.optimize(model)
    heard = []
    for block in prepared.layers[0].blocks:
        block.mlp.act.register_forward_hook(lambda *_: heard.append('act'))
        block.register_forward_pre_hook(lambda *_: heard.append('block'))
    assert_near(prepared(x), model(x))
    assert heard == ['block', 'act'] * 2


@torch.no_grad()
def test_compiled_without_graph_breaks():
    model, x = swin()
    prepared = torch.compile(flatzoo.optimize(model), fullgraph=True, backend='eager')
    assert_near(prepared(x), model(x))


# GPUs: what runs there runs here, too, when tensors are said to be on one


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(window_attention, 'on_gpu', lambda x: True)


@pytest.mark.parametrize('case', ['oblong', 'whole map last'])
@torch.no_grad()
def test_gpus_take_all_windows_of_a_kind_at_once(on_gpu, case):
    name, args, size = IMAGE_MODELS[case]
    model = build(name, args)
    prepared = flatzoo.optimize(model)
    for batch in (1, 3):
        x = torch.randn(batch, 3, *size)
        assert_near(prepared(x), model(x))
        with Operators() as operators:
            prepared(x)
        kinds = sum(len(_window_order(1, *block.input_resolution, block.window_size, block.shift_size)[1])
                    for stage in model.layers for block in stage.blocks)
        attention = sum(n for name, n in operators.count.items() if 'scaled_dot_product' in name and 'cpu' in name)
        assert attention == kinds
        assert 'aten::roll' not in operators.count and 'aten::softmax' not in operators.count


class Masks(TorchDispatchMode):
    """Writes down the bytes behind the masks of attention."""

    def __init__(self):
        super().__init__()
        self.bytes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert 'softmax' not in func.name()
        if 'scaled_dot_product' in func.name():
            self.bytes.append(kwargs['attn_mask'].untyped_storage().nbytes())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_compiled_on_gpus(on_gpu):
    """One graph for all batches, and masks of one image."""
    model, _ = swin()
    graphs, masks = [], []

    def compiler(graph, inputs):
        def run(*args):
            with Masks() as seen:
                out = graph(*args)
            masks.append(seen.bytes)
            return out

        graphs.append(graph)
        return run

    prepared = torch.compile(flatzoo.optimize(model), fullgraph=True, backend=compiler, dynamic=True)
    for batch in (2, 7, 5):
        x = torch.randn(batch, 3, *IMAGE_MODELS['oblong'][2])
        assert_near(prepared(x), model(x))
    assert len(graphs) == 1
    assert masks[0] == masks[1] == masks[2] and len(masks[0]) == sum(len(stage.blocks) for stage in model.layers)


@torch.no_grad()
def test_tensors_of_a_gpu_meet_none_of_the_cpu(monkeypatch):
    """Seen on tensors without numbers, which know their device."""
    monkeypatch.setattr(swin_stage, 'runs_fast', lambda *args: True)
    monkeypatch.setattr(WindowOrderStage, 'derived', lambda self, key, tensor, make: make(tensor))
    model, x = swin()
    prepared = flatzoo.optimize(model)
    with FakeTensorMode(), Operators() as operators:
        for module in prepared.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device='cuda')
        out = prepared(torch.empty(x.shape, device='cuda'))
    assert out.device.type == 'cuda' and out.shape == (len(x), model.num_classes)
    assert operators.count['aten::index_select'] and 'aten::roll' not in operators.count


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_cuda(dtype):
    model, x = swin()
    exact = model(x)
    prepared = flatzoo.optimize(model)
    prepared(x)  # what is derived on the CPU does not follow
    model, prepared, x = model.to('cuda', dtype), prepared.to('cuda', dtype), x.to('cuda', dtype)
    error = (model(x).cpu().float() - exact).norm()
    for run in (prepared, flatzoo.optimize(model), torch.compile(prepared)):
        assert (run(x).cpu().float() - exact).norm() <= 1.5 * error + 1e-5 * exact.norm()


# MLPs

@pytest.mark.parametrize('act', [nn.GELU, GELU, lambda: nn.GELU('tanh'), GELUTanh])
@torch.no_grad()
def test_mlp_in_chunks(monkeypatch, act):
    monkeypatch.setattr('flatzoo.runtime.mlp._ROWS_PER_THREAD', 7)
    mlp = Mlp(16, 40, 24, act_layer=act).eval()
    prepared = flatzoo.optimize(nn.Sequential(mlp))[0]
    assert type(prepared) is PackedMlp
    for shape in (7, 16), (3, 5, 16), (2, 3, 4, 16):
        x = torch.randn(shape)
        assert_near(prepared(x), mlp(x))
        assert_near(prepared(x.transpose(0, -2)), mlp(x.transpose(0, -2)))


@pytest.mark.parametrize('args', [dict(act_layer=nn.ReLU), dict(norm_layer=nn.LayerNorm), dict(use_conv=True)])
@torch.no_grad()
def test_other_mlps_stay(args):
    mlp = Mlp(16, 40, **args).eval()
    prepared = flatzoo.optimize(nn.Sequential(mlp))[0]
    assert type(prepared) is Mlp
    x = torch.randn((2, 16, 4, 4) if 'use_conv' in args else (2, 4, 16))
    assert_near(prepared(x), mlp(x))


def test_devices_without_autocast_run_the_plain_modules():
    model = flatzoo.optimize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 4)))
    assert model.to('meta')(torch.empty(2, 3, 4, 4, device='meta')).shape == (2, 4)
