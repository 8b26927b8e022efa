"""Tries one small model of every timm module as a video model and writes a table of what works.

For each model: construction with 8 frames in 3x3 cells (one of them empty), forward, backward (every parameter gets a
gradient), feature maps, their split into frames, `features_only`, and saving + loading with equal logits. Frame sizes
are tried in turn until one is accepted; what a refusal says is kept.

    python benchmarks/models/any_backbone.py --out benchmarks/results/any_backbone.md
"""
import argparse
import gc
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch
from timm.models import save_for_hf

import flatzoo  # noqa: F401 - registers 'superimage'

# one small model per module of timm 1.0.31; a module that is not named here is tried with its first model
SMALL = dict(
    beit='beit_base_patch16_224', byoanet='halonet_h1', byobnet='test_byobnet', cait='cait_xxs24_224',
    coat='coat_tiny', convit='convit_tiny', convmixer='convmixer_768_32', convnext='test_convnext',
    cpubone='cpubone_nano', crossvit='crossvit_tiny_240', csatv2='csatv2', cspnet='cs3darknet_focus_s',
    cspnext='cspnext_tiny', davit='davit_tiny', deepseek_vit='deepseek_vit_412m', deit='deit_tiny_patch16_224',
    densenet='densenet121', dla='dla46x_c', dpn='dpn48b', edgenext='edgenext_xx_small',
    efficientformer='efficientformer_l1', efficientformer_v2='efficientformerv2_s0',
    efficientnet='test_efficientnet', efficientvim='efficientvim_m1', efficientvit_mit='efficientvit_b0',
    efficientvit_msra='efficientvit_m0', eva='vit_tiny_patch16_dinov3_qkvb', fasternet='fasternet_t0',
    fastvit='fastvit_t8', focalnet='focalnet_tiny_srf', gcvit='gcvit_xxtiny', gemma4_vit='gemma4_vit_167m',
    ghostnet='ghostnet_050', hardcorenas='hardcorenas_b', hgnet='hgnetv2_b0', hiera='hiera_tiny_224',
    hieradet_sam2='sam2_hiera_tiny', hrnet='hrnet_w18_small', iformer='iformer_t',
    inception_next='inception_next_atto', inception_resnet_v2='inception_resnet_v2', inception_v3='inception_v3',
    inception_v4='inception_v4', lcnetv2='lcnetv2_small', levit='levit_128s', lowformer='lowformer_b0',
    mambaout='test_mambaout', maxxvit='test_coatnet', metaformer='poolformerv2_s12', mlp_mixer='gmlp_ti16_224',
    mobilenetv3='mobilenetv3_small_050', mobilenetv5='mobilenetv5_base', mobilevit='mobilevit_xxs',
    mvitv2='mvitv2_tiny', naflexvit='naflexvit_base_patch16_parfac_gap', nasnet='nasnetalarge', nest='nest_tiny',
    nextvit='nextvit_small', nfnet='test_nfnet', pit='pit_ti_224', pnasnet='pnasnet5large', pvt_v2='pvt_v2_b0',
    qwen3_vit='qwen3_vit_88m', rdnet='rdnet_tiny', regnet='regnetx_002', repghost='repghostnet_050',
    repvit='repvit_m1', res2net='res2next50', resnest='resnest14d', resnet='test_resnet', resnetv2='resnetv2_18',
    rexnet='rexnet_100', selecsls='selecsls42', senet='legacy_seresnet18', sequencer='sequencer2d_s',
    shvit='shvit_s1', sknet='skresnet18', starnet='starnet_s050', swiftformer='swiftformer_xs',
    swin_transformer='swin_tiny_patch4_window7_224', swin_transformer_v2='swinv2_tiny_window8_256',
    swin_transformer_v2_cr='swinv2_cr_tiny_224', tiny_vit='tiny_vit_5m_224', tnt='tnt_s_legacy_patch16_224',
    tresnet='tresnet_m', twins='twins_svt_small', vgg='vgg11', visformer='visformer_tiny',
    vision_transformer='test_vit', vision_transformer_hybrid='vit_tiny_r_s16_p8_224',
    vision_transformer_relpos='test_vit_relpos', vision_transformer_sam='samvit_base_patch16_224',
    vitamin='vitamin_small_224', volo='volo_d1_224', vovnet='ese_vovnet19b_slim_dw', xception='legacy_xception',
    xception_aligned='xception41p', xcit='xcit_nano_12_p8_224',
)
SIZES = (64, 96, 112, 128, 80, 120, 98, 74, 85)


def modules() -> dict:
    """timm module -> the model to try."""
    found = {}
    for name in timm.list_models():
        entrypoint = timm.model_entrypoint(name)
        if entrypoint.__module__.startswith('timm.models.'):
            found.setdefault(entrypoint.__module__.rsplit('.', 1)[1], name)
    return {module: SMALL.get(module, first) for module, first in sorted(found.items())}


def attempt(backbone: str, num_frames: int) -> dict:
    """Runs all checks for one backbone; the row of the table."""
    columns = ('frame', 'params', 'forward', 'backward', 'features', 'frames', 'save_load', 'note')
    row = dict(model=backbone, **dict.fromkeys(columns, ''))
    model, refusals = None, {}
    for size in SIZES:
        try:
            model = timm.create_model(
                'superimage', backbone=backbone, num_frames=num_frames, img_size=size, num_classes=5)
            row['frame'] = size
            break
        except Exception as error:  # noqa: BLE001 - whatever a backbone says belongs into the table
            refusals[size] = f'{type(error).__name__}: {error}'.replace('\n', ' ')
    if model is None:
        row['note'] = 'refused at construction: ' + next(iter(refusals.values()))
        return row
    row['params'] = f'{sum(p.numel() for p in model.parameters()) / 1e6:.1f}'
    notes = [f'refuses {", ".join(map(str, refusals))}'] if refusals else []

    def step(name: str, action) -> None:
        try:
            row[name] = action() or 'yes'
        except Exception as error:  # noqa: BLE001
            row[name] = 'no'
            notes.append(f'{name}: {type(error).__name__}: {" ".join(str(error).split())[:200]}')

    clip = torch.randn(2, 3, num_frames, *model.img_size)
    maps = []

    def forward() -> None:
        with torch.no_grad():
            logits = model.eval()(clip)
        assert logits.shape == (2, 5) and logits.isfinite().all(), f'logits {tuple(logits.shape)}'

    def backward() -> None:
        model.train()(clip).square().mean().backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        model.zero_grad()
        assert not without, f'no gradient for {len(without)} parameters, such as {without[0]}'

    def features() -> str:
        with torch.no_grad():
            maps.extend(model.eval().forward_intermediates(clip[:1], intermediates_only=True))
            net = timm.create_model('superimage', backbone=backbone, num_frames=num_frames, img_size=row['frame'],
                                    features_only=True).eval()
            pyramid = net(clip[:1])
        assert [m.shape[1] for m in pyramid] == list(net.feature_info.channels()), 'channels differ from feature_info'
        return f'{len(maps)} levels'

    def frames() -> str:
        split = []
        for level in maps:
            try:
                split.append(model.frame_maps(level).shape[1] == num_frames)
            except ValueError:  # a frame is not a whole number of these features
                split.append(False)
        assert maps, 'no maps'
        assert any(split), 'no level splits into whole frames'
        return f'{sum(split)} levels'

    def save_load() -> None:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            save_for_hf(model, folder, safe_serialization=True)
            again = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
            difference = (again(clip[:1]) - model.eval()(clip[:1])).abs().max().item()
        assert difference == 0, f'logits differ by {difference}'

    for name, action in dict(
            forward=forward, backward=backward, features=features, frames=frames, save_load=save_load).items():
        step(name, action)
    row['note'] = '; '.join(notes)
    return row


def main() -> None:
    """Parses arguments, tries every module and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='benchmarks/results/any_backbone.md', help='Markdown table to write')
    parser.add_argument('--num-frames', type=int, default=8, help='frames per clip')
    parser.add_argument('--modules', nargs='*', help='only these timm modules')
    parser.add_argument('--threads', type=int, help='CPU threads')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)

    rows = []
    for module, backbone in modules().items():
        if args.modules and module not in args.modules:
            continue
        row = dict(module=module, **attempt(backbone, args.num_frames))
        rows.append(row)
        gc.collect()
        print(' | '.join(str(value) for value in row.values()), flush=True)

    works = [row for row in rows if row['forward'] == row['backward'] == row['save_load'] == 'yes']
    refused = [row for row in rows if row['note'].startswith('refused')]
    full = [row for row in works if 'no' not in (row['features'], row['frames'])]
    lines = [
        '# Every timm module as a video model',
        '',
        f'`python benchmarks/models/any_backbone.py`, timm {timm.__version__}, torch {torch.__version__}, CPU, '
        f'{args.num_frames} frames in the `grid` layout, random weights.',
        '',
        f'{len(works)} of {len(rows)} modules run forward, backward and save/load; {len(full)} of them also give '
        f'feature maps and maps per frame; {len(refused)} are refused at construction with a reason.',
        '',
        '| ' + ' | '.join(rows[0]) + ' |',
        '|' + '---|' * len(rows[0]),
        *('| ' + ' | '.join(str(value).replace('|', '/') for value in row.values()) + ' |' for row in rows),
    ]
    temporary = Path(args.out).with_suffix('.tmp')
    temporary.write_text('\n'.join(lines) + '\n')
    os.replace(temporary, args.out)
    print(lines[4])


if __name__ == '__main__':
    main()
