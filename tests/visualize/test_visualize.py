"""Pictures of attention-map flow: what the colours say, and that they say it the same everywhere."""
import pytest
import torch

from flatzoo.visualize.attention_flow import (
    flow_colors,
    flow_figure,
    flow_strength,
    overlay_figure,
    overlay_strength,
)


def moving_flow(heads: int = 4) -> torch.Tensor:
    """A flow `[T, heads, h, w]` that is 1 but for one token per frame, which moves to the right."""
    flow = torch.ones(3, heads, 4, 5)
    for t in range(3):
        flow[t, :, 1, t] += torch.arange(1.0, heads + 1)
    return flow


def test_colours_are_the_principal_components():
    flow = torch.randn(3, 6, 8, 9, generator=torch.Generator().manual_seed(0))
    colors = flow_colors(flow)
    assert colors.shape == (3, 8, 9, 3) and colors.min() >= 0 and colors.max() <= 1
    tokens = flow.movedim(1, -1).flatten(0, 2)
    _, _, axes = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    for channel in range(3):
        projected = (tokens - tokens.mean(0)) @ axes[channel]
        color = colors[..., channel].flatten()
        inside = (color > 0) & (color < 1)  # the rest is cut off
        correlation = torch.corrcoef(torch.stack((projected[inside], color[inside])))[0, 1]
        assert correlation.abs() > 0.9999
        largest = axes[channel].abs().argmax()
        assert correlation.sign() == axes[channel][largest].sign()


def test_colours_do_not_depend_on_offset_and_scale():
    flow = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(flow_colors(3 * flow + 7), flow_colors(flow))


def test_a_still_clip_is_grey_and_few_heads_leave_colours_over():
    assert flow_colors(torch.ones(2, 4, 3, 3)).unique().tolist() == [0.5]
    colors = flow_colors(torch.randn(2, 2, 3, 3))
    assert colors[..., 2].unique().tolist() == [0.5] and colors[..., :2].std() > 0.1


def test_strength_marks_the_token_that_moves():
    strength = flow_strength(moving_flow())
    assert strength.shape == (3, 4, 5)
    expected = torch.zeros(3, 4, 5)
    for t in range(3):
        expected[t, 1, t] = 7.5 ** 0.5  # root of the mean of 1, 4, 9, 16
    torch.testing.assert_close(strength, expected)


def test_overlay_colours_moving_tokens_only():
    frames = torch.full((3, 3, 40, 50), 100, dtype=torch.uint8)
    overlay = overlay_strength(frames, moving_flow())
    assert overlay.dtype == torch.uint8 and overlay.shape == frames.shape
    for t in range(3):
        changed = (overlay[t] != 100).any(0)
        assert changed[10:20, 10 * t:10 * (t + 1)].all() and changed.sum() == 100
    assert torch.equal(overlay_strength(frames, torch.ones(3, 4, 4, 5)), frames)  # a still clip


@pytest.mark.parametrize('make', [flow_figure, overlay_figure])
def test_figures_have_a_row_per_block_and_a_column_per_frame(make, tmp_path):
    pytest.importorskip('matplotlib')
    frames = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    figure = make(frames, [moving_flow(), torch.ones(3, 2, 8, 10)], blocks=(0, 11), times=(0.0, 0.5, 1.0), title='clip')
    assert len(figure.axes) == 3 * 3
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ['frames', 'block 0', 'block 11']
    assert [ax.get_title() for ax in figure.axes[:3]] == ['0.00 s', '0.50 s', '1.00 s']
    figure.savefig(tmp_path / 'flow.png')
    assert (tmp_path / 'flow.png').stat().st_size > 1000


@pytest.mark.parametrize('flow, message', [
    (torch.ones(2, 3, 4), r'\[T, heads, h, w\], got \[2, 3, 4\]'),
    (torch.full((1, 3, 2, 2), float('nan')), 'not finite'),
])
def test_errors(flow, message):
    with pytest.raises(ValueError, match=message):
        flow_colors(flow)
    with pytest.raises(ValueError, match=message):
        flow_strength(flow)


def test_overlay_refuses_other_frames():
    with pytest.raises(ValueError, match=r'float32 \[3, 3, 8, 8\]'):
        overlay_strength(torch.zeros(3, 3, 8, 8), moving_flow())
    with pytest.raises(ValueError, match='as many frames'):
        overlay_strength(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), moving_flow())
