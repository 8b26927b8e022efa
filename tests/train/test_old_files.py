"""Files that users have on disk still load. These were written before the modules moved into rooms.

`tests/recorded/before_rooms` was written by the code of commit 00c5853. `run` is a run of `flatzoo train` that was
stopped after the first of two epochs, on two clips per class of `write_clips`. `saved` is a folder of
`flatzoo.save_pretrained`. The logits below are those of that code.
"""
import csv
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from train_runs import write_clips

from flatzoo.cli import main
from flatzoo.data.protocol import EvalProtocol
from flatzoo.models import eval_protocol
from flatzoo.train.checkpoint import load_last

FILES = Path(__file__).parents[1] / 'recorded/before_rooms'
LOGITS = {'run': [-0.6188807, -0.1170656], 'saved': [0.0891818, -0.0489281, -0.0187278]}
LABELS = {'run': ['appears', 'approaches'], 'saved': ['a', 'b', 'c']}


def logits(model):
    """The answer to a clip whose pixels are a straight line."""
    shape = (1, 3, model.num_frames, *model.pretrained_cfg['input_size'][1:])
    with torch.inference_mode():
        return model.eval()(torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape))[0]


def assert_same_answer(model, name):
    torch.testing.assert_close(logits(model), torch.tensor(LOGITS[name]), rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', LOGITS)
def test_a_saved_model_loads_and_answers_as_before(name):
    model = timm.create_model(f'local-dir:{FILES / name}', pretrained=True)
    assert_same_answer(model, name)
    assert list(model.pretrained_cfg['label_names']) == LABELS[name]
    assert eval_protocol(model) == EvalProtocol('uniform', num_clips=1, num_crops=1)


def test_an_adapter_file_loads_into_its_backbone():
    model = timm.create_model(f'local-dir:{FILES / "run"}', pretrained=True)
    for parameter in model.adapters.parameters():
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(logits(model), torch.tensor(LOGITS['run']), atol=1e-2)
    model.load_adapters(FILES / 'run/adapters.safetensors')
    assert_same_answer(model, 'run')


def test_a_run_goes_on(tmp_path, monkeypatch):
    """`flatzoo train` reads args.yaml and last.pt, and trains the second epoch."""
    monkeypatch.chdir(tmp_path)  # the recipe has relative paths
    shutil.copytree(FILES / 'run', 'run')
    write_clips('clips', 2, 1)
    assert load_last('run/last.pt')['update'] == 2
    assert main(['train', '--config', 'run/args.yaml', '--resume', 'auto']) == 0
    state = load_last('run/last.pt')
    assert state['update'] == 4 and len(state['history']) == 2
    with open('run/summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['epoch'] for row in rows] == ['1', '2']  # the old code counted epochs from 0
    assert rows[0]['train_loss'] == '0.7224192917346954'  # the first epoch is that of the old code
    assert yaml.safe_load(Path('run/args.yaml').read_text())['model'] == 'amflow_dinov2_s_tcn_lite'


def test_names_that_scripts_import_are_where_they_were():
    from flatzoo.data.clips import ClipDataset
    from flatzoo.data.decode import VideoReader
    from flatzoo.data.frame_folder import FrameFolder
    from flatzoo.data.lists import Clip, VideoList, read_videos
    assert all(map(callable, (ClipDataset, VideoReader, FrameFolder, Clip, VideoList, read_videos)))
