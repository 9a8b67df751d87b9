#!/usr/bin/env bash
# `make stop`: end the service that `make demo` left running.
set -euo pipefail
cd "$(dirname "$0")/.."

PID_FILE=data/service.pid

running() {  # whether process $1 is the service
    [[ -n $1 && $(command_of "$1" 2>/dev/null) == *"-m app.main"* ]]
}

command_of() {
    if [[ -d /proc/self ]]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o command= -p "$1"; fi
}

pid=$(cat "$PID_FILE" 2>/dev/null || true)
if ! running "$pid"; then
    rm -f "$PID_FILE"
    echo "Nothing to stop: no service of make demo runs."
    exit 0
fi

echo "Stopping the service (process $pid) …"
kill -TERM "$pid"
deadline=$((SECONDS + 30))
while running "$pid"; do
    if ((SECONDS >= deadline)); then
        echo "It hasn't stopped within 30 seconds. To end it at once: kill -9 $pid" >&2
        exit 1
    fi
    sleep 0.1
done
rm -f "$PID_FILE"
echo "Stopped."
