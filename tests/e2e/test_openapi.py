"""The API holds to its own description, asked by schemathesis in all ways that it knows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.answers import PREFIX
from tests.support.process import ROOT, running_service

SUPPORT = ROOT / "tests" / "support"


def test_what_the_description_allows_is_answered_as_it_says(tmp_path: Path) -> None:
    with running_service(tmp_path / "store", BACKUP_PATH=str(tmp_path / "backups")) as service:
        asked = subprocess.run(
            [
                Path(sys.executable).with_name("st"),
                "--config-file", SUPPORT / "schemathesis.toml",
                "run", f"{service.url}/openapi.json",
                # Who was erased has figures like anybody who never watched: zeros.
                "--checks", "all", "--exclude-checks", "use_after_free",
                "--max-examples", "3", "--seed", "1", "--max-time", "25",
                "--generation-database", "none", "--no-color",
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stdout[-6000:] + asked.stderr[-2000:]
        operations = re.search(r"(\d+) selected / (\d+) total", asked.stdout)
        assert operations is not None
        assert operations[1] == operations[2]
        assert int(operations[1]) >= 11
        # It lives, counts, and has nothing to regret.
        assert httpx.get(f"{service.url}/health").json()["status"] == "healthy"
        counts = httpx.get(f"{service.url}{PREFIX}/ingestion").json()["http"]
        assert counts["stored"] > 0
        assert counts["in_flight"] == 0
        assert "Traceback" not in service.log
