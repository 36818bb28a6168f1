# SPDX-License-Identifier: MIT
"""Figures of a training that still runs."""

import logging

import pytest
from PIL import Image

from kraken_bids.model.training.records import LOG_NAME, TrainingLog
from kraken_bids.model_commands import training_figures
from kraken_bids.model_commands.training_figures import CURVES_NAME, LiveCurves


class Clock:
    """Tells the time; each look takes two seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 2
        return self.now


@pytest.fixture
def table(tmp_path):
    """Log of a training that has just begun."""
    log = TrainingLog(tmp_path / LOG_NAME)
    log.add({"epoch": 1, "seconds": 0.1, "loss": 2.0})
    return log


def test_losses_are_drawn_while_a_training_runs(table, tmp_path, monkeypatch):
    drawn, draw = [], training_figures.draw_curves

    def counted(folder):
        drawn.append(clock.now)
        draw(folder)

    monkeypatch.setattr(training_figures, "draw_curves", counted)
    clock = Clock()
    live = LiveCurves(tmp_path, clock)
    for epoch in range(2, 240):
        table.add({"epoch": epoch, "seconds": clock.now, "loss": 2 / epoch})
        live()
    # first after a minute; then two seconds of drawing in a hundred
    assert [round(time) for time in drawn] == [62, 164, 266, 368, 470]
    with Image.open(tmp_path / CURVES_NAME) as figure:
        assert figure.width > 100


def test_a_figure_that_cannot_be_drawn_does_not_end_a_training(table, tmp_path, caplog):
    live = LiveCurves(tmp_path / "gone", Clock())
    with caplog.at_level(logging.WARNING):
        for _ in range(70):
            live()
    assert "training.png cannot be drawn" in caplog.text
