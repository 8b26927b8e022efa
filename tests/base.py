"""What every video model of the zoo must do: the checks of timm's own test-suite, rewritten for clips.

A test file subclasses the two testers with its own models:

    class TestFlatten(ModelTester):
        cases = {'row': dict(model_name='flatten_swin_tiny'), 'nested': dict(model_name=..., layout='nested:2x2/2x2')}

    class TestFlattenConfigs(ConfigTester):
        names = flatzoo.list_models('flatten*')

`ModelTester` runs small models; `ConfigTester` takes models of full size, on the meta device.
"""
import copy
import inspect
import io
import math
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from typing import Any

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules, group_parameters, save_for_hf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from flatzoo.models.record import tag_record

NUM_CLASSES = 10
_COMPILING = ('test_compile', 'test_export', 'test_fx', 'test_torchscript')


def build(args: dict[str, Any], **kwargs: Any) -> nn.Module:
    """A model in eval mode, the same for the same arguments."""
    torch.manual_seed(0)
    return timm.create_model(**{'num_classes': NUM_CLASSES, **args, **kwargs}).eval()


def random_clip(model: nn.Module, batch_size: int = 2) -> Tensor:
    """A normalised clip `[B, C, T, H, W]` of the model's size."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, model.in_chans, model.num_frames, *model.img_size, generator=generator)


def assert_close(actual: Any, expected: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


def perturb(model: nn.Module) -> nn.Module:
    """Moves all parameters, so that those which start at zero (bias tables, position embeddings) matter."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def grad_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


class ModelTester:
    """Runs small models.

    Attributes:
        cases: Test id -> arguments of `timm.create_model`.
        compiled: Ids of the cases that are traced, scripted, compiled and exported, which takes seconds; all by
            default.
    """
    cases: dict[str, dict[str, Any]] = {}
    compiled: Collection[str] | None = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if 'args' in metafunc.fixturenames:
            ids = list(self.cases)
            if self.compiled is not None and metafunc.function.__name__ in _COMPILING:
                ids = list(self.compiled)
            metafunc.parametrize('args', [self.cases[id] for id in ids], ids=ids)

    def of_images(self, maps: Tensor) -> Tensor:
        """Takes a map of `forward_intermediates` to maps with the images of all clips in the batch."""
        return maps

    def test_forward(self, args):
        model = perturb(build(args))
        clip = random_clip(model)
        with torch.no_grad():
            logits = model(clip)
            assert logits.shape == (2, NUM_CLASSES)
            assert logits.isfinite().all()
            assert_close(model(clip[1:]), logits[1:])  # clips do not see each other
            assert (model(clip.flip(2)) - logits).abs().max() > 1e-4  # the order of the frames matters
        with pytest.raises(ValueError, match=rf'\(B, C, T={model.num_frames}, H, W\)'):
            model(clip[:, :, 1:])

    @torch.no_grad()
    def test_forward_is_features_and_head(self, args):
        model = perturb(build(args))
        clip = random_clip(model)
        assert_close(model.forward_head(model.forward_features(clip)), model(clip))

    def test_uint8_clips_are_normalised(self, args):
        model = build(args)
        clip = torch.randint(0, 256, (1, 3, model.num_frames, *model.img_size), dtype=torch.uint8)
        mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1, 1) for key in ('mean', 'std'))
        with torch.no_grad():
            assert_close(model(clip), model((clip / 255 - mean) / std), atol=1e-4)

    def test_backward(self, args):
        model = build(args, num_classes=42).train()
        logits = model(random_clip(model))
        assert logits.shape[-1] == 42
        logits.mean().backward()
        parameters = list(model.parameters())
        assert grad_names(model) == {name for name, _ in model.named_parameters()}  # nothing is frozen by default
        assert sum(p.grad.numel() for p in parameters) == sum(p.numel() for p in parameters)

    def test_grad_checkpointing(self, args):
        model = build(args)
        clip = random_clip(model)
        results = []
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            model.zero_grad()
            logits = model(clip)
            logits.square().mean().backward()
            features = model.forward_intermediates(clip, intermediates_only=True)
            results.append((logits, features, [p.grad.clone() for p in model.parameters()]))
        for plain, checkpointed in zip(*results, strict=True):
            assert_close(checkpointed, plain)

    def test_classifier(self, args):
        model = build(args)
        clip = random_clip(model)
        with torch.no_grad():
            features = model.forward_features(clip)
            pooled = model.forward_head(features, pre_logits=True)
            assert pooled.shape == (2, model.head_hidden_size)
            model.reset_classifier(0)
            assert model.num_classes == 0
            assert_close(model(clip), pooled)
            model.reset_classifier(0, '')
            assert model(clip).ndim >= 3
            assert build(args, num_classes=0)(clip).shape == pooled.shape
            assert build(args, num_classes=0, global_pool='')(clip).shape == model(clip).shape
            model = build(args)
            model.reset_classifier(5)
            assert model(clip).shape == (2, model.num_classes) == (2, 5)
            assert isinstance(model.get_classifier(), nn.Module)
            assert not model.head_trained

    def test_device_and_dtype(self, args):
        meta = build(args, device='meta', dtype=torch.bfloat16)
        for name, tensor in (*meta.named_parameters(), *meta.named_buffers()):
            assert tensor.is_meta, name
            if not name.startswith('backbone.rope.'):  # timm keeps rotary positions in float32
                assert tensor.dtype == torch.bfloat16 or not tensor.is_floating_point(), name

        model = build(args, dtype=torch.float64)
        model.requires_grad_(False)
        assert model(random_clip(model).double()).dtype == torch.float64
        for num_classes in (0, 2):
            model.reset_classifier(num_classes)
        assert not model.training
        new = {id(p) for p in model.get_classifier().parameters()}
        assert new
        for name, parameter in model.named_parameters():
            assert parameter.dtype == torch.float64, name
            assert id(parameter) in new or not parameter.requires_grad, name
        model.requires_grad_(False)
        model.set_input_size(num_frames=model.num_frames)
        assert not any(p.requires_grad for p in model.parameters())

    def test_unknown_argument(self, args):
        with pytest.raises(TypeError, match='no_such_argument'):
            build(args, no_such_argument=1)

    def test_pretrained(self, args):
        source = build(args)
        classifier = source.classifier_keys()
        first_conv = source._traits['first_conv'] + '.weight'
        assert classifier and first_conv in source.state_dict()

        def load(**kwargs: Any) -> nn.Module:
            overlay = dict(state_dict=source.state_dict(), num_classes=NUM_CLASSES)
            return build(args, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)

        model = load()
        assert model.head_trained and not source.head_trained
        assert_close(model.state_dict(), source.state_dict(), atol=0)

        model = load(in_chans=1, num_classes=5)
        assert not model.head_trained
        expected = source.state_dict()
        assert_close(model.state_dict()[first_conv], expected[first_conv].sum(1, keepdim=True))
        for name, tensor in model.state_dict().items():
            if name not in classifier | {first_conv}:
                assert torch.equal(tensor, expected[name]), name
        for name in classifier:
            parameter = model.get_parameter(name)
            assert len(parameter) == 5 and parameter.isfinite().all()
        assert model(random_clip(model)).shape == (2, 5)

        clip = random_clip(source)
        with torch.no_grad():
            assert_close(load(num_classes=0)(clip), source.forward_head(source.forward_features(clip), pre_logits=True))
            features = load(features_only=True)(clip)
            assert_close(features[-1], build(args, features_only=True)(clip)[-1])

    def test_features_only(self, args):
        model = build(args, features_only=True)
        outputs = model(random_clip(model.model))
        channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
        assert len(outputs) == len(channels) >= 3
        for output, chs, reduction in zip(map(self.of_images, outputs), channels, reductions, strict=True):
            assert output.shape[:2] == (2 * model.model.num_images, chs)
            for side, image_side in zip(output.shape[-2:], model.model.image_size, strict=True):
                assert image_side / (2 * reduction) < side <= math.ceil(image_side / reduction) + 1
            assert output.isfinite().all()
        assert len(build(args, features_only=True, out_indices=(0, 1))(random_clip(model.model))) == 2

    @torch.no_grad()
    def test_forward_intermediates(self, args):
        model = build(args)
        clip = random_clip(model)
        final, maps = model.forward_intermediates(clip)
        assert_close(final, model.forward_features(clip))
        assert len(maps) == len(model.feature_info)
        for level, info in zip(maps, model.feature_info, strict=True):
            assert self.of_images(level).shape[1] == info['num_chs']
            model.get_submodule(info['module'])  # raises if there is none
        (last,) = model.forward_intermediates(clip, indices=1, intermediates_only=True)
        assert_close(last, maps[-1])
        (first,) = model.forward_intermediates(clip, indices=[0], intermediates_only=True, stop_early=True)
        assert_close(first, maps[0])

    @torch.no_grad()
    def test_maps_of_frames(self, args):
        model = build(args)
        clip = random_clip(model)
        maps = model.forward_intermediates(clip, intermediates_only=True)[0]  # the finest level
        (frames,) = model.forward_intermediates(clip, indices=[0], intermediates_only=True, per_frame=True)
        assert_close(frames, model.frame_maps(maps))
        maps = self.of_images(maps)
        rows, cols = model.grid_size
        height, width = maps.shape[2] // rows, maps.shape[3] // cols
        assert frames.shape == (2, model.num_frames, maps.shape[1], height, width)
        maps = maps.unflatten(0, (2, model.num_images))
        for k, image in enumerate(model.super_image.index):
            for r, row in enumerate(image):
                for c, frame in enumerate(row):
                    cell = maps[:, k, :, r * height:(r + 1) * height, c * width:(c + 1) * width]
                    assert frame < 0 or torch.equal(frames[:, frame], cell)
        with pytest.raises(ValueError, match='NCHW'):
            model.forward_intermediates(clip, output_fmt='NLC', per_frame=True)

    def test_prune_intermediate_layers(self, args):
        model = build(args)
        clip = random_clip(model)
        with torch.no_grad():
            logits = model(clip)
            taps = model.forward_intermediates(clip, intermediates_only=True)
        last = len(taps) - 1
        for index in {0, last // 2, last}:
            pruned = copy.deepcopy(model)
            assert pruned.prune_intermediate_layers([index], prune_norm=True) == [index]
            (tap,) = pruned.forward_intermediates(clip, indices=[index], intermediates_only=True)
            assert_close(tap, taps[index])
            tap.square().mean().backward()
            assert grad_names(pruned) == {name for name, _ in pruned.named_parameters()}  # nothing left over
        model.prune_intermediate_layers([last], prune_norm=False, prune_head=False)
        with torch.no_grad():
            assert_close(model(clip), logits)

    @torch.no_grad()
    def test_torchscript(self, args):
        model = build(args)
        if 'torch.jit.script' in tag_record(args['model_name']).unsupported:
            with pytest.raises((RuntimeError, NotImplementedError, torch.jit.frontend.FrontendError)):
                torch.jit.script(model)
            return
        clip = random_clip(model)
        with io.BytesIO() as file:
            torch.jit.save(torch.jit.script(model), file)
            file.seek(0)
            assert_close(torch.jit.load(file)(clip), model(clip))

    def test_fx(self, args):
        model = build(args)
        clip = random_clip(model)
        tracer = dict(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions())
        if 'torch.fx' in tag_record(args['model_name']).unsupported:
            with pytest.raises((TypeError, RuntimeError, ValueError)):
                get_graph_node_names(model, tracer)
            return
        train_nodes, eval_nodes = get_graph_node_names(model, tracer)
        traced = create_feature_extractor(
            model, train_return_nodes=train_nodes[-1:], eval_return_nodes=eval_nodes[-1:], tracer_kwargs=tracer).eval()
        (logits,) = traced(clip).values()
        with torch.no_grad():
            assert_close(logits, model(clip))
            assert_close(torch.jit.script(traced)(clip), {eval_nodes[-1]: logits})
        traced.zero_grad()
        (logits,) = traced.train()(clip).values()
        logits.mean().backward()
        assert grad_names(traced) == {name for name, _ in traced.named_parameters()}

    @torch.no_grad()
    def test_compile(self, args):
        model = build(args)
        clip = random_clip(model)
        torch.compiler.reset()
        assert_close(torch.compile(model, fullgraph=True, backend='eager')(clip), model(clip))

    @torch.no_grad()
    def test_export(self, args):
        model = build(args)
        batch = torch.export.Dim('batch', min=2, max=16)
        program = torch.export.export(model, (random_clip(model, 3),), dynamic_shapes=({0: batch},))
        clip = random_clip(model, 2)
        assert_close(program.module()(clip), model(clip))

    @torch.no_grad()
    def test_memory_format_and_precision(self, args):
        model = build(args)
        clip = random_clip(model)
        logits = model(clip)
        channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert_close(channels_last(clip.to(memory_format=torch.channels_last_3d)), logits, atol=1e-4)
        once = copy.deepcopy(model)  # every weight rounded once: the same on every machine
        for parameter in once.parameters():
            parameter.copy_(parameter.bfloat16())
        rounded = (once(clip.bfloat16().float()) - logits).norm()
        # Autocast rounds the factors and the result of each product, and kernels may round partial sums: twice to five
        # times the error, and as much again for luck. Attention in float32: torch's fused kernel in bfloat16 may differ
        # by more than rounding on CPUs with AMX (seen 15 to 40 % for heads of 8 channels).
        with torch.autocast('cpu', torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            assert (model(clip) - logits).norm() < 12 * rounded
        half = model.to(torch.bfloat16)
        for x in (clip.bfloat16(), torch.zeros(clip.shape, dtype=torch.uint8)):
            assert half(x).dtype == torch.bfloat16 and half(x).isfinite().all()

    @torch.no_grad()
    def test_save_and_load(self, args, tmp_path):
        model = build(args)
        clip = random_clip(model)
        save_for_hf(model, tmp_path, safe_serialization=True)
        loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
        assert type(loaded) is type(model)
        for name in ('num_frames', 'layout', 'img_size', 'in_chans', 'num_classes', 'num_images'):
            assert getattr(loaded, name) == getattr(model, name), name
        assert loaded.head_trained
        assert torch.equal(loaded(clip), model(clip))
        changed = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=3).eval()
        assert changed(clip).shape == (2, 3) and not changed.head_trained
        assert_close(changed.forward_features(clip), model.forward_features(clip))

    @torch.no_grad()
    def test_copies(self, args):
        model = build(args)
        clip = random_clip(model)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(clip), model(clip))
        assert twin.layout == model.layout and twin._model_args == model._model_args
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}


class AdapterTester(ModelTester):
    """Runs small models of adapters beside the blocks of a backbone, whose maps have the clip as batch."""

    def of_images(self, maps: Tensor) -> Tensor:
        assert maps.ndim == 5  # [B, K, D, h, w]
        return maps.flatten(0, 1)

    def test_torchscript(self):
        pytest.skip('exempt: blocks are run through a runner that is no module')

    def test_fx(self):
        pytest.skip('exempt: blocks are run through a runner that is no module')


class ConfigTester:
    """Checks registered models as they are, of full size, without computing anything.

    Attributes:
        names: Names in timm's registry, without tags.
    """
    names: Sequence[str] = ()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if 'name' in metafunc.fixturenames:
            metafunc.parametrize('name', self.names)

    def of_images(self, features: Tensor) -> Tensor:
        """Takes what `forward_features` returns to features with the images of all clips in the batch."""
        return features

    def test_config(self, name):
        model = timm.create_model(name, device='meta').eval()
        check_groups(model)
        with pytest.raises(TypeError, match='no_such_argument'):
            timm.create_model(name, device='meta', no_such_argument=1)
        cfg = model.default_cfg
        assert cfg is model.pretrained_cfg
        assert model.num_classes == cfg['num_classes']
        assert (model.in_chans, *model.img_size) == tuple(cfg['input_size'])
        assert f'{cfg["first_conv"]}.weight' in model.state_dict()
        assert model._traits['first_conv'] == cfg['first_conv']
        classifiers = (cfg['classifier'],) if isinstance(cfg['classifier'], str) else cfg['classifier']
        assert {f'{name}.{kind}' for name in classifiers for kind in ('weight', 'bias')} == model.classifier_keys()

        clip = torch.empty(2, model.in_chans, model.num_frames, *model.img_size, device='meta')
        raw = model.forward_features(clip)
        features = self.of_images(raw)
        height, width = (side // model.feature_info[-1]['reduction'] for side in model.image_size)
        if features.ndim == 3:  # tokens, with a few in front that are no patches; those of tubelets are several maps
            assert features.shape[1] >= height * width and features.shape[1] % (height * width) < 8
            features = features[:, -height * width:].unflatten(1, (height, width))
        if features.shape[1:3] == (height, width):
            features = features.permute(0, 3, 1, 2)
        assert features.shape == (2 * model.num_images, model.num_features, height, width)
        assert model.forward_head(raw).shape == (2, model.num_classes)  # small models show that this is the forward
        assert model.to(torch.bfloat16)(clip.bfloat16()).dtype == torch.bfloat16
        model.reset_classifier(0)
        assert model.float().forward_head(raw).shape == (2, model.head_hidden_size)


def check_groups(model: nn.Module) -> None:
    """What optimizers ask of a model."""
    assert inspect.signature(model.reset_classifier).parameters['global_pool'].default is None
    parameters = [name for name, _ in model.named_parameters()]
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert groups.keys() == set(parameters)  # every parameter is in a group
        assert len(set(groups.values())) > (1 if coarse else 4)
    for pattern in model.no_weight_decay():
        name = pattern.removeprefix('backbone.')  # timm's ViT names all that it may have
        absent = name == 'dist_token' or getattr(model.backbone, name, parameters) is None
        assert absent or any(fnmatch(parameter, pattern) for parameter in parameters), pattern
