#!/usr/bin/env bash
# A worker of the demo, in bash and curl: SHA-256, bytes and lines of {"path": "..", "seconds": 0}.
# It reads JSON with patterns, which the protocol's "Replies for scripts" allows; paths hold nothing to escape here.
set -u
export LC_ALL=C

post() { curl -sS -m 40 -H 'Content-Type: application/json' -H 'Expect:' --data-binary @- "$GATEWAY_URL$1" <<<"$2"; }

work() { # path, seconds: prints the result
  sleep "$2"
  [[ -r $1 ]] || return 1
  read -r sum _ < <(sha256sum "$1")
  read -r lines bytes _ < <(wc -lc "$1")
  printf '{"sha256":"%s","bytes":%d,"lines":%d}' "$sum" "$bytes" "$lines"
}

while true; do
  reply=$(post /poll "{\"worker_id\":\"$WORKER_ID\",\"task_type\":[\"${TASK_TYPE//,/\",\"}\"],\"wait\":25}") ||
    { sleep 0.5; continue; }
  [[ $reply =~ \"tasks\":\[\{\"id\":\"([^\"]+)\" ]] || continue
  id=${BASH_REMATCH[1]}
  [[ $reply =~ \"path\":\ *\"([^\"]+)\" ]] && path=${BASH_REMATCH[1]} || path=
  [[ $reply =~ \"seconds\":\ *([0-9.]+) ]] && seconds=${BASH_REMATCH[1]} || seconds=0
  [[ $reply =~ \"lease_token\":\"([^\"]+)\" ]] && lease="\"lease_token\":\"${BASH_REMATCH[1]}\""
  [[ $reply =~ \"heartbeat_seconds\":([0-9.]+) ]] && beat=${BASH_REMATCH[1]}

  # Heartbeats run beside the work; a cancelled task's work is ended by them.
  coproc WORK { work "$path" "$seconds"; }
  job=$WORK_PID
  exec {output}<&"${WORK[0]}"
  while sleep "$beat"; do
    case $(post "/tasks/$id/heartbeat" "{$lease}") in
      *'"cancel_requested":true'* | *'"code":"lease_lost"'*) kill "$job" ;;
    esac
  done 2>/dev/null &
  keeper=$!
  wait "$job" 2>/dev/null
  done=$?
  result=$(cat <&"$output")
  exec {output}<&-
  kill "$keeper" && wait "$keeper" 2>/dev/null
  case $done in
    0) post "/tasks/$id/complete" "{$lease,\"result\":$result}" ;;
    1) post "/tasks/$id/fail" "{$lease,\"error\":{\"type\":\"unreadable\",\"message\":\"cannot read $path\"}}" ;;
    *) post "/tasks/$id/release" "{$lease}" ;;
  esac >/dev/null
done
