"""Class activation maps, attention rollout and frame importance: that they point at what decides, in every family."""
import amflow_cases
import pytest
import torch
import torch.nn.functional as F
from adapter_cases import BACKBONES
from base import build, random_clip
from torch import nn

from flatzoo.visualize.cam import METHODS, class_activation_maps, default_method, frame_maps
from flatzoo.visualize.importance import frame_importance
from flatzoo.visualize.super_image import super_images

VIT = dict(embed_dim=24, depth=2, num_heads=3)
SWIN = dict(
    model_name='superimage', backbone='swin_tiny_patch4_window7_224', embed_dim=16, depths=(1, 1, 2, 2),
    num_heads=(1, 2, 4, 8), img_size=64)
FAMILIES = {  # arguments, points of a frame's map, whether it is a plain transformer, whether tokens are classified
    'cnn': (dict(model_name='superimage', backbone='test_resnet', img_size=64), (2, 2), False, False),
    'half_cells': (
        dict(model_name='superimage', backbone='test_resnet', img_size=80, num_frames=4), (5, 5), False, False),
    'convnext': (dict(model_name='superimage', backbone='test_convnext', img_size=64), (2, 2), False, False),
    'swin': (SWIN, (2, 2), False, False),
    'vit_token': (dict(model_name='superimage', backbone='test_vit', img_size=32), (2, 2), True, True),
    'vit_mean': (dict(model_name='superimage', backbone='test_vit3', img_size=32), (2, 2), True, False),
    'videomae': (dict(model_name='videomae_vit_b', img_size=(32, 48), **VIT), (2, 3), True, False),
    'time_videomae': (dict(model_name='time_videomae_b', img_size=(32, 64), **VIT), (1, 2), True, False),
    'time_vit': (dict(model_name='time_vit_b', img_size=32, num_new_frames=4, **VIT), (1, 1), True, True),
    'amflow': (amflow_cases.VIT, (4, 4), True, True),
    'amflow_eva': (amflow_cases.EVA, (4, 4), True, True),
    'amflow_hiera': (amflow_cases.HIERA, (2, 2), False, True),
    'aim': (dict(BACKBONES['clip'], model_name='aim_clip_b'), (4, 4), False, True),
    'zeroi2v_mean': (dict(BACKBONES['siglip2'], model_name='zeroi2v_clip_b'), (4, 4), False, True),
}
LAYOUTS = [
    ('grid', 8), ('4x4:snake', 14), ('nested:2x2/1x2', 8), ('random:3x3:always', 8), ('2x5,pad=last', 8),
    ('time:2:spatial,scale=none', 8), ('time:2:temporal,scale=cell', 8), ('tall', 8), ('time:1', 5),
]


def family(name):
    return pytest.param(*FAMILIES[name], id=name)


class Bright(nn.Module):
    """A backbone whose class 1 is brightness, maps with a stride of 8 pixels and a channel that nothing depends on."""

    def forward_features(self, image):
        bright = F.avg_pool2d(image.mean(1, keepdim=True), 8)
        return torch.cat([bright, torch.rand_like(bright)], dim=1)

    def forward_head(self, maps, pre_logits=False):
        score = maps.mean((2, 3))[:, :1]
        return torch.cat([-score, score], dim=1)

    def forward(self, image):
        return self.forward_head(self.forward_features(image))


def bright_model(layout='grid', num_frames=8):
    model = build(dict(
        model_name='superimage', backbone='test_resnet', img_size=32, layout=layout, num_frames=num_frames,
        num_classes=2))
    model.backbone.forward_features, model.backbone.forward_head = Bright().forward_features, Bright().forward_head
    model.backbone.forward = Bright().forward
    return model


@pytest.mark.parametrize('layout, num_frames', LAYOUTS)
@pytest.mark.parametrize('method', ['ablation', 'gradcam'])
def test_a_bright_corner_lies_in_its_frame(method, layout, num_frames):
    pytest.importorskip('pytorch_grad_cam', reason="needs pip install 'flatzoo[show]'")
    model = bright_model(layout, num_frames)
    clip = torch.zeros(2, 3, num_frames, 32, 32)
    clip[0, :, 3, :16, 16:] = 1
    clip[1, :, 4, 16:, :16] = 1
    images = class_activation_maps(model, clip, method, target=1)
    maps = frame_maps(model, images)
    assert images.shape[:2] == (2, model.super_image.num_images) and maps.shape[:2] == (2, num_frames)
    right, below = (size // 2 for size in reversed(maps.shape[-2:]))
    inside = [maps[0, 3, :below, right:], maps[1, 4, below:, :right]]
    assert all(part.min() > 0.9 for part in inside)
    assert sum(part.sum() for part in inside) > 0.9 * maps.sum()  # shrinking blurs


def test_importance_points_at_the_frame_that_decides():
    model = bright_model()
    forward = model.backbone.forward
    cells = torch.zeros(3, 3).index_put_((torch.tensor(1), torch.tensor(0)), torch.tensor(1.))  # frame 3 of 3x3 cells
    mask = cells.repeat_interleave(32, 0).repeat_interleave(32, 1)
    model.backbone.forward = lambda image: 9 * forward(image * mask)
    clip = torch.zeros(2, 3, 8, 32, 32)
    clip[0, :, 3] = 1
    clip[1] = torch.linspace(0, 1, 8).view(1, -1, 1, 1)
    importance = frame_importance(model, clip, target=[1, 1], batch_size=3)
    score = torch.tensor([[1., 0.], [3 / 7, 2 / 7]])  # with frame 3, with frame 2 in its place
    falls = (2 * score).sigmoid().diff(dim=1).neg()[:, 0]
    torch.testing.assert_close(importance, F.one_hot(torch.tensor([3, 3]), 8) * falls[:, None])
    torch.testing.assert_close(frame_importance(model, clip, target=0), -importance)
    assert torch.equal(frame_importance(model, clip), importance)  # class 1 is the more probable one


def test_the_first_frame_gives_way_to_the_second():
    model = bright_model('time:1', 3)
    clip = torch.zeros(1, 3, 3, 32, 32)
    clip[:, :, 0] = 1
    importance = frame_importance(model, clip, target=1)[0]
    assert importance[0] > 0 > importance[1] and importance[2] == 0  # in place of the second the bright one comes twice


@pytest.mark.parametrize('args, points, plain, tokens', [family(name) for name in FAMILIES])
def test_every_family(args, points, plain, tokens):
    pytest.importorskip('pytorch_grad_cam', reason="needs pip install 'flatzoo[show]'")
    model = build(args).train()
    model.backbone.eval()
    parameter = next(model.parameters())
    parameter.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    learning = [p.requires_grad for p in model.parameters()]
    clip, tops = random_clip(model), []
    assert default_method(model) == ('gradcam' if tokens else 'ablation')
    for method in METHODS:
        if method == 'rollout' and not plain:
            with pytest.raises(ValueError, match='attention rollout takes plain transformers'):
                class_activation_maps(model, clip, method)
            continue
        maps = class_activation_maps(model, clip, method, max_channels=5)
        assert maps.shape[:2] == (2, model.super_image.num_images) and maps.isfinite().all()
        assert maps.amin() >= 0
        tops += maps.amax((1, 2, 3)).tolist()
        if maps.any():
            assert (maps[0] - maps[1]).abs().max() > 1e-3  # clips have their own
        with torch.inference_mode():
            torch.testing.assert_close(
                class_activation_maps(model, clip[1:], method, max_channels=5), maps[1:], atol=1e-3, rtol=1e-3)
        assert frame_maps(model, maps).shape == (2, model.num_frames, *points)
    assert all(min(abs(top - value) for value in (0, 1)) < 1e-3 for top in tops) and max(tops) > 0  # 0: no evidence
    assert modes == [module.training for module in model.modules()]
    assert learning == [p.requires_grad for p in model.parameters()] and all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize('args', [FAMILIES['cnn'][0], SWIN], ids=['NCHW', 'NHWC'])
def test_behind_a_mean_and_a_matrix_grad_cam_is_the_matrix(args):
    pytest.importorskip('pytorch_grad_cam')
    model = build(args)
    clip = random_clip(model, 1)
    features = model.forward_features(clip)[0]
    features = features.movedim(-1, 0) if args is SWIN else features
    weight = model.get_classifier().weight[3]
    expected = torch.einsum('d,dhw->hw', weight, features).relu()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(
        class_activation_maps(model, clip, 'gradcam', 3)[0, 0], expected, atol=1e-4, rtol=1e-3)
    falls = weight * features.mean((1, 2))  # of the logit, when a channel is set to 0
    expected = torch.einsum('d,dhw->hw', falls, features).relu()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(
        class_activation_maps(model, clip, 'ablation', 3)[0, 0], expected, atol=1e-3, rtol=1e-2)


def test_ablation_is_that_of_grad_cam_behind_a_relu():
    """Its own AblationCAM, which runs the whole model, on the super image."""
    cam = pytest.importorskip('pytorch_grad_cam')
    model = build(dict(model_name='superimage', backbone='test_resnet', img_size=64))
    clip = random_clip(model, 1)
    with torch.no_grad():
        target = model(clip)[0].argmax().item()
        assert model(clip)[0, target] > 0  # it divides by the score
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with cam.AblationCAM(model.backbone, [model.backbone.layer4]) as oracle:
        image = oracle(model.super_image(clip), [ClassifierOutputTarget(target)])
    ours = class_activation_maps(model, clip, 'ablation', target)
    ours = F.interpolate(ours, image.shape[-2:], mode='bilinear')[0, 0]
    assert torch.corrcoef(torch.stack([ours.flatten(), torch.from_numpy(image).flatten()]))[0, 1] > 0.999


def test_features_are_computed_once():
    pytest.importorskip('pytorch_grad_cam')
    model = build(SWIN)
    calls = []
    model.backbone.patch_embed.register_forward_hook(lambda *args: calls.append(1))
    for method in ('ablation', 'gradcam'):
        class_activation_maps(model, random_clip(model), method, target=0)
    assert len(calls) == 4  # once for each of two clips and two methods, with 128 channels to ablate


def test_channels_that_are_tried_are_the_strongest():
    pytest.importorskip('pytorch_grad_cam')
    model = build(dict(model_name='superimage', backbone='test_vit', img_size=32))
    batches = []
    model.backbone.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    clip = random_clip(model, 1)
    class_activation_maps(model, clip, 'ablation', target=0)
    tried = sum(batches)
    assert 64 <= tried <= 67  # to learn the maps and the score
    batches.clear()
    class_activation_maps(model, clip, 'ablation', target=0, max_channels=7)
    assert sum(batches) == 7 + tried - 64


@torch.no_grad()
def test_rollout_of_a_vision_transformer():
    model = build(dict(model_name='superimage', backbone='test_vit', img_size=32))
    clip = random_clip(model, 1)
    x = model.backbone._pos_embed(model.backbone.patch_embed(model.super_image(clip)))
    product = torch.eye(x.shape[1])
    for block in model.backbone.blocks:
        q, k, _ = block.attn.qkv(block.norm1(x)).reshape(x.shape[1], 3, block.attn.num_heads, -1).permute(1, 2, 0, 3)
        attention = (q @ k.transpose(1, 2) * block.attn.scale).softmax(-1).mean(0)
        product = (attention + torch.eye(len(attention))) / 2 @ product
        x = block(x)
    expected = product[0, 1:].view(6, 6)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(class_activation_maps(model, clip, 'rollout')[0, 0], expected, atol=1e-4, rtol=1e-4)


def test_super_images_are_the_pictures_that_went_in():
    model = build(dict(model_name='superimage', backbone='test_resnet', img_size=32, num_frames=4, layout='2x3'))
    clip = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    images = super_images(model, clip)
    assert images.shape == (2, 1, 3, 64, 96) and images.dtype == torch.uint8
    frames = model.super_image.inverse(images.flatten(0, 1).float())
    assert torch.equal(frames.transpose(1, 2).to(torch.uint8), clip)
    mean = torch.tensor(model.pretrained_cfg['mean']) * 255
    torch.testing.assert_close(images[0, 0, :, 40, 70].float(), mean.round())  # an empty cell


@pytest.mark.parametrize('kwargs, message', [
    (dict(method='lime'), "method='lime' is none of 'ablation', 'gradcam', 'rollout'"),
    (dict(target=10), 'target=10: accepted are None .* one index of 0 to 9'),
    (dict(target=[1]), 'one for each of the 2 clips'),
])
def test_refusals(kwargs, message):
    model = build(dict(model_name='superimage', backbone='test_resnet', img_size=32))
    with pytest.raises(ValueError, match=message):
        class_activation_maps(model, random_clip(model), **kwargs)


def test_models_that_cannot_be_explained():
    pytest.importorskip('pytorch_grad_cam')
    model = build(dict(model_name='superimage', backbone='test_resnet', img_size=32), num_classes=0)
    for explain in (class_activation_maps, frame_importance):
        with pytest.raises(ValueError, match='without a classifier no class can be explained'):
            explain(model, random_clip(model))
    model = build(dict(model_name='superimage', backbone='test_resnet', img_size=32, num_frames=1))
    with pytest.raises(ValueError, match='one frame has no neighbour'):
        frame_importance(model, random_clip(model))
    model.backbone.forward_features = lambda image: image.flatten(1)
    with pytest.raises(ValueError, match=r"backbone='test_resnet' are no maps over its image \(\[1, 3072\]\)"):
        class_activation_maps(model, random_clip(model), target=0)
    model = build(dict(model_name='superimage', backbone='test_vit', img_size=32))
    model.backbone.blocks = nn.Sequential()
    with pytest.raises(ValueError, match=r'reads a class token, and it has no blocks\[-1\].norm1'):
        class_activation_maps(model, random_clip(model), target=0)
