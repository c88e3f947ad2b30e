#!/usr/bin/env bash
# deploy/smoke-test.sh IMAGE      a container of the image comes up, makes a map, says so, and ends
# deploy/smoke-test.sh --local    the same steps with the `splatstream` on the PATH
# PORT=5655 takes other ports than 5555 and the two above.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 1 ] || { sed -n 2,4p "$0" >&2; exit 2; }
port=${PORT:-5555}
at() { echo "tcp://127.0.0.1:$((port + $1))"; }
serve=(serve --no-viewer --ingest "$(at 0)" --updates "$(at 1)" --requests "$(at 2)")

if [ "$1" = --local ]; then
    work=$(mktemp -d)
    splatstream "${serve[@]}" --session-dir "$work/sessions" >"$work/log" 2>&1 &
    daemon=$!
    inside() { "$@"; }
    alive() { kill -0 "$daemon" 2>/dev/null; }
    logs() { cat "$work/log"; }
    stop() { kill -TERM "$daemon"; wait "$daemon"; }
    clean() { kill -KILL "$daemon" 2>/dev/null || true; rm -rf "$work"; }
else
    container=$(docker run --detach --init "$1" "${serve[@]}")
    inside() { docker exec "$container" "$@"; }
    alive() { [ "$(docker inspect --format '{{.State.Running}}' "$container")" = true ]; }
    logs() { docker logs "$container"; }
    stop() { docker stop --time 15 "$container" >/dev/null; return "$(docker wait "$container")"; }
    clean() { docker rm --force --volumes "$container" >/dev/null; }
fi
trap clean EXIT
fail() { echo "smoke test: $*" >&2; logs >&2 || true; exit 1; }

status=(splatstream status "$(at 2)" --ingest "$(at 0)")
for _ in $(seq 120); do
    alive || fail "the daemon ended"
    inside "${status[@]}" --timeout 2 >/dev/null 2>&1 && up=1 && break
    sleep 3
done
[ "${up:-}" ] || fail "the daemon is not healthy after six minutes"
echo "healthy"

inside splatstream push examples/office --to "$(at 0)" --session smoke --rate 0 --frames 0:24
for _ in $(seq 120); do
    look=$(inside "${status[@]}" --session smoke --json | tr -d ' \n') || fail "unhealthy: $look"
    [[ $look = *'"frames_done":24,'* ]] && done_=1 && break
    sleep 1
done
splats=$(sed -E 's/.*"splats":([0-9]+).*/\1/' <<<"$look")
[ "${done_:-}" ] || fail "24 frames were not finished in two minutes"
[ "$splats" -gt 0 ] || fail "the map is empty"
echo "24 frames, $splats splats"

stop || fail "the daemon did not end well"
echo "ended; the image works"
