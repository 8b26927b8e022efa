"""Runners of image transformers: the same numbers as the backbone's own `forward_features`, and what is refused."""
import pytest
import timm
import torch
from timm.layers import set_fused_attn

from flatzoo.models.block_runner import block_runner

SMALL = dict(embed_dim=48, depth=2, num_heads=3, num_classes=0)
HIERA = dict(
    embed_dim=16, num_heads=1, stages=(2, 1, 3, 2), num_classes=0, img_size=64, mask_unit_size=(8, 8),
)
# a tiny model of every entry point, which keeps all else that makes the family
BACKBONES = {
    name: dict(SMALL, img_size=56 if 'patch14' in name else 64) for name in (
        'vit_base_patch16_224', 'vit_base_patch14_dinov2', 'vit_base_patch14_reg4_dinov2', 'vit_base_patch16_clip_224',
        'vit_base_patch16_clip_quickgelu_224', 'vit_base_patch16_siglip_224', 'vit_base_patch16_siglip_gap_224',
        'deit3_base_patch16_224', 'vit_base_patch16_dinov3', 'vit_base_patch16_dinov3_qkvb', 'eva02_base_patch14_224',
        'eva02_base_patch16_clip_224', 'vit_pe_core_base_patch16_224', 'vit_base_patch16_rope_224',
        'vit_base_patch16_rope_mixed_224', 'vit_base_patch16_rope_mixed_ape_224', 'eva_giant_patch14_224',
    )
} | {
    'vit_base_patch16_siglip_gap_224-qk_norm': dict(SMALL, img_size=64, qk_norm=True, scale_attn_norm=True),
    'vit_base_patch16_dinov3-gqa': dict(
        SMALL, img_size=64, attn_type='rope', qkv_fused=False, num_kv_heads=1, qk_norm=True),
    'eva02_base_patch14_224-bias': dict(SMALL, img_size=56, qkv_fused=True),
    'hiera_tiny_224': HIERA,
    'hiera_small_abswin_256': HIERA,
    'hiera_tiny_224-pool2': dict(HIERA, q_pool=2, mask_unit_attn=(True, False, False, False)),
    'hiera_tiny_224-noproj': dict(HIERA, use_expand_proj=False, init_values=0.1),
}


def create(name, **kwargs):
    torch.manual_seed(0)
    backbone = timm.create_model(name.partition('-')[0], **{**BACKBONES.get(name, {}), **kwargs}).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in backbone.parameters():  # those that start at zero must matter
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return backbone


def walk(runner, backbone, images):
    """The loop of the docstring of `BlockRunner`."""
    x, positions = runner.embed(backbone, images)
    for index, block in enumerate(backbone.blocks):
        normed = block.norm1(x)
        q, k, v = runner.qkv(block, normed, runner.position(backbone, positions, index))
        x = runner.shortcut(block, x, normed) + runner.attention_branch(block, runner.attend(block, normed, q, k, v))
        x = x + runner.mlp_branch(block, block.mlp(block.norm2(x)))
    return runner.norm(backbone, x)


@pytest.fixture(params=[True, False], ids=['fused', 'eager'])
def attention(request):
    """The attention of the models that are built in a test."""
    set_fused_attn(request.param)
    yield
    set_fused_attn(True)


@torch.no_grad()
@pytest.mark.parametrize('name', BACKBONES)
def test_is_forward_features(name, attention):
    backbone = create(name)
    runner = block_runner(backbone, name)
    images = torch.randn(2, 3, *[BACKBONES[name]['img_size']] * 2, generator=torch.Generator().manual_seed(2))
    features = backbone.forward_features(images)
    assert torch.equal(walk(runner, backbone, images), features)
    assert features.std() > 0.1
    assert all(runner.width(block) for block in backbone.blocks)


@pytest.mark.parametrize('name', ['vit_base_patch16_224', 'vit_base_patch16_dinov3'])
def test_is_forward_features_in_training(name):
    """Dropout and stochastic depth draw the same random numbers."""
    backbone = create(name, drop_path_rate=0.3, attn_drop_rate=0.3, proj_drop_rate=0.3, pos_drop_rate=0.3).train()
    images = torch.randn(2, 3, 64, 64)
    results = []
    for forward in (backbone.forward_features, lambda x: walk(block_runner(backbone, name), backbone, x)):
        torch.manual_seed(3)
        results.append(forward(images))
    assert torch.equal(*results)


@torch.no_grad()
@pytest.mark.parametrize('name', ['vit_base_patch16_224', 'vit_base_patch16_dinov3'])
def test_gated_attention(name):
    backbone = create(name)
    for block in backbone.blocks:
        block.attn.gate = torch.nn.Linear(48, 48)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(walk(block_runner(backbone, name), backbone, images), backbone.forward_features(images))


@torch.no_grad()
@pytest.mark.parametrize('name', ['vit_base_patch14_reg4_dinov2', 'eva02_base_patch14_224', 'hiera_tiny_224'])
def test_maps_are_the_intermediates_of_the_backbone(name):
    backbone = create(name)
    runner = block_runner(backbone, name)
    images = torch.randn(2, 3, *[BACKBONES[name]['img_size']] * 2)
    levels = [int(info['module'].removeprefix('blocks.')) for info in backbone.feature_info]
    maps = backbone.forward_intermediates(images, intermediates_only=True)
    x, positions = runner.embed(backbone, images)
    for index, block in enumerate(backbone.blocks):
        x = block(x) if positions is None else block(x, rope=positions)
        if index in levels:
            rows, cols = runner.grid_size(backbone, images.shape[-2:], index)
            patches = runner.in_rows(backbone, x, index)[:, runner.num_prefix_tokens(backbone):]
            assert torch.equal(patches.transpose(1, 2).unflatten(2, (rows, cols)), maps[levels.index(index)])


@torch.no_grad()
def test_flow_of_windows_lies_where_their_tokens_do():
    """The tokens of a window of Hiera lie apart in the sequence."""
    backbone = create('hiera_tiny_224')
    runner, block = block_runner(backbone, ''), backbone.blocks[0]
    assert block.attn.use_mask_unit_attn
    x = block.norm1(runner.embed(backbone, torch.randn(4, 3, 64, 64))[0])
    q, k, _ = runner.qkv(block, x)
    assert q.shape == (4, 1, 4, 64, 16)
    received = (q @ k.mT * block.attn.scale).softmax(-1).sum(-2)  # [B * T, heads, windows, n]
    frames_q, frames_k = (runner.per_frame(tensor, 2) for tensor in (q, k))
    flow = (frames_q @ frames_k.mT * block.attn.scale).softmax(-1).sum(-2).transpose(-1, -2)
    flow = runner.per_token(block, flow)
    assert flow.shape == (2, 2, 256, 1)
    # attention reads its tokens in the same order
    assert torch.equal(flow.flatten(0, 1), received.transpose(1, 3).reshape(4, 256, 1))


@pytest.mark.parametrize('name, reason', [
    ('vit_base_patch16_xp_224', 'one residual'),
    ('vit_small_patch16_18x2_224', 'several attentions'),
    ('eva02_enormous_patch14_clip_224', 'normalises behind'),
    ('vit_base_patch16_224-diff', 'two attention maps'),
    ('beit_base_patch16_224', 'position biases'),
    ('vit_relpos_base_patch16_224', 'position biases'),
    ('swin_tiny_patch4_window7_224', 'shifted windows'),
    ('deit_base_distilled_patch16_224', 'two classifiers'),
    ('resnet18', 'not known'),
    ('convnext_tiny', 'not known'),
])
def test_refuses_what_it_does_not_know(name, reason):
    kwargs = dict(attn_layer='diff') if name.endswith('diff') else {}
    backbone = timm.create_model(name.partition('-')[0], device='meta', **kwargs)
    with pytest.raises(ValueError, match=reason) as error:
        block_runner(backbone, name)
    assert name in str(error.value) and 'Accepted are' in str(error.value)


@pytest.mark.parametrize('name', ['vit_base_patch16_224', 'vit_base_patch16_dinov3', 'hiera_tiny_224'])
def test_refuses_to_drop_patches(name):
    with pytest.raises(ValueError, match='patch_drop_rate=0'):
        block_runner(create(name, patch_drop_rate=0.5), name)


def test_refuses_subclasses():
    class Mine(timm.models.VisionTransformer):
        pass

    with pytest.raises(ValueError, match='Mine'):
        block_runner(Mine(embed_dim=8, depth=1, num_heads=1), 'mine')
