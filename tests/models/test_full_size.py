"""What needs minutes or a GPU; the README says how to run it."""
import pytest
import timm
import torch

import flatzoo


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sifar_swin_b12', 'flatten_uniformer_s_16f', 'time_vit_b'])
def test_full_size_model_runs(name):
    model = timm.create_model(name, num_classes=7).eval()
    clip = torch.randint(0, 256, (1, 3, model.num_frames, *model.img_size), dtype=torch.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        logits = model(clip)
        torch.testing.assert_close(model((clip / 255 - mean) / std), logits, rtol=1e-3, atol=1e-3)
    assert logits.shape == (1, 7) and logits.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize('layout', ['grid', 'time:2', 'grid,scale=cell,pad=last', 'tall'])
def test_layout_on_the_gpu_equals_the_cpu(layout):
    module = flatzoo.SuperImage(8, layout, 48, mean=(.5,) * 3, std=(.25,) * 3)
    clip = torch.randint(0, 256, (2, 3, 8, 40, 56), dtype=torch.uint8)
    expected = module(clip)
    torch.testing.assert_close(module.cuda()(clip.cuda()).cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_model_on_the_gpu_equals_the_cpu():
    model = timm.create_model('sifar_resnet10t', pretrained=True).eval()
    clip = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(clip)
        model.cuda()
        torch.testing.assert_close(model(clip.cuda()).cpu(), expected, rtol=1e-2, atol=1e-2)
        with torch.autocast('cuda', torch.bfloat16):
            compiled = torch.compile(model, fullgraph=True)(clip.cuda())
    torch.testing.assert_close(compiled.float().cpu(), expected, rtol=0.1, atol=0.2)
