#!/bin/sh
# Start Chatterbox in the background; returns at once. Safe to call when it already runs.
set -eu
cd "$(dirname "$0")"
server=$(pwd)/server.py
pid_file=chatterbox.pid

running() {
    [ -f "$pid_file" ] && tr '\0' ' ' <"/proc/$(cat "$pid_file")/cmdline" 2>/dev/null | grep -qF "$server"
}

if running; then
    echo "Chatterbox already runs (PID $(cat "$pid_file"))"
    exit 0
fi
setsid nohup python3 "$server" >>chatterbox.log 2>&1 </dev/null &
echo $! >"$pid_file"
echo "Chatterbox starting (PID $(cat "$pid_file"))"
