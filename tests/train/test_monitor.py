"""The collapse monitor: full collapse by either sign, dimensional collapse, a run that has not taken hold, and health."""

import pytest

from userclue.errors import UsageError
from userclue.train.monitor import CollapseMonitor

HEALTHY = {"loss": -0.9, "std_sqrt_d": 0.95, "projection_rank": 20.0, "effective_rank": 30.0}
SHRUNK = HEALTHY | {"std_sqrt_d": 0.2}
ON_A_LINE = HEALTHY | {"loss": -0.9995, "projection_rank": 1.4}
ALIKE_ON_A_LINE = HEALTHY | {"loss": 3.0, "alignment": 0.001, "projection_rank": 1.4}  # of an objective whose loss does not end at −1


def watched(*rows, dim=64, stop=False):
    monitor = CollapseMonitor(dim, stop)
    for row in rows:
        monitor(row)
    return monitor


def test_health_says_nothing():
    monitor = watched(*[HEALTHY] * 5)
    assert not monitor.collapsed
    assert monitor.warnings() == []


@pytest.mark.parametrize("row", [SHRUNK, ON_A_LINE, ALIKE_ON_A_LINE])
def test_three_bad_rows_in_a_row_are_a_collapse(row):
    assert not watched(row, row).collapsed
    assert not watched(row, row, HEALTHY, row, row).collapsed
    assert not watched(row, row, row, HEALTHY).collapsed
    monitor = watched(HEALTHY, row, row, row)
    assert monitor.collapsed
    (warning,) = monitor.warnings()
    assert "the representations have collapsed" in warning
    assert "keep stop_gradient and predictor on" in warning


@pytest.mark.parametrize(
    "row",
    [
        HEALTHY | {"loss": -0.9995},
        HEALTHY | {"projection_rank": 1.4},
        HEALTHY | {"std_sqrt_d": 0.34},
        {"loss": 0.1},
        HEALTHY | {"alignment": 0.001},
    ],
)
def test_one_sign_alone_is_no_collapse(row):
    assert not watched(*[row] * 5).collapsed


def test_rows_without_geometry_neither_count_nor_forgive():
    assert watched(SHRUNK, SHRUNK, {"loss": 0.3, "event": "validation"}, SHRUNK).collapsed


def test_views_as_far_apart_as_strangers_at_the_end_are_told():
    apart = HEALTHY | {"loss": -0.04, "alignment": 1.92}
    assert watched(apart, apart).warnings() == []
    assert watched(apart, apart, apart, HEALTHY | {"alignment": 1.5}).warnings() == []
    monitor = watched(HEALTHY, apart, apart, apart, stop=True)
    assert not monitor.collapsed
    (warning,) = monitor.warnings()
    assert "pre-training has not taken hold" in warning
    assert "lower dropout" in warning


def test_stop_ends_the_run_at_the_third_row():
    monitor = watched(SHRUNK, SHRUNK, stop=True)
    with pytest.raises(UsageError, match=r"step 150: the representations have collapsed.*stopped because of on_collapse=stop"):
        monitor(SHRUNK | {"step": 150})


def test_dimensional_collapse_is_told_though_the_std_looks_healthy():
    (warning,) = watched(HEALTHY, HEALTHY | {"effective_rank": 4.0}).warnings()
    assert "an effective rank of 4.0 of 64 dimensions although std_sqrt_d looks healthy" in warning
    assert watched(HEALTHY | {"effective_rank": 8.1}).warnings() == []
    assert watched(HEALTHY | {"effective_rank": 4.0}, HEALTHY).warnings() == []
    assert watched(HEALTHY | {"effective_rank": 4.0}, dim=16).warnings() == []


def test_a_null_loss_is_no_collapse():
    assert not watched(*[HEALTHY | {"loss": None}] * 3).collapsed
