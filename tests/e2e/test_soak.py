"""A few seconds of `make soak`."""

import sys
from pathlib import Path

import pytest

from tests.soak import grown, soak


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_under_mixed_load_nothing_grows_and_every_event_is_counted_once(tmp_path: Path) -> None:
    samples, load = soak(tmp_path, seconds=9, every=0.5, seed=1, warm_up=3)
    assert load.faults == []
    assert grown(samples) == []
    assert load.stored > 100
    assert load.requests > 100
