"""Draw what a model sees of a video, as PNG files.

For an AM Flow model: the attention-map flow of every block, its channels as colours (Figure 5 of the
paper), in CLIP.flow.png, and its strength laid over the frames, in CLIP.flow_overlay.png. For all
other models: the image that the backbone gets, in CLIP.super_image.png; cells without a frame are
grey. No trained head is needed: a model that starts from image weights is shown with these.

    flatzoo show clip.mp4 --model amflow_dinov2_b_tcn --out pictures/
    flatzoo show clip.mp4 --model sifar_swin_b12 --model-kwargs layout=2x4 img_size=112
"""
import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import CommandError, write
from ._arguments import KeyValues, count
from ._model import load_model

if TYPE_CHECKING:
    from torch import Tensor

    from flatzoo import VideoModel

DEFAULT_MODEL = 'sifar_resnet10t'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo show`."""
    parser.add_argument('clip', metavar='CLIP', help='video file')
    parser.add_argument(
        '--model', default=DEFAULT_MODEL, metavar='NAME',
        help="a name that 'flatzoo list' shows, hf-hub:ORG/NAME or local-dir:FOLDER (default: %(default)s)")
    parser.add_argument('--checkpoint', metavar='FILE', help='weights to load in place of those of the name')
    parser.add_argument('--num-classes', type=count, metavar='N', help='number of classes (default: that of the name)')
    parser.add_argument(
        '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE',
        help='further arguments of the model, such as num_frames=16')
    parser.add_argument(
        '--allow-untrained', action='store_true', help='draw with random weights; nothing is downloaded')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument(
        '--out', type=Path, default=Path('.'), metavar='FOLDER', help='where to write (default: current folder)')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo show`."""
    from flatzoo.data.decode import VideoError
    from flatzoo.models.amflow import AMFlow

    model = load_model(
        args.model, args.checkpoint, args.num_classes, args.allow_untrained, args.device, needs_head=False,
        **args.model_kwargs)
    try:
        clip, times = _first_clip(model, args.clip)
    except VideoError as error:
        raise CommandError(error) from error
    title = f'{args.model} on {Path(args.clip).name}'
    if isinstance(model, AMFlow):
        pictures = _flow_pictures(model, clip, times, title)
    else:
        pictures = {'super_image': _super_image(model, clip)}
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, save in pictures.items():
            path = args.out / f'{Path(args.clip).stem}.{name}.png'
            partial = path.with_name(f'{path.name}.partial')
            try:
                save(partial)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            write(str(path))
    except OSError as error:
        raise CommandError(f'{args.out}: cannot be written to ({error.strerror}). Choose another --out.') from error
    return 0


def _first_clip(model: 'VideoModel', path: str) -> tuple['Tensor', list[float]]:
    """The first view of a video, uint8 `[1, C, T, H, W]`, and the time of each frame in seconds from its start."""
    from flatzoo import eval_protocol
    from flatzoo.data.decode import VideoReader

    protocol = eval_protocol(model)
    clip = protocol.load_views(path, model.num_frames, model.img_size)[:1]
    with VideoReader(path) as video:
        times = video.timestamps[protocol.sample(len(video), model.num_frames)[0]] - video.timestamps[0]
    return clip, times.tolist()


def _flow_pictures(model: 'VideoModel', clip: 'Tensor', times: list[float], title: str) -> dict:
    from flatzoo.visualize.attention_flow import flow_figure, flow_maps, overlay_figure

    frames = clip[0].transpose(0, 1)  # [T, 3, H, W]
    try:
        flows = [flow[0].cpu() for flow in flow_maps(model, clip.to(next(model.parameters()).device))]
        figures = {
            'flow': flow_figure(frames, flows, model.am_blocks, times, title),
            'flow_overlay': overlay_figure(frames, flows, model.am_blocks, times, title),
        }
    except (ImportError, ValueError) as error:  # no matplotlib, or a model without flow
        raise CommandError(error) from error
    return {name: _saver(figure) for name, figure in figures.items()}


def _saver(figure):
    return lambda path: figure.savefig(path, format='png', dpi=150)


def _super_image(model: 'VideoModel', clip: 'Tensor'):
    """Saves the image that the backbone gets; several images of a clip side by side."""
    import torch
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        images = model.super_image(clip.to(next(model.parameters()).device)).float().cpu()  # [K, C, H, W]
    images = (images * std + mean).clamp(0, 1)
    picture = to_pil_image(make_grid(images, nrow=len(images), padding=4 if len(images) > 1 else 0))
    return lambda path: picture.save(path, format='png')
