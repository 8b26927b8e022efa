"""`flatzoo.predict` and `flatzoo.Classifier`: files, folders, lists and frames in memory."""
import shutil
import threading
from types import GeneratorType

import numpy as np
import pytest
import torch
from PIL import Image

import flatzoo
from flatzoo.data.actions import render_action, write_action
from flatzoo.data.array_clip import ArrayClip
from flatzoo.data.decode import VideoError
from flatzoo.inference.ahead import load_ahead


@pytest.fixture(scope='module')
def classify():
    return flatzoo.Classifier('sifar_resnet10t', topk=3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('videos')
    write_action(path / 'left.mp4', 'moves left', 3, split='test')
    (path / 'sub').mkdir()
    shutil.copy(path / 'left.mp4', path / 'sub/copy.mp4')
    (path / 'broken.mp4').write_bytes(b'no video')
    return path


def test_file(folder):
    answer = flatzoo.predict(folder / 'left.mp4', topk=2)
    assert answer.path == str(folder / 'left.mp4') and answer.error is None
    assert answer.top[0].label == 'moves left' and len(answer.top) == 2
    assert 0 <= answer.top[1].probability <= answer.top[0].probability <= 1


def test_list_and_folder(classify, folder):
    answers = classify(folder)
    assert isinstance(answers, GeneratorType)
    answers = list(answers)
    assert [answer.path for answer in answers] == [
        str(folder / name) for name in ('broken.mp4', 'left.mp4', 'sub/copy.mp4')]
    assert not answers[0].top and 'broken.mp4' in answers[0].error
    assert answers[1].top == answers[2].top
    assert classify([answer.path for answer in answers]) == answers


def test_missing(classify):
    assert 'none.mp4' in classify('none.mp4').error


def test_frames_in_memory(classify):
    frames = render_action('moves left', 3, num_frames=16, size=64, split='test')  # [T, C, H, W]
    expected = classify(frames)
    assert expected.path is None and expected.top[0].label == 'moves left'
    forms = [
        frames.permute(1, 0, 2, 3), frames.permute(0, 2, 3, 1).numpy(),
        [Image.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]]
    assert [classify(form) for form in forms] == [expected] * 3
    assert classify([frames, forms[1]]) == [expected] * 2


@pytest.mark.parametrize('frames, said', [
    (torch.rand(8, 3, 16, 16), r'\(frames \* 255\)'),
    (np.zeros((3, 3, 16, 16), np.uint8), 'axes of 3'),
    (np.zeros((8, 16, 16), np.uint8), r'shape \[8, 16, 16\]'),
    (np.zeros((8, 4, 16, 16), np.uint8), 'no axis of 3'),
    ([], 'nothing'),
    (7, 'type int'),
])
def test_refuses_what_is_no_clip(frames, said):
    with pytest.raises(VideoError, match=said):
        ArrayClip(frames)


def test_model_of_ones_own(classify, folder):
    assert flatzoo.predict(folder / 'left.mp4', model=classify.model, topk=3) == classify(folder / 'left.mp4')


@pytest.mark.parametrize('name, said', [('sifar_resnet10', 'Similar names'), ('sifar_swin_b12', 'never trained')])
def test_models_that_cannot_answer(name, said, folder):
    with pytest.raises(ValueError, match=said):
        flatzoo.predict(folder / 'left.mp4', model=name)


def test_a_whole_batch_is_loaded_while_another_is_answered():
    loaded, enough = [], threading.Event()

    def load(item):
        loaded.append(item)
        if len(loaded) == 10:
            enough.set()
        return -item

    pairs = load_ahead(load, range(100), workers=2, ahead=8)
    assert next(pairs) == (0, 0)
    assert enough.wait(60)  # and nobody took another one
    assert list(pairs) == [(item, -item) for item in range(1, 100)]
    taken = []
    for _ in load_ahead(lambda item: item, (taken.append(item) or item for item in range(100)), workers=2, ahead=8):
        assert len(taken) <= 10  # no more than that are asked for
        break
