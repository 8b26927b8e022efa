"""The weights in the package: they load, they know their classes, and the clips that they were made for."""
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

import flatzoo  # noqa: F401, registers the models
from flatzoo.data.actions import ACTIONS, NOTHING, VERBS, VerbClips
from flatzoo.models.record import tag_record

ROOT = Path(__file__).parents[2]
CLASSES = {'actions16': ACTIONS, 'actions49': VERBS}


@pytest.mark.parametrize('tag', CLASSES)
def test_the_file_says_its_classes(tag):
    cfg = timm.get_pretrained_cfg(f'sifar_resnet10t.{tag}')
    with safe_open(cfg.file, 'pt') as file:
        assert tuple(json.loads(file.metadata()['classes'])) == cfg.label_names == CLASSES[tag]
    assert Path(cfg.file).stat().st_size == tag_record(f'sifar_resnet10t.{tag}').size < 6e6


def test_verbs_of_held_out_textures_are_named():
    """Two clips of each class; the seeds served neither the training nor a choice."""
    model = timm.create_model('sifar_resnet10t.actions49', pretrained=True).eval()
    data = VerbClips(2 * len(VERBS), 8, 32, seed=77, split='test')
    clips, labels = (torch.stack([torch.as_tensor(item[part]) for item in data]) for part in (0, 1))
    with torch.inference_mode():
        found, backwards = (model(part).argmax(1) for part in (clips, clips.flip(2)))
    acts = labels != VERBS.index(NOTHING)
    assert (found == labels).float().mean() > 0.6
    assert (backwards[acts] == labels[acts]).float().mean() < 0.15
    assert (backwards[acts] == labels[acts] ^ 1).float().mean() > 0.6


def test_windows_of_a_long_video_are_as_long_as_in_training():
    model = timm.create_model('sifar_resnet10t.actions49', pretrained=True)
    assert model.temporal_contract.seconds == 1.5 and model.temporal_contract.frames == model.num_frames
    other = timm.create_model('sifar_resnet10t.actions49', pretrained=True, num_classes=3)
    assert other.temporal_contract is None  # its classes are not those of the training
    assert timm.create_model('sifar_resnet10t.actions49').temporal_contract is None


def test_the_short_name_stays_what_it_was():
    assert timm.get_pretrained_cfg('sifar_resnet10t').label_names == ACTIONS
