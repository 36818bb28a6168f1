# SPDX-License-Identifier: MIT
import io

import numpy as np
import pytest
from PIL import Image

from kraken_bids.errors import UsageError
from kraken_bids.report.canvas import encode_png
from kraken_bids.report.training_figure import draw_training


def make_columns(n, *, is_watched=True, losses=None):
    nothing = np.full(n, np.nan)
    seen = np.where(np.arange(n) % 10 == 9, np.linspace(0.1, 0.9, n), np.nan)
    watched = ("loss", "top1", "average_rank", "correlation")
    return {
        "epoch": np.arange(1.0, n + 1),
        "loss": np.linspace(300, 100, n) if losses is None else losses,
        **{f"validation_{name}": seen if is_watched else nothing for name in watched},
    }


def draw(columns, **options):
    content = encode_png(draw_training(columns, **options))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_sheet_has_a_panel_more_where_somebody_watches():
    alone, watched = (draw(make_columns(40, is_watched=seen)) for seen in (False, True))
    assert alone.shape[0] == watched.shape[0]
    assert watched.shape[1] > 2.5 * alone.shape[1]


def test_epoch_taken_is_marked():
    columns = make_columns(40)
    reds = [
        int(((image[..., 0] > 180) & (image[..., 2] < 80) & (image[..., 1] < 130)).sum())
        for image in (draw(columns), draw(columns, taken=20))
    ]
    assert reds[0] == 0
    assert reds[1] > 200


@pytest.mark.parametrize("n", [1, 2, 4, 20, 480])
def test_epochs_beside_the_axis_are_whole(n):
    for panel in draw_training(make_columns(n)).figure.axes:
        ticks = panel.get_xticks()
        assert len(ticks) >= 2
        assert np.all(ticks == np.round(ticks))


@pytest.mark.parametrize("taken", [1, 10, 39])
def test_text_on_the_epoch_taken_stays_within_its_panel(taken):
    drawing = draw_training(make_columns(40), taken=taken)
    encode_png(drawing)  # lays the sheet out
    panel = drawing.figure.axes[0]
    (text,) = panel.texts
    inner, outer = text.get_window_extent(), panel.get_window_extent()
    assert outer.x0 <= inner.x0 < inner.x1 <= outer.x1


def test_metrics_below_zero_are_within_their_panel():
    columns = make_columns(40)
    columns["validation_correlation"] -= 0.1065  # -0.0065 to begin with
    panel = draw_training(columns).figure.axes[2]
    assert panel.get_ylim()[0] < np.nanmin(columns["validation_correlation"]) - 0.01


@pytest.mark.parametrize("losses", [np.array([5.0]), np.array([-1.0]), np.array([0.0])])
def test_one_epoch_is_drawn(losses):
    draw(make_columns(1, is_watched=False, losses=losses))


def test_losses_far_apart_and_below_zero_are_drawn():
    draw(make_columns(30, losses=np.geomspace(1e6, 1, 30)))
    draw(make_columns(30, losses=np.linspace(50, -50, 30)))


def test_no_epoch_is_refused():
    with pytest.raises(UsageError, match="no epoch to draw"):
        draw(make_columns(0))
