"""Does the audit see what a model uses of time? Three models on rendered actions, of which the answer is known.

    python benchmarks/learning/audit_on_actions.py --out benchmarks/results/audit_on_actions

The shipped SIFAR, which has learned the order of the frames; and two linear heads on its features of frames that are
held still, so that they cannot know the order: on the mean over all frames, and on the middle frame alone.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
from torch import Tensor

from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import ACTIONS, ActionClips, write_action_folder
from flatzoo.data.lists import read_videos
from flatzoo.evaluation.audit.page import write_pages
from flatzoo.evaluation.audit.run import Audit, audit, rank_models
from flatzoo.evaluation.audit.subject import Subject, subject_of
from flatzoo.evaluation.heads import fit_head

MODEL = 'sifar_resnet10t.actions16'
KNOWN = (
    'What is known: the shipped SIFAR was trained to tell each action from the same one played backwards; the two '
    'linear heads read features of frames that are held still, so that they cannot know the order.')
EXPECTED = {'shipped SIFAR': 'order', 'mean over frames': 'frames', 'middle frame': 'frame'}


def main(argv: list[str] | None = None) -> dict[str, Audit]:
    """Audits, prints the ranking, and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='pages, without a suffix')
    parser.add_argument('--train', type=int, default=640, help='clips that the heads learn from')
    parser.add_argument('--clips', type=int, default=10, help='held-out clips of each action')
    args = parser.parse_args(argv)
    start = time.process_time()
    model = timm.create_model(MODEL, pretrained=True).eval()
    subjects = [subject_of(model, name='shipped SIFAR'), *frame_heads(model, args.train)]
    with tempfile.TemporaryDirectory() as folder:
        write_action_folder(folder, args.clips, seed=77, size=64, num_frames=16, split='test')
        videos = read_videos('folder', folder, 'all')
        audits = {subject.name: audit(subject, videos.with_classes(ACTIONS)) for subject in subjects}
    for row in rank_models(list(audits.values())):
        print(row)
    seconds = time.process_time() - start
    print(f'{seconds:.0f} CPU seconds')
    if args.out is not None:
        write_pages(list(audits.values()), args.out, (
            f'python benchmarks/learning/audit_on_actions.py; {seconds:.0f} s of CPU time with training ('
            f'{cpu_name()}, torch {torch.__version__}, {torch.get_num_threads()} thread)'))
        args.out.with_suffix('.html').unlink()  # the page of results is Markdown
        page = args.out.with_suffix('.md')
        title, rest = page.read_text(encoding='utf-8').split('\n', 1)
        page.write_text(f'{title}\n\n{KNOWN}\n{rest}', encoding='utf-8')
    return audits


def frame_heads(model: torch.nn.Module, count: int) -> list[Subject]:
    """Linear heads on features of frames that are held still: on their mean, and on the middle one alone."""
    clips = ActionClips(count, num_frames=model.num_frames, size=model.img_size[0], seed=5)
    features, labels = [], []
    for start in range(0, count, 64):
        items = [clips[index] for index in range(start, min(start + 64, count))]
        features.append(held_features(model, torch.stack([clip for clip, _ in items])))
        labels += [int(label) for _, label in items]
    features = torch.cat(features)  # [N, T, D]
    middle = model.num_frames // 2
    poolings = {'mean over frames': lambda x: x.mean(1), 'middle frame': lambda x: x[:, middle]}
    return [_subject(model, name, pool, fit_head('ridge', pool(features), torch.tensor(labels)))
            for name, pool in poolings.items()]


def _subject(model: torch.nn.Module, name: str, pool, head) -> Subject:
    weight, bias = head.linear()
    one_frame, seen = name == 'middle frame', SeenFrames(model)

    def call(clips: Tensor) -> Tensor:
        if one_frame:  # the others would be computed and thrown away
            middle = model.num_frames // 2
            return seen(clips[:, :, middle:middle + 1])[:, 0] @ weight.T + bias
        return pool(seen(clips)) @ weight.T + bias

    return Subject(name, call, model.num_frames, model.img_size, ACTIONS)


class SeenFrames:
    """Features `[B, T, D]` of each frame of uint8 clips, held still; frames that were seen before are remembered.

    Most of what an audit shows are the same frames in other places, so that this takes a ninth of the time.
    """

    def __init__(self, model: torch.nn.Module):
        self.model, self.kept = model, {}

    def __call__(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)  # [B * T, C, H, W]
        keys = [frame.numpy().tobytes() for frame in frames]
        new = {key: place for place, key in enumerate(keys) if key not in self.kept}
        for part in torch.tensor(list(new.values()), dtype=torch.int64).split(64):
            still = frames[part].unsqueeze(2).expand(-1, -1, self.model.num_frames, -1, -1)
            for place, feature in zip(part.tolist(), _features(self.model, still)):
                self.kept[keys[place]] = feature
        return torch.stack([self.kept[key] for key in keys]).unflatten(0, (len(clips), -1))


def held_features(model: torch.nn.Module, clips: Tensor) -> Tensor:
    """Features `[B, T, D]` of each frame of clips `[B, C, T, H, W]`, held still."""
    still = [clips[:, :, frame:frame + 1].expand_as(clips) for frame in range(clips.shape[2])]
    return torch.stack([_features(model, clip) for clip in still], 1)


@torch.inference_mode()
def _features(model: torch.nn.Module, clips: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(clips.contiguous()), pre_logits=True).clone()


if __name__ == '__main__':
    main()
