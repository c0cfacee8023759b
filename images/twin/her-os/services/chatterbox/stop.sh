#!/bin/sh
# Stop Chatterbox and wait until it is gone. Safe to call when it does not run.
set -eu
cd "$(dirname "$0")"
server=$(pwd)/server.py
pid_file=chatterbox.pid

pid=$(pgrep -f "^python3 $server" || true)
if [ -z "$pid" ]; then
    rm -f "$pid_file"
    echo "Chatterbox does not run"
    exit 0
fi
kill -TERM $pid
for _ in $(seq 100); do
    if ! kill -0 $pid 2>/dev/null; then
        rm -f "$pid_file"
        echo "Chatterbox stopped"
        exit 0
    fi
    sleep 0.1
done
echo "Chatterbox did not stop within 10 s; killing it" >&2
kill -KILL $pid
rm -f "$pid_file"
