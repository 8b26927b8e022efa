"""In which numbers prepared models compute."""
import pytest
import timm
import torch

import flatzoo
from flatzoo.runtime import choose_precision, precision, precision_of, prepare

TINY = dict(model_name='sifar_resnet10t', num_frames=4, img_size=32, num_classes=5)


@pytest.fixture
def gain(monkeypatch):
    """Sets how many times as fast this CPU multiplies in bfloat16."""
    def set_gain(value, matrix_units=False):
        monkeypatch.setattr(precision, '_gain_of_bfloat16', lambda: value)
        monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: matrix_units)

    monkeypatch.delenv('FLATZOO_PRECISION')
    return set_gain


@pytest.mark.parametrize(('value', 'matrix_units', 'chosen'), [
    (0.3, False, 'fp32'), (2.1, False, 'fp32'), (6.5, False, 'bf16'), (2.1, True, 'bf16'), (0.5, True, 'fp32')])
def test_auto_takes_bf16_where_it_pays(gain, value, matrix_units, chosen):
    gain(value, matrix_units)
    model = timm.create_model(**TINY).eval()
    assert choose_precision(model) == precision_of(prepare(model)) == chosen
    assert choose_precision(model, 'fp32') == 'fp32' and choose_precision(model, 'bf16') == 'bf16'
    assert precision_of(model) == 'fp32'


def test_the_environment_says_what_auto_means(gain, monkeypatch):
    gain(6.5)
    model = timm.create_model(**TINY)
    monkeypatch.setenv('FLATZOO_PRECISION', 'fp32')
    assert choose_precision(model) == 'fp32' and choose_precision(model, 'bf16') == 'bf16'
    monkeypatch.setenv('FLATZOO_PRECISION', 'half')
    with pytest.raises(ValueError, match="got 'half'"):
        choose_precision(model)


def test_models_that_bf16_blurs_stay_in_fp32(gain):
    gain(6.5)
    args = dict(depth=1, embed_dim=32, num_heads=2, num_frames=2, img_size=28)
    for flow, chosen in (('aligned', 'fp32'), ('vanilla', 'bf16'), ('none', 'bf16')):
        assert choose_precision(timm.create_model('amflow_dinov2_s_tcn_lite', flow=flow, **args)) == chosen


def test_names():
    with pytest.raises(ValueError, match='one of auto, fp32, bf16, int8, got .half.'):
        prepare(timm.create_model(**TINY), 'half')
    assert precision_of(torch.nn.Linear(1, 1).double()) == 'float64' and precision_of(torch.nn.ReLU()) == 'fp32'


def test_the_gain_is_that_of_this_machine():
    assert 0 < precision._gain_of_bfloat16() < 100
    assert precision._gain_of_bfloat16() == precision._gain_of_bfloat16()


def test_a_classifier_is_prepared():
    model = timm.create_model(**TINY)
    clip = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    answers = [flatzoo.Classifier(model, precision=name)(clip) for name in ('fp32', 'bf16')]
    assert model.training and precision_of(model) == 'fp32'
    exact, rounded = ([top.probability for top in sorted(answer.top, key=lambda top: top.index)] for answer in answers)
    assert exact != rounded and exact == pytest.approx(rounded, abs=.05)
