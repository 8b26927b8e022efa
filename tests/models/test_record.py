"""Records of weights: every tag has one, they say what the papers print, and their addresses are those of timm."""
import timm

import flatzoo
from flatzoo.models.record import Figure, TagRecord, register_records, tag_record

NAMES = flatzoo.list_models(pretrained=True) + timm.list_models('uniformer*', pretrained=True)


def test_every_tag_with_weights_has_a_whole_record():
    for name in NAMES:
        record, cfg = tag_record(name), timm.get_pretrained_cfg(name)
        assert record.data and record.limits.endswith('.') and record.paper.bibtex.startswith('@article{'), name
        assert cfg.paper_name == record.paper.title and record.paper.id in cfg.paper_ids, name


def test_addresses_are_those_of_timm():
    """timm names some repositories otherwise than the model, so that an address cannot be made of a name."""
    of_timm = {}
    for name in timm.list_pretrained():
        if not timm.model_entrypoint(name.split('.')[0]).__module__.startswith('flatzoo'):
            of_timm.setdefault(timm.get_pretrained_cfg(name).hf_hub_id, set()).add(name)
    backbones = {}
    for name in NAMES:
        cfg = timm.get_pretrained_cfg(name)
        if (cfg.hf_hub_id or '').startswith('timm/'):
            family = (name.split('_')[0], cfg.hf_hub_id)  # of one family, one address means one backbone
            if family not in backbones:
                backbones[family] = timm.create_model(cfg.architecture, device='meta')._backbone_name
            assert f'{backbones[family]}.{cfg.tag}' in of_timm.get(cfg.hf_hub_id, ()), name
            image = timm.get_pretrained_cfg(f'{backbones[family]}.{cfg.tag}')
            assert (cfg.mean, cfg.std, cfg.license) == (image.mean, image.std, image.license), name
    assert len(backbones) > 20


def test_figures_are_plausible_and_say_where():
    for name in NAMES:
        figures = tag_record(name).figures
        assert len(set(figures)) == len(figures), name
        for figure in figures:
            assert 20 < figure.top1 < (figure.top5 or 101) <= 101 and figure.where, name
            assert (figure.clips is None) == (figure.crops is None)
            views = None if figure.clips is None else figure.clips * figure.crops
            assert figure.views == views


def printed(pattern, where):
    """Top-1 by model, of the figures of one table."""
    return {(name.partition('.')[0], figure.data, figure.frames): (figure.top1, figure.top5, figure.views)
            for name in NAMES if name.startswith(pattern) and 'ibm' not in name
            for figure in tag_record(name).figures if where in figure.where and not figure.setting}


def test_rows_of_sifar():
    """Counts of rows, and a row of every table."""
    k400, ssv2 = 'Kinetics-400', 'Something-Something v2'
    of = {where: printed('sifar', where) for where in ('Table', 'Table 5', 'Table 6a', 'Table 6b', 'Table 7')}
    assert of['Table']['sifar_swin_l12_384', k400, 8] == (84.2, 96.0, 3)
    assert of['Table']['sifar_swin_l14_16f', ssv2, 16] == (64.2, 88.4, 3)
    assert of['Table 5'] == {('sifar_swin_b12_16f', 'Moments in Time', 16): (39.9, 69.2, 3)}
    assert of['Table 6a'] == {(f'sifar_swin_b{w}_16f', 'Jester', 16): (97.2, 99.9, 3) for w in (12, 14)}
    assert of['Table 6b']['sifar_swin_b14_16f', 'Diving48', 16] == (87.3, 98.8, 3)
    assert len(of['Table 7']) == 18 and of['Table 7']['sifar_resnet101_c21_11', k400, 8] == (77.5, None, None)
    variants = [figure for name in NAMES if 'ibm' not in name and name.startswith('sifar')
                for figure in tag_record(name).figures if figure.setting]
    counts = {where: sum(figure.where == where for figure in variants) for where in ('Table 8a', 'Table 8b', 'Table 9')}
    assert counts == {'Table 8a': 4, 'Table 8b': 12, 'Table 9': 6}
    assert Figure(ssv2, 23.9, None, 'Table 9', 8, 1, 3, 'frames in reverse order', params='87 M',
                  cost='106 G x 3') in variants


def test_weights_have_the_figure_of_their_data():
    for name in ('sifar_swin_b14', 'sifar_swin_b14_16f'):
        for tag in ('ibm_k400', 'ibm_ssv2'):
            record = tag_record(f'{name}.{tag}')
            (figure,) = record.figures
            assert figure.data == record.data.title and figure.views == record.protocol.views == 3


def test_rows_of_am_flow():
    k400 = {key: value for key, value in printed('amflow', 'Table').items() if key[1] == 'Kinetics-400'}
    assert k400 == {
        ('amflow_dinov2_b_lstm', 'Kinetics-400', 8): (88.8, 98.2, 3),
        ('amflow_dinov2_b_transformer', 'Kinetics-400', 8): (89.1, 98.3, 3),
        ('amflow_dinov2_b_transformer', 'Kinetics-400', 32): (89.6, 98.4, 3)}
    assert len(printed('amflow', 'Table')) == 8
    ablation = {figure.setting: figure.top1 for figure in tag_record('amflow_dinov2_b_lstm').figures if figure.setting}
    assert sorted(ablation.values()) == [72.7, 74.3, 78.3, 84.2]


def test_records_of_names_that_have_none(monkeypatch):
    assert tag_record('superimage') == tag_record('no_such.tag') == TagRecord()
    assert tag_record('sifar_swin_b14') is tag_record('sifar_swin_b14.ibm_k400')  # the default tag
    monkeypatch.setattr('flatzoo.models.record._RECORDS', {})
    register_records({'a.b': TagRecord(limits='None.')})
    assert tag_record('a.b').limits == 'None.'
