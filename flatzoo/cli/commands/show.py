"""Draw what a model sees of a video and why it answers as it does.

Each CLIP is a file, a folder (searched for videos at any depth) or a pattern. Written are, of the first
clip that the model takes from a file (choose with --only):

    frames        CLIP.frames.png        the sampled frames, with their times
    super_image   CLIP.super_image.png   the image that the backbone gets; cells without a frame are hatched
    cam           CLIP.cam.png, .gif     where the evidence for a class lies, in that image and in each frame
    importance    CLIP.importance.png    by how much the probability of the class falls without each frame
    flow          CLIP.flow.png, CLIP.flow_overlay.png   of AM Flow models: the attention-map flow of every block

Pictures of other clips, models or options are not overwritten: a number follows the name then, as in
CLIP-2.cam.png. Those of a folder come into folders as there.

A picture that the model does not support is left out, and standard error says why. The maps of 'cam' are
made by --method: ablation (as in SIFAR's Figure 5), gradcam, or, for plain transformers, rollout. Maps and
importance explain the most probable class or --class. They need a trained head; the other pictures do not.

    flatzoo show clip.mp4
    flatzoo show videos/val/ --model runs/mine --only cam --out pictures/
    flatzoo show clip.mp4 --model sifar_swin_b14.ibm_k400 --class 'riding a bike' --out pictures/
    flatzoo show clip.mp4 --model amflow_dinov2_b_tcn --only flow
    flatzoo show clip.mp4 --model sifar_swin_b12 --model-kwargs layout=2x4 img_size=112 --only super_image
"""
import argparse
import difflib
import hashlib
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable
from flatzoo.inference.load import DEFAULT_MODEL, load_model, model_name

from .. import CommandError, write, write_error
from ..arguments import add_model_arguments, add_precision_argument, count

if TYPE_CHECKING:
    from torch import Tensor

    from flatzoo import VideoModel

PICTURES = ('frames', 'super_image', 'cam', 'importance', 'flow')
METHODS = {'ablation': 'AblationCAM', 'gradcam': 'Grad-CAM', 'rollout': 'Attention rollout, of no class'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo show`."""
    parser.add_argument('clips', nargs='+', metavar='CLIP', help='video file, folder or pattern')
    parser.add_argument(
        '--only', type=_names, metavar='NAME,...', help=f'what to draw, of {", ".join(PICTURES)} (default: all)')
    parser.add_argument(
        '--class', dest='target', metavar='CLASS', help='name or index of the class (default: the most probable one)')
    parser.add_argument(
        '--method', choices=tuple(METHODS),
        help='how maps are made (default: ablation; gradcam where a class token is classified, and for AM Flow)')
    parser.add_argument(
        '--max-channels', type=count, metavar='N',
        help='channels that --method ablation tries (default: all, or 64 where each one costs a forward)')
    parser.add_argument(
        '--model', default=DEFAULT_MODEL, metavar='NAME',
        help="a name that 'flatzoo list' shows, hf-hub:ORG/NAME or the FOLDER of a run (default: %(default)s)")
    add_model_arguments(parser)
    parser.add_argument(
        '--allow-untrained', action='store_true', help='draw with random weights; nothing is downloaded')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    add_precision_argument(parser)
    parser.add_argument(
        '--out', type=Path, default=Path('.'), metavar='FOLDER', help='where to write (default: current folder)')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo show`: 0 if all clips were drawn, 1 if not."""
    from flatzoo.data.decode import VideoError
    from flatzoo.inference.find import find_videos

    found = find_videos(args.clips)
    if len(found) == 1 and found[0][1] is not None:
        raise CommandError(found[0][1])
    _check_libraries(args)
    _check_folder(args.out)
    args.model = model_name(args.model)
    model = load_model(
        args.model, args.checkpoint, allow_untrained=args.allow_untrained, device=args.device, needs_head=False,
        precision=args.precision,
        **{'num_classes': args.num_classes, 'use_ema': args.use_ema, **args.model_kwargs})
    if args.target is not None and model.num_classes:
        _class_index(args.target, model.pretrained_cfg.get('label_names'), model.num_classes)
    failed = False
    left_out: set[str] = set()
    for path, error in found:
        try:
            if error is not None:
                raise CommandError(error)
            files = _draw(_View(model, args, path), left_out)
            for written in _save(files, args.out / _folder_of(path, args.clips), Path(path).stem, _stamp(args, path)):
                write(str(written))
        except (CommandError, VideoError) as problem:
            if len(found) == 1:
                raise CommandError(problem) from problem
            write_error(problem)
            failed = True
        except OSError as problem:
            raise CommandError(
                f'{args.out}: cannot be written to ({problem.strerror}). Choose another --out.') from problem
    return int(failed)


def _check_libraries(args: argparse.Namespace) -> None:
    """Reports missing packages before anything is downloaded or computed."""
    names = ['matplotlib.figure']
    if 'cam' in (args.only or ()) and args.method != 'rollout':
        names.append('pytorch_grad_cam')
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise CommandError(
                f"pictures are drawn with {name.partition('.')[0]}: pip install 'flatzoo[show]'.") from error


def _check_folder(folder: Path) -> None:
    """Checks whether pictures can be written to a folder that does not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    reason = None
    if not there.is_dir():
        reason = f'{there} is no folder'
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = 'Permission denied'
    if reason:
        raise CommandError(f'{folder}: cannot be written to ({reason}). Choose another --out.')


def _draw(view: '_View', left_out: set[str]) -> dict[str, Callable]:
    """The pictures of a clip: ends of names, and what saves each; says once what the model has not."""
    args, files = view.args, {}
    for name in args.only or PICTURES:
        try:
            files.update(getattr(view, name)())
        except ImportError as error:  # grad-cam
            raise CommandError(error) from error
        except ValueError as error:
            if args.only or name == 'cam' and (args.target is not None or args.method is not None):
                raise CommandError(error) from error
            if name != 'flow' and name not in left_out:
                left_out.add(name)
                write(f'{name} is left out: {error}', sys.stderr)
    return files


def _folder_of(path: str, clips: list[str]) -> Path:
    """The folder of a clip below the folder that was given, empty for one that was given itself."""
    for clip in clips:
        if os.path.isdir(clip) and Path(path).is_relative_to(clip):
            return Path(path).relative_to(clip).parent
    return Path()


def _stamp(args: argparse.Namespace, path: str) -> str:
    """What tells pictures of one clip, model and choice of options from those of another; it names none of them."""
    made_by = [
        os.path.abspath(path), args.model, args.checkpoint, args.num_classes, args.model_kwargs, args.target,
        args.method, args.max_channels]
    return f'flatzoo {hashlib.sha256(json.dumps(made_by, default=str).encode()).hexdigest()[:16]}'


def _stamp_in(path: Path) -> str | None:
    """The stamp of an existing picture, None if it has none."""
    from PIL import Image

    try:
        with Image.open(path, formats=('PNG', 'GIF')) as image:
            text = image.info.get('Source') or image.info.get('comment') or ''
    except (OSError, ValueError, SyntaxError):
        return None
    text = text.decode(errors='replace') if isinstance(text, bytes) else text
    return text if text.startswith('flatzoo ') else None


def _save(files: dict[str, Callable], folder: Path, stem: str, stamp: str) -> list[Path]:
    """Writes pictures under the first name that is free, or theirs from before."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        base = stem if number == 1 else f'{stem}-{number}'
        paths = [folder / f'{base}.{name}' for name in files]
        if all(_stamp_in(path) in (None, stamp) for path in paths):
            break
    for path, save in zip(paths, files.values()):
        partial = path.with_name(f'{path.name}.partial')
        try:
            save(partial, stamp)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return paths


class _View:
    """The first clip of a video as a model sees it; each method makes `{end of a file name: what saves it}`.

    The methods raise ValueError where the model has no such picture.
    """

    def __init__(self, model: 'VideoModel', args: argparse.Namespace, path: str):
        self.model, self.args = model, args
        self.clip, self.times = _first_clip(model, path)
        self.pictures = self.clip[0].transpose(0, 1)  # [T, 3, H, W]
        self.source = f'{args.model} on {Path(path).name}'
        self._answer: tuple[int, str] | None = None

    def frames(self) -> dict[str, Callable]:
        from flatzoo.visualize.figures import frames_figure

        return _png('frames', frames_figure(self.pictures, self.times, f'{len(self.times)} frames\n{self.source}'))

    def super_image(self) -> dict[str, Callable]:
        from flatzoo.visualize.figures import super_image_figure

        images = self._images()
        number = 'The image' if len(images) == 1 else f'The {len(images)} images'
        title = f'{number} of {images.shape[-2]} x {images.shape[-1]} pixels that the backbone gets'
        layout = f'{self.source}, layout {self.model.layout}'
        return _png(
            'super_image', super_image_figure(images, self.model.super_image.index, self.times, f'{title}\n{layout}'))

    def cam(self) -> dict[str, Callable]:
        from flatzoo.visualize.animation import save_cam_gif
        from flatzoo.visualize.cam import class_activation_maps, default_method, frame_maps
        from flatzoo.visualize.figures import cam_figure

        method = self.args.method or default_method(self.model)
        index, answer = (None, 'Where attention comes from') if method == 'rollout' else self._class()
        maps = class_activation_maps(self.model, self.clip, method, index, self.args.max_channels)
        of_frames = frame_maps(self.model, maps)[0]
        legend = 'yellow: most of it' if maps.any() else 'no place speaks for it'
        figure = cam_figure(
            self._images(), maps[0], self.pictures, of_frames, self.model.super_image.index, self.times,
            f'{answer}\n{METHODS[method]} ({legend}), {self.source}')
        save = lambda path, stamp: save_cam_gif(path, self.pictures, of_frames, self.times, stamp)  # noqa: E731
        return {**_png('cam', figure), 'cam.gif': save}

    def importance(self) -> dict[str, Callable]:
        from flatzoo.visualize.figures import importance_figure
        from flatzoo.visualize.importance import frame_importance

        index, answer = self._class()
        importance = frame_importance(self.model, self.clip, index, batch_size=2)[0]
        title = f'{answer}\nWhat each frame adds to that: one at a time gives way to its neighbour, {self.source}'
        return _png('importance', importance_figure(self.pictures, importance, self.times, title))

    def flow(self) -> dict[str, Callable]:
        from flatzoo.models.amflow import AMFlow
        from flatzoo.visualize.attention_flow import flow_figure, flow_maps, overlay_figure

        if not isinstance(self.model, AMFlow):
            raise ValueError(f'{self.args.model} is no AM Flow model and has no flow.')
        flows = [flow[0].cpu() for flow in flow_maps(self.model, self.clip.to(self._device()))]
        arguments = self.pictures, flows, self.model.am_blocks, self.times, self.source
        return {**_png('flow', flow_figure(*arguments)), **_png('flow_overlay', overlay_figure(*arguments))}

    def _device(self) -> Any:
        return next(self.model.parameters()).device

    def _images(self) -> 'Tensor':
        from flatzoo.visualize.super_image import super_images

        return super_images(self.model, self.clip)[0]

    def _class(self) -> tuple[int, str]:
        """Index of the class that is explained, and its name and probability in words."""
        import torch

        model, target = self.model, self.args.target
        if model.num_classes == 0:
            raise ValueError(f'{self.args.model} has no classifier (num_classes=0).')
        if not model.head_trained and not self.args.allow_untrained:
            raise ValueError(
                f'the head of {self.args.model} was never trained, so there is no answer to explain. Give trained '
                'weights with --checkpoint FILE; with --allow-untrained random weights are shown.')
        if self._answer is None:
            with torch.inference_mode():
                probabilities = model.probabilities(model(self.clip.to(self._device()))[0].float())
            names = model.pretrained_cfg.get('label_names')
            index = probabilities.argmax().item() if target is None else _class_index(target, names, model.num_classes)
            name = printable(names[index]) if names else f'class {index}'
            warning = '' if model.head_trained else '  (random weights: means nothing)'
            self._answer = index, f'{name}  {probabilities[index].item():.1%}{warning}'
        return self._answer


def _names(text: str) -> list[str]:
    names = text.split(',')
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        raise argparse.ArgumentTypeError(f'{unknown[0]!r} is none of {", ".join(PICTURES)}')
    return names


def _class_index(text: str, names: list[str] | None, num_classes: int) -> int:
    """Index of a class that is named, or given by its index."""
    lower = [name.lower() for name in names or ()]
    if text.lower() in lower:
        return lower.index(text.lower())
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    near = difflib.get_close_matches(text.lower(), lower, n=5, cutoff=0.4)
    hint = f' Similar names: {", ".join(printable(names[lower.index(name)]) for name in near)}.' if near else ''
    accepted = 'names of classes and ' if names else ''
    raise CommandError(f'--class {text}: accepted are {accepted}indices 0 to {num_classes - 1}.{hint}')


def _first_clip(model: 'VideoModel', path: str) -> tuple['Tensor', list[float]]:
    """The first view of a video, uint8 `[1, C, T, H, W]`, and the time of each frame in seconds from its start."""
    from flatzoo import eval_protocol
    from flatzoo.data.decode import VideoReader

    protocol = eval_protocol(model)
    clip = protocol.load_views(path, model.num_frames, model.img_size)[:1]
    with VideoReader(path) as video:
        times = video.timestamps[protocol.sample(len(video), model.num_frames)[0]] - video.timestamps[0]
    return clip, times.tolist()


def _png(name: str, figure: Any) -> dict[str, Callable]:
    return {f'{name}.png': lambda path, stamp: figure.savefig(
        path, format='png', dpi=150, metadata={'Source': stamp})}
