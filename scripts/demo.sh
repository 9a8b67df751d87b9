#!/usr/bin/env bash
# `make demo`: the service in the background, sample viewing in it, and what it answers.
set -euo pipefail
cd "$(dirname "$0")/.."

PORT=${PORT:-8006}
PYTHON=${PYTHON:-.venv/bin/python}
SERVICE_LOG=${SERVICE_LOG:-data/service.log}
PID_FILE=data/service.pid
URL=http://localhost:$PORT

get() {  # the body of GET $URL$1; past any proxy
    "$PYTHON" - "$URL$1" <<'PYTHON'
import sys
from urllib.request import ProxyHandler, build_opener

with build_opener(ProxyHandler({})).open(sys.argv[1], timeout=10) as answer:
    print(answer.read().decode())
PYTHON
}

ready() {
    get /readyz >/dev/null 2>&1
}

running() {  # whether process $1 is the service
    [[ -n $1 && $(command_of "$1" 2>/dev/null) == *"-m app.main"* ]]
}

command_of() {
    if [[ -d /proc/self ]]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o command= -p "$1"; fi
}

start() {  # in a session of its own, so that it outlives this terminal; prints its pid
    ENABLE_KAFKA=false PORT=$PORT "$PYTHON" - "$PYTHON" "$SERVICE_LOG" <<'PYTHON'
import subprocess
import sys

python, log_file = sys.argv[1:]
with open(log_file, "wb") as log:
    service = subprocess.Popen(
        [python, "-m", "app.main"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
print(service.pid)
PYTHON
}

if ready; then
    echo "A service answers at $URL already; it gets the sample viewing."
else
    mkdir -p data "$(dirname "$SERVICE_LOG")"
    pid=$(cat "$PID_FILE" 2>/dev/null || true)
    if running "$pid"; then
        echo "The service of an earlier demo still runs (process $pid), but it isn't ready at $URL." >&2
        echo "Stop it first: make stop" >&2
        exit 1
    fi
    echo "Starting the service …"
    pid=$(start)
    echo "$pid" >"$PID_FILE"
    deadline=$((SECONDS + 60))
    until ready; do
        if ! running "$pid"; then
            rm -f "$PID_FILE"
            echo "The service ended by itself. The end of its log, $SERVICE_LOG:" >&2
            tail -n 20 "$SERVICE_LOG" >&2
            exit 1
        fi
        if ((SECONDS >= deadline)); then
            echo "The service isn't ready after a minute. The end of its log, $SERVICE_LOG:" >&2
            tail -n 20 "$SERVICE_LOG" >&2
            echo "It is left running (process $pid); to stop it: make stop" >&2
            exit 1
        fi
        sleep 0.2
    done
fi

"$PYTHON" test_events.py --url "$URL"

popular=$(get "/api/v1/analytics/content/popular?days=7&limit=10")
echo
"$PYTHON" - "$popular" <<'PYTHON'
import json
import sys

answer = json.loads(sys.argv[1])
print(f"Popular films, {answer['period_start']} to {answer['period_end']}:")
print(f"{'':>4}  {'film':36}  {'views':>7}  {'viewers':>7}  {'completion':>10}")
for rank, film in enumerate(answer["items"], 1):
    print(
        f"{rank:>4}  {(film['title'] or film['movie_id'])[:36]:36}  {film['total_views']:>7}  "
        f"{film['unique_viewers']:>7}  {film['completion_rate']:>8.2f} %"
    )
PYTHON
echo
echo "The service goes on running. Its API: $URL/docs"
if running "$(cat "$PID_FILE" 2>/dev/null || true)"; then
    echo "To stop it: make stop (its log: $SERVICE_LOG)"
else
    echo "It was started by something else than make demo: stop it there."
fi
echo "Its page: $URL/"
