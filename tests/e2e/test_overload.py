"""More load than the machine can take, for some seconds: the short form of `make overload`."""

from pathlib import Path

from tests.overload import overload
from tests.support.process import running_service

# 128 for bodies, some 400 for Python and the engine as they start, the rest for what they do.
MEBIBYTES = 1_200


def test_overload_is_refused_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with running_service(tmp_path / "store") as service:
        # It holds what was acknowledged against what is stored.
        figures = overload(service, seconds=4, measured=1.5)
        assert figures.statuses["503"] > 0
        assert set(figures.statuses) <= {"200", "201", "503", "none"}
        assert figures.stored > 0
        # The machine may have other tests to run: one or two may be late.
        assert figures.livez_late <= 2
        assert figures.livez_asked > 5
        assert figures.memory_most < MEBIBYTES
        assert figures.recovered_seconds < 10
        assert "Traceback" not in service.log
        assert "ERROR" not in service.log
