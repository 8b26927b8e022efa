"""Training on whole frames: the choice is made by the clips, said, kept with the weights and used by evaluations."""
import json

import pytest
import yaml
from train_runs import SMALL, small_recipe, train

from flatzoo import eval_protocol
from flatzoo.cli import main
from flatzoo.data.actions import write_action
from flatzoo.data.survey import ClipFacts
from flatzoo.train import checkpoint
from flatzoo.train.build import choose_fit
from flatzoo.train.recipe import Recipe, load_recipe


@pytest.fixture(scope='module')
def wide_root(tmp_path_factory):
    """Clips of 96x48 pixels: two squares side by side."""
    import av
    import numpy as np

    root = tmp_path_factory.mktemp('wide')
    for split in ('train', 'val'):
        for label in (4, 6):
            folder = root / split / f'class{label}'
            folder.mkdir(parents=True)
            write_action(root / 'square.mp4', label, label, 48, 8)
            with av.open(str(root / 'square.mp4')) as video:
                frames = [frame.to_ndarray(format='rgb24') for frame in video.decode(video=0)]
            for i in range(2):
                with av.open(str(folder / f'{i}.mp4'), 'w') as out:
                    stream = out.add_stream('libx264', rate=8)
                    stream.width, stream.height, stream.pix_fmt = 96, 48, 'yuv420p'
                    for frame in frames:
                        pixels = np.concatenate((frame, np.roll(frame, i, 0)), axis=1)
                        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format='rgb24')))
                    out.mux(stream.encode())
    (root / 'square.mp4').unlink()
    return root


def test_the_choice_is_said_kept_and_used(wide_root, tmp_path, capsys):
    folder = tmp_path / 'run'
    _, lines = train(wide_root, folder, epochs=1, num_crops=3)
    assert [line for line in lines if line.startswith('fit letterbox: a centre crop would lose 50 %')]
    assert json.loads((folder / 'config.json').read_text())['video']['protocol']['fit'] == 'letterbox'
    assert yaml.safe_load((folder / checkpoint.ARGS).read_text())['fit'] == 'letterbox'
    assert eval_protocol(f'local-dir:{folder}').views == 1

    args = ['validate', 'folder', str(wide_root), '--model', str(folder), '--workers', '0', '--json']
    assert main(args) == 0 and main([*args, '--views', 'fast']) == 0 and main([*args, '--fit', 'stretch']) == 0
    rows = capsys.readouterr().out
    assert [row['fit'] for row in map(lambda part: json.loads(part)[0], _parts(rows))] == [
        'letterbox', 'letterbox', 'stretch']

    train(wide_root, folder, epochs=1, num_crops=3, resume='auto')  # auto: as the run began
    with pytest.raises(ValueError, match=r'fit crop \(was letterbox\)'):
        train(wide_root, folder, epochs=1, num_crops=3, resume='auto', fit='crop')


def _parts(text):
    decoder, place = json.JSONDecoder(), 0
    while place < len(text.rstrip()):
        _, end = decoder.raw_decode(text, place)
        yield text[place:end]
        place = end + 1


def test_presets_and_older_runs_crop(tmp_path):
    assert Recipe().fit == 'auto' and load_recipe('sifar_k400').fit == 'crop'
    assert load_recipe('sifar_k400', fit='stretch').fit == 'stretch'
    kept = small_recipe('x', 'y').to_dict()
    del kept['fit']
    (tmp_path / 'args.yaml').write_text(yaml.safe_dump(kept))
    assert load_recipe(str(tmp_path / 'args.yaml')).fit == 'crop'
    assert SMALL.keys() <= kept.keys()


@pytest.mark.parametrize('sizes, fit', [
    ([(48, 48)] * 3, 'crop'),
    ([(240, 320)] * 3, 'crop'),  # 4:3
    ([(1080, 1920)] * 3, 'letterbox'),
    ([(1920, 1080)] * 2 + [(48, 48)], 'letterbox'),
    ([(1920, 1080)] + [(48, 48)] * 2, 'crop'),
    ([], 'crop'),
])
def test_auto_follows_the_clip_in_the_middle(sizes, fit):
    chosen, reason = choose_fit([ClipFacts(8, *size) for size in sizes], (32, 32))
    assert chosen == fit and reason
