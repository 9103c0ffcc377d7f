#!/usr/bin/env bash
# The function checksum(path) of an arq application, moved to bash: curl, jq and sha256sum, no Python. A producer calls
# enqueue_job("checksum", path, _queue_name="arq:queue:{default:checksum}") and gets what is completed with here.
# examples/worker.sh shows the same without jq, and polls that survive lost replies.
# shellcheck disable=SC2154 # the eval below assigns what this cannot see
set -um  # -m: a background job is a process group of its own, and ends whole
url=${GATEWAY_URL:-http://127.0.0.1:8080} worker=${WORKER_ID:-checksum-$HOSTNAME-$$} folder=$(mktemp -d)
trap 'exit 0' TERM INT
# Signing off gives back what is in hand.
trap 'end $(jobs -p); ask -m 5 -o /dev/null -X DELETE "$url/workers/$worker"; rm -rf "$folder"' EXIT
end() { for job; do kill -- "-$job"; done; } 2>/dev/null
ask() { curl -s -H @/dev/fd/3 "$@" 3<<<"${GATEWAY_TOKEN:+Authorization: Bearer $GATEWAY_TOKEN}"; }
post() { ask -m 65 -o "$2" -w '%{http_code}' -H 'Content-Type: application/json' --data-binary @- "$url$1"; }
with() { jq -c --arg lease_token "$token" '{$lease_token} + .' <<<"$1"; }

keep() {  # heartbeats; the work ends when the lease is lost or the task is cancelled
  while sleep "$beat"; do
    case $(with '{}' | post "/tasks/$id/heartbeat" "$folder/beat") in
      404 | 409) touch "$folder/lost"; break ;;
      200) jq -e .cancel_requested "$folder/beat" >/dev/null && break ;;
    esac
  done
  end "$1"
}

report() {  # again until the gateway answers: repeating a report is safe
  until with "$2" | post "/tasks/$id/$1" "$folder/answer" | grep -q '^[24]'; do sleep 1; done
  echo "$worker: $1 $id $(jq -r '.status // .code' "$folder/answer")" >&2
}

while true; do
  jq -n --arg worker_id "$worker" '{$worker_id, task_type: ["checksum"]}' | post /poll "$folder/poll" >"$folder/code" &
  wait $!
  case $(<"$folder/code") in 200) ;; 204) continue ;; *) echo "$worker: no poll" >&2; sleep 1; continue ;; esac
  # In bash's own quoting, so that any path survives.
  eval "$(jq -r '.tasks[0] | @sh "id=\(.id) token=\(.lease_token) beat=\(.heartbeat_seconds)
    path=\(.payload.args[0] | tostring)"' "$folder/poll")"
  sha256sum <"$path" >"$folder/sum" 2>/dev/null & work=$!
  keep $work & keeper=$!
  wait $work; done=$?
  end $keeper; wait $keeper 2>/dev/null
  if [[ -e $folder/lost ]]; then rm "$folder/lost"; echo "$worker: lost $id" >&2
  elif ((done == 0)); then report complete "$(jq -Rc '{result: split(" ")[0]}' "$folder/sum")"
  elif ((done > 128)); then report release '{}'
  else report fail "$(jq -nc --arg error "cannot read $path" '{$error, retryable: false}')"; fi
done
