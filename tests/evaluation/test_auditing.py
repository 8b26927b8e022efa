"""The audit is not fooled: models that are known to use time, several frames, one frame or nothing are called so."""
import json

import pytest
import timm
import torch
from torch import nn

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.data.lists import Clip, DataError, VideoList, read_videos
from flatzoo.evaluation.audit import run as run_module
from flatzoo.evaluation.audit.controls import CONTROLS, without_background
from flatzoo.evaluation.audit.page import write_pages
from flatzoo.evaluation.audit.run import audit, rank_models
from flatzoo.evaluation.audit.scores import best_place, better, true_scores
from flatzoo.evaluation.audit.subject import subject_of
from flatzoo.evaluation.audit.verdict import judge
from flatzoo.evaluation.calibration import calibration_error, fit_temperature
from flatzoo.evaluation.statistics import accuracy_interval, difference_interval, holm, mcnemar, sign_flip

T, COUNT = 8, 120


def brightness(clips):
    """Mean of each frame, -1...1, `[B, T]`."""
    return clips.float().mean((1, 3, 4)) / 127.5 - 1


def two(score):
    return torch.stack([-score, score], 1)


def made(kind):
    """Clips of two classes, and a model that tells them apart in a known way."""
    generator = torch.Generator().manual_seed(0)
    labels = [index % 2 for index in range(COUNT)]
    sign = torch.tensor(labels)[:, None] * 2. - 1
    noise = torch.randn(COUNT, T, generator=generator) * 0.2
    ramp = torch.linspace(-0.8, 0.8, T).expand(COUNT, T)
    if kind == 'concat':  # the third slot of a linear layer on all slots; elsewhere there is noise
        values, model = noise.clone(), lambda clips: two(brightness(clips)[:, 2])
        values[:, 2] = 0.5 * sign[:, 0]
    elif kind == 'mean':
        values, model = 0.1 * sign + noise, lambda clips: two(brightness(clips).mean(1))
    elif kind == 'order':
        values, model = ramp * sign, lambda clips: two(brightness(clips)[:, -1] - brightness(clips)[:, 0])
    elif kind == 'motion':  # smooth or not, forwards and backwards
        orders = torch.stack([torch.randperm(T, generator=generator) for _ in range(COUNT)])
        values = torch.where(sign > 0, ramp.gather(1, orders), ramp)
        model = lambda clips: two(brightness(clips).diff(dim=1).abs().sum(1) - 2.5)  # noqa: E731
    else:
        values = noise
        model = lambda clips: two(clips[:, 0, 0, 0, 0].float() % 7 - 3)  # noqa: E731
    frames = ((values + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    videos = VideoList('made', [Clip(f'{i}.mp4', label) for i, label in enumerate(labels)], ('a', 'b'), 'val')
    return model, videos, frames[:, None, :, None, None].expand(-1, 3, -1, 4, 4)


@pytest.fixture
def audited(monkeypatch):
    def of(kind, **kwargs):
        model, videos, clips = made(kind)
        monkeypatch.setattr(run_module, '_read', lambda videos, index, subject: (clips[index], clips[index]))
        return audit(model, videos, num_frames=T, img_size=4, name=kind, **kwargs)

    return of


@pytest.mark.parametrize('kind, level, title', [
    ('concat', 'frame', 'one frame suffices'), ('mean', 'frames', 'uses several frames but not their order'),
    ('order', 'order', 'uses order'), ('motion', 'motion', 'uses motion but not its direction'),
    ('random', 'nothing', 'answers no better')])
def test_the_verdict(audited, kind, level, title):
    found = audited(kind)
    assert found.verdict.level == level and found.verdict.title.startswith(title)
    rows = {row['control']: row for row in found.rows()}
    assert rows.keys() == CONTROLS.keys()
    if kind == 'concat':  # a drop when slots are shuffled is no proof of order
        assert rows['shuffled']['accuracy'] < 80 and rows['shuffled']['p'] < 0.01
        assert rows['frame_in_place']['accuracy'] == rows['in_order']['accuracy'] == 100
    if kind == 'order':
        assert found.symmetric == (('a', 'b'),) and rows['reversed']['accuracy'] == 0


def test_few_clips_prove_nothing(monkeypatch):
    model, videos, clips = made('concat')
    monkeypatch.setattr(run_module, '_read', lambda videos, index, subject: (clips[index], clips[index]))
    few = VideoList(videos.name, videos.clips[:16], videos.classes, 'val')
    found = audit(model, few, num_frames=T, img_size=4)
    assert found.verdict.level == 'undecided' and 'With 16 clips this cannot be told' in found.verdict.reasons[-1]


def test_ranking(monkeypatch):
    """Three models on the same clips, which a ramp and the level of its brightness tell apart."""
    _, videos, clips = made('order')
    generator = torch.Generator().manual_seed(3)
    sign = torch.tensor([clip.label for clip in videos.clips]).view(-1, 1, 1, 1, 1) * 2 - 1
    jitter = torch.randint(-40, 41, (COUNT, 1, T, 1, 1), generator=generator)
    clips = ((clips.short() - 128) // 2 + 128 + 12 * sign + jitter).clamp(0, 255).to(torch.uint8)
    monkeypatch.setattr(run_module, '_read', lambda videos, index, subject: (clips[index], clips[index]))
    models = {
        'one': lambda clips: two(brightness(clips)[:, 3]), 'mean': lambda clips: two(brightness(clips).mean(1)),
        'slope': lambda clips: two(brightness(clips)[:, -2:].mean(1) - brightness(clips)[:, :2].mean(1))}
    audits = [audit(model, videos, num_frames=T, img_size=4, name=name) for name, model in models.items()]
    ranking = rank_models(audits)
    assert [row['name'] for row in ranking] == ['slope', 'mean', 'one']
    assert ranking[0]['p'] is None and all(row['p'] < 0.01 for row in ranking[1:])
    object.__setattr__(audits[0], 'clips', audits[0].clips[1:])
    with pytest.raises(ValueError, match='on the same clips'):
        rank_models(audits)


def test_log_probabilities_see_what_right_and_wrong_hide_and_confidence_does_not_count():
    generator = torch.Generator().manual_seed(0)

    def answers(noise, sure, labels):
        sign = torch.nn.functional.one_hot(labels, 4) * 2
        logits = sure * (sign + noise * torch.randn(len(labels), 4, generator=generator))
        return logits.argmax(1) == labels, true_scores(logits, labels)

    found, false = [], 0
    for _ in range(60):
        labels = torch.randint(4, (80,), generator=generator)
        one, other = answers(1.5, 1, labels), answers(1.5, 10, labels)  # as good, and far too sure
        false += better(one, other) < 0.05
        good = answers(1.1, 1, labels)
        found.append((better(good, one), mcnemar(good[0], one[0])))
    assert false <= 8  # 3 are expected
    assert better(one, one) == 1.0
    near = one[0], one[1] + 1e-5 * torch.rand(80, generator=generator)  # another order of the same sums
    assert better(near, one) == 1.0
    hits = [sum(p < 0.01 for p in column) for column in zip(*found)]
    assert hits[0] > 1.2 * hits[1] > 5


def test_the_best_place_is_chosen_on_the_other_half():
    values = torch.tensor([[0.0, 9], [5, 1], [0, 9], [5, 1]])  # even clips like place 1, odd ones place 0
    assert best_place(values).tolist() == [0, 1, 0, 1]


def test_further_frames_that_add_little_are_no_reason(monkeypatch):
    labels = torch.arange(400) % 2
    right = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.9
    single = right.clone()
    single[right.nonzero()[:4]] = False  # one point worse
    score = torch.full((400,), -0.4)
    answers = {name: (single, score - 0.1) for name in CONTROLS} | {'in_order': (right, score)}
    answers |= {name: (right, score) for name in ('reversed', 'mean_of_shuffles')}
    found = judge(answers, labels == 0)
    assert found.p['above every single frame'] < 0.01 and found.title == 'one frame suffices'
    assert 'less than 5 points' in found.reasons[-1]


def test_calibration(audited):
    found = audited('mean', calibrate=True)
    assert found.calibration['after'] < found.calibration['before']
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator)
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert 0.8 < fit_temperature(logits, labels) < 1.25
    assert 2.4 < fit_temperature(3 * logits, labels) < 3.75
    assert calibration_error(3 * logits, labels) > 0.1


@pytest.mark.parametrize('count', [10, 30, 300])
def test_a_few_clips_that_are_all_right_do_not_make_sure(count):
    """Laplace's rule of succession: after N right answers of N, the next one is right with (N + 1) / (N + 2)."""
    labels = torch.arange(count) % 3
    logits = 20.0 * torch.nn.functional.one_hot(labels, 3)
    sure = (logits / fit_temperature(logits, labels)).softmax(1).amax(1)
    torch.testing.assert_close(sure, torch.full((count,), (count + 1) / (count + 2)), atol=0.3 / count, rtol=0)
    targets = torch.nn.functional.one_hot(labels, 3)
    logits = 40.0 * targets - 20
    scores = (logits / fit_temperature(logits, targets)).sigmoid()
    torch.testing.assert_close(scores[targets > 0], sure, atol=0.5 / count, rtol=0)


def test_pages(audited, tmp_path):
    found = audited('order', calibrate=True)
    object.__setattr__(found, 'classes', ('a|b', '<script>'))
    for file in write_pages([found, found], tmp_path / 'audit.html', 'the command'):
        text = file.read_text()
        assert 'It uses order.' in text and 'frames reversed' in text and 'the command' in text
        assert '<script>' not in text and ('a\\|b' in text or file.suffix == '.html')
    assert {path.name for path in tmp_path.iterdir()} == {'audit.html', 'audit.md'}


def test_models_of_other_libraries():
    from torchvision.models.video import r3d_18

    clips = torch.randint(0, 256, (1, 3, 4, 32, 32), dtype=torch.uint8)
    subject = subject_of(r3d_18(num_classes=5), num_frames=4, img_size=32)
    assert subject.logits(clips).shape == (1, 5) and subject.num_frames == 4
    transformers = pytest.importorskip('transformers')
    config = transformers.VideoMAEConfig(
        num_frames=4, image_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=5, id2label={i: f'name {i}' for i in range(5)})
    subject = subject_of(transformers.VideoMAEForVideoClassification(config))
    assert subject.logits(clips).shape == (1, 5) and (subject.num_frames, subject.img_size) == (4, (32, 32))
    assert subject.classes == tuple(f'name {i}' for i in range(5))


def test_bad_input(audited, monkeypatch):
    with pytest.raises(TypeError, match='a model, its name or a function'):
        subject_of(3)
    with pytest.raises(ValueError, match='there is no model|torchvision:nothing cannot be had'):
        subject_of('torchvision:nothing')
    _, videos, clips = made('mean')
    monkeypatch.setattr(run_module, '_read', lambda videos, index, subject: (clips[index], clips[index]))
    common = dict(num_frames=T, img_size=4, name='mine')
    with pytest.raises(ValueError, match=r'mine: gave \[8\] for 8 clips'):
        audit(lambda clips: clips.float().mean((1, 2, 3, 4)), videos, **common)
    with pytest.raises(ValueError, match='mine has 3 classes, made has 2'):
        audit(lambda clips: torch.zeros(len(clips), 3), videos, **common)
    with pytest.raises(ValueError, match='mine: its logits are not finite'):
        audit(lambda clips: torch.full((len(clips), 2), float('nan')), videos, **common)
    with pytest.raises(DataError, match='are unknown to the model'):
        audit(nn.Identity(), videos, classes=('c', 'd'), **common)
    monkeypatch.setattr(run_module, '_read', lambda *args: ValueError('broken'))
    with pytest.raises(ValueError, match='no clip of made can be read'):
        audit(lambda clips: clips, videos, **common)


def test_what_is_shown():
    clips = torch.full((1, 3, 5, 2, 2), 100, dtype=torch.uint8)
    clips[:, :, 3] = 220
    shown = without_background(clips)
    assert shown[0, 0, :, 0, 0].tolist() == [128, 128, 128, 248, 128]


def test_statistics():
    first, second = torch.tensor([True] * 9 + [False]), torch.tensor([False] * 10)
    assert mcnemar(first, second) == pytest.approx(2 ** -9) and mcnemar(second, first) == pytest.approx(1)
    low, high = difference_interval(first, second)
    assert 0.4 < low < 0.9 < high <= 1
    assert difference_interval(first, first)[1] > 0.15  # ten equal clips do not prove that there is no difference
    low, high = accuracy_interval(first)
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-3)  # Wilson, as in scipy and statsmodels
    right = torch.tensor([True, False]).repeat_interleave(50)
    persons = [f'p{index // 10}' for index in range(100)]
    wide, narrow = accuracy_interval(right, persons), accuracy_interval(right)
    assert wide[1] - wide[0] > narrow[1] - narrow[0]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert sign_flip(torch.ones(20)) < 0.001 and sign_flip(torch.tensor([1., -1.] * 10)) > 0.4


def test_the_shipped_model_uses_order(tmp_path, capsys):
    """And the pairs of classes that are each other's reverse are found."""
    for label in range(8):
        (tmp_path / 'val' / ACTIONS[label]).mkdir(parents=True)
        for clip in range(2):
            write_action(tmp_path / 'val' / ACTIONS[label] / f'{clip}.mp4', label, 50 + clip, size=32, num_frames=8)
    blind = timm.create_model('sifar_resnet10t', pretrained=True)
    blind.get_classifier().weight.data.zero_()
    flatzoo.save_pretrained(blind, tmp_path / 'blind')
    assert main([
        'audit', 'folder', str(tmp_path), '--model', str(tmp_path / 'blind'), 'sifar_resnet10t', '--out',
        str(tmp_path / 'page'), '--json']) == 0
    nothing, found = json.loads(capsys.readouterr().out)
    assert (nothing['rank'], found['rank'], nothing['level']) == (2, 1, 'nothing')
    assert found['level'] == 'order' and ['moves left', 'moves right'] in found['symmetric']
    assert (tmp_path / 'page.html').exists() and flatzoo.audit is audit
    assert len(read_videos('folder', tmp_path, 'val')) == sum(row['clips'] for row in found['classes'])
