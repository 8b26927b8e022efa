"""Checkpoints of flatzoo in transformers: its timm wrapper, its video pipeline, and the way back."""
import functools
import http.server
import json
import threading
from pathlib import Path

import pytest
import timm
import torch
from fake_hub.server import HubServer
from processes import Process, on_hub, run_code

import flatzoo
from flatzoo.data.actions import ACTIONS, ActionClips, write_action
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.protocol import EvalProtocol
from flatzoo.hub.push import save_pretrained
from flatzoo.inference.classifier import classify_file

transformers = pytest.importorskip('transformers')
from flatzoo.hub.transformers import FlatzooForVideoClassification, FlatzooVideoProcessor  # noqa: E402

ASSETS = Path(flatzoo.__file__).parent / 'data/assets'
CLIP = str(ASSETS / 'is_picked_up.mp4')
VIEWS = EvalProtocol(num_clips=2, num_crops=3, scale_up=True)


@pytest.fixture(scope='module')
def model():
    return timm.create_model('sifar_resnet10t', pretrained=True).eval()


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('model'))
    save_pretrained(model, folder)
    return folder


@pytest.fixture(scope='module')
def folder_of_views(model, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('views'))
    save_pretrained(model, folder, protocol=VIEWS)
    return folder


@pytest.fixture(scope='module')
def pipeline(folder):
    return transformers.pipeline('video-classification', model=folder)


def clips(model, num_clips=2, dtype=torch.float32, seed=0):
    clip = torch.randint(0, 256, (num_clips, 3, model.num_frames, *model.img_size), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))
    return clip if dtype == torch.uint8 else clip.to(dtype) / 255


# Our checkpoints in what transformers has of its own

def test_wrapper_of_transformers(folder, tmp_path):
    """Nothing but `import flatzoo` is needed; the module that registers must not have been imported."""
    code = f'''
import sys, timm, torch, flatzoo
from transformers import AutoModel, AutoModelForImageClassification
model = timm.create_model('local-dir:{folder}', pretrained=True).eval()
clip = torch.randn(2, 3, model.num_frames, *model.img_size)
with torch.inference_mode():
    logits = AutoModelForImageClassification.from_pretrained('{folder}')(clip).logits
    features = AutoModel.from_pretrained('{folder}')(clip)
    assert torch.equal(logits, model(clip))
    assert torch.equal(features.last_hidden_state, model.forward_features(clip))
    assert torch.equal(features.pooler_output, model.forward_head(features.last_hidden_state, pre_logits=True))
assert 'flatzoo.hub.transformers' not in sys.modules
'''
    result = Process(tmp_path / 'log', run_code, code).wait()
    assert result.returncode == 0, result.stderr


# The video pipeline

@pytest.mark.parametrize('name', ['is_picked_up.mp4', 'carphone.mp4'])
def test_pipeline_answers_as_predict_does(name, pipeline, model):
    expected = classify_file(model, ASSETS / name, topk=len(ACTIONS))
    answer = pipeline(str(ASSETS / name), top_k=len(ACTIONS))
    assert [item['label'] for item in answer] == [item.label for item in expected]
    assert [item['score'] for item in answer] == pytest.approx([item.probability for item in expected], abs=1e-4)
    assert name != 'is_picked_up.mp4' or answer[0]['label'] == 'is picked up'


def test_pipeline_follows_the_protocol(folder_of_views, model):
    pipeline = transformers.pipeline('video-classification', model=folder_of_views)
    expected = classify_file(model, CLIP, VIEWS)
    answer = pipeline(CLIP, top_k=5)
    assert [item['label'] for item in answer] == [item.label for item in expected]
    assert [item['score'] for item in answer] == pytest.approx([item.probability for item in expected], abs=1e-4)
    one_view = classify_file(model, CLIP, EvalProtocol())
    assert abs(answer[0]['score'] - one_view[0].probability) > 1e-3  # the protocol does make a difference


def test_pipeline_on_several_files(pipeline, tmp_path, model):
    files = [str(write_action(tmp_path / f'{i}.mp4', i, seed=i, split='test', size=64 + 16 * i)) for i in range(3)]
    for batch_size in (1, 3):
        answers = pipeline(files, top_k=1, batch_size=batch_size)
        for file, [answer] in zip(files, answers, strict=True):
            [expected] = classify_file(model, file, topk=1)
            assert answer['label'] == expected.label
            assert answer['score'] == pytest.approx(expected.probability, abs=1e-4)


def test_pipeline_on_an_address(pipeline):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=ASSETS)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answer = pipeline(f'http://127.0.0.1:{server.server_port}/is_picked_up.mp4')
        server.shutdown()
    assert answer == pipeline(CLIP)


def test_pipeline_from_the_hub(tmp_path, pipeline):
    code = f'''
import json, timm, flatzoo
flatzoo.push_to_hub(timm.create_model('sifar_resnet10t', pretrained=True), 'alice/actions', tag='v1')
import flatzoo.hub.transformers
from transformers import pipeline
print(json.dumps(pipeline('video-classification', model='alice/actions', revision='v1')({CLIP!r})))
'''
    with HubServer(tmp_path / 'hub') as hub:
        result = Process(tmp_path / 'log', on_hub, hub.url, hub.token, tmp_path / 'home', run_code, code).wait()
    assert result.returncode == 0, result.stderr
    for got, want in zip(json.loads(result.stdout), pipeline(CLIP), strict=True):
        assert got == {'label': want['label'], 'score': pytest.approx(want['score'], abs=1e-5)}  # another process


def test_pipeline_on_a_broken_file(pipeline, tmp_path):
    (tmp_path / 'broken.mp4').write_bytes(b'no video at all')
    with pytest.raises(VideoError, match='broken.mp4'):
        pipeline(str(tmp_path / 'broken.mp4'))


def test_pipeline_without_a_processor_is_refused(folder, tmp_path):
    """It would fall back to an image processor and the first frames of the file, and answer wrongly."""
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / name).write_bytes(Path(folder, name).read_bytes())
    pipeline = transformers.pipeline('video-classification', model=str(tmp_path))
    with pytest.raises(ValueError, match='video_preprocessor_config.json'):
        pipeline(CLIP)
    with_processor = transformers.pipeline(
        'video-classification', model=str(tmp_path), video_processor=FlatzooVideoProcessor.from_model(pipeline.model))
    assert with_processor(CLIP)[0]['label'] == 'is picked up'


# The model

def test_model(folder, model):
    ours = transformers.AutoModelForVideoClassification.from_pretrained(folder)
    assert type(ours) is FlatzooForVideoClassification and not ours.training
    assert ours.config.num_frames == model.num_frames and ours.config.id2label == dict(enumerate(ACTIONS))
    with torch.inference_mode():
        for dtype in (torch.float32, torch.uint8):
            clip = clips(model, dtype=dtype)
            assert torch.equal(ours(clip.transpose(1, 2)).logits, model(clip))
        views = clips(model, 6)
        logits = ours(views.transpose(1, 2).unflatten(0, (2, 3)), return_dict=False)[0]
        torch.testing.assert_close(logits, model(views).unflatten(0, (2, 3)).mean(1))
        labels = torch.tensor([3, 4])
        output = ours(clips(model).transpose(1, 2), labels=labels)
        torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    with pytest.raises(ValueError, match=r'\[B, T, C, H, W\]'):
        ours(clips(model)[0])
    with pytest.raises(TypeError, match='pixel_value'):
        ours(pixel_values=clips(model), label=labels)


def test_half_precision(folder, model):
    ours = transformers.AutoModelForVideoClassification.from_pretrained(folder, dtype=torch.bfloat16)
    clip = clips(model, dtype=torch.uint8)
    with torch.inference_mode():
        logits = ours(clip.transpose(1, 2)).logits
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float(), model(clip), atol=0.25, rtol=0.1)


def test_normalisation_of_the_checkpoint(tmp_path):
    """uint8 clips are normalised by what the checkpoint says, not by what is registered for the architecture."""
    model = timm.create_model(
        'sifar_resnet10t', num_classes=3, pretrained_cfg_overlay=dict(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))).eval()
    save_pretrained(model, tmp_path, label_names=['a', 'b', 'c'])
    assert transformers.AutoVideoProcessor.from_pretrained(tmp_path).image_mean == (0.1, 0.2, 0.3)
    ours = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path)
    clip = clips(model, dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(ours(clip.transpose(1, 2)).logits, model(clip))


def test_image_models_are_refused(tmp_path):
    image = timm.create_model('test_resnet')
    timm.models.save_for_hf(image, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['model_args'].pop('num_classes', None)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='test_resnet.*AutoModelForImageClassification'):
        transformers.AutoModelForVideoClassification.from_pretrained(tmp_path)
    transformers.AutoModelForImageClassification.from_pretrained(tmp_path)  # as before


@pytest.mark.parametrize('change, says', [
    (lambda config: config['video'].update(format=99, flatzoo_version='9.9'), 'newer flatzoo .*9.9'),
    (lambda config: config.update(architecture='sifar_resnet99'), 'sifar_resnet99'),
])
def test_checkpoints_that_cannot_be_built(change, says, folder, tmp_path):
    config = json.loads(Path(folder, 'config.json').read_text())
    change(config)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'model.safetensors').write_bytes(Path(folder, 'model.safetensors').read_bytes())
    with pytest.raises(ValueError, match=says):
        transformers.AutoModelForVideoClassification.from_pretrained(tmp_path)


def test_there_and_back_with_other_classes(folder_of_views, model, tmp_path):
    """What transformers saves is a checkpoint of timm and flatzoo, with the new classes."""
    names = ['one', 'two', 'three']
    ours = transformers.AutoModelForVideoClassification.from_pretrained(
        folder_of_views, num_labels=3, id2label=dict(enumerate(names)), ignore_mismatched_sizes=True)
    ours.save_pretrained(tmp_path)
    transformers.AutoVideoProcessor.from_pretrained(folder_of_views).save_pretrained(tmp_path)
    again = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path)
    back = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert list(again.config.id2label.values()) == list(back.pretrained_cfg['label_names']) == names
    assert flatzoo.eval_protocol(back) == flatzoo.eval_protocol(again.timm_model) == VIEWS
    assert back.num_frames == model.num_frames and back.layout == model.layout and back.head_trained
    clip = clips(model)
    with torch.inference_mode():
        logits = ours.eval()(clip.transpose(1, 2)).logits
        assert torch.equal(again(clip.transpose(1, 2)).logits, logits)
        assert torch.equal(back(clip), logits)
    answer = transformers.pipeline('video-classification', model=str(tmp_path))(CLIP)
    assert sorted(item['label'] for item in answer) == sorted(names)


# The processor

def test_processor_reads_the_views_of_the_protocol(folder, folder_of_views, model):
    for where, protocol in ((folder, EvalProtocol()), (folder_of_views, VIEWS)):
        processor = transformers.AutoVideoProcessor.from_pretrained(where)
        assert type(processor) is FlatzooVideoProcessor
        expected = protocol.load_views(CLIP, model.num_frames, model.img_size).transpose(1, 2)  # [V, T, C, H, W]
        views = processor(CLIP, do_normalize=False, do_rescale=False)['pixel_values'][0]
        assert torch.equal(views.reshape(expected.shape), expected)
        batch = processor([CLIP, CLIP], return_tensors='pt')['pixel_values']
        assert batch.ndim == 5 + (protocol.views > 1) and batch.dtype == torch.float32
        mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ('mean', 'std'))
        torch.testing.assert_close(
            batch[1].reshape(expected.shape), (expected / 255 - mean) / std, atol=1e-5, rtol=1e-5)


def test_processor_takes_decoded_frames(folder_of_views):
    processor = transformers.AutoVideoProcessor.from_pretrained(folder_of_views)
    expected = processor(CLIP, return_tensors='pt')['pixel_values']
    with VideoReader(CLIP) as video:
        frames = video.get_frames(range(len(video)))  # [N, C, H, W]
    assert torch.equal(processor(frames, return_tensors='pt')['pixel_values'], expected)
    assert torch.equal(processor(frames.permute(0, 2, 3, 1).numpy(), return_tensors='pt')['pixel_values'], expected)
    with pytest.raises(ValueError, match='13 frames.*num_frames=8'):
        processor(frames[:13], do_sample_frames=False)
    assert len(processor(frames[:16], do_sample_frames=False)['pixel_values'][0]) == 2 * VIEWS.num_crops
    with pytest.raises(ValueError, match='fps=4'):
        processor(CLIP, fps=4)


def test_processor_and_model_on_the_embedded_data(folder, model):
    processor = transformers.AutoVideoProcessor.from_pretrained(folder)
    ours = transformers.AutoModelForVideoClassification.from_pretrained(folder)
    data = ActionClips(32, model.num_frames, size=64, split='test', seed=3)
    inputs = processor([clip.transpose(0, 1) for clip, _ in data], return_tensors='pt')
    with torch.inference_mode():
        hits = ours(**inputs).logits.argmax(1) == torch.tensor([label for _, label in data])
    assert hits.sum() >= 28  # 98 % of such clips, see the card


def test_processor_file_and_class_agree(folder, model):
    """The file, which is written without transformers, says what the class would make of the model."""
    saved = transformers.AutoVideoProcessor.from_pretrained(folder)
    assert saved.to_dict() == FlatzooVideoProcessor.from_model(model).to_dict()


def test_without_transformers(tmp_path):
    code = "import sys; sys.modules['transformers'] = None; import flatzoo.hub.transformers"
    result = Process(tmp_path / 'log', run_code, code).wait()
    assert result.returncode == 1 and "pip install 'flatzoo[transformers]'" in result.stderr
