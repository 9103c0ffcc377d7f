#!/usr/bin/env bash
# A worker in bash and curl: SHA-256, lines and words of the files named by {"path": "a"} or {"files": ["a", "b"]}.
# No JSON parser: see "Replies for scripts" in docs/protocol.md. \u in names becomes UTF-8, but pairs (emoji) do not.
set -um -o pipefail; export LC_ALL=C.UTF-8  # -m: a background job is a process group of its own; `end` ends all of it
url=${GATEWAY_URL:-http://127.0.0.1:8080} worker=${WORKER_ID:-bash-$HOSTNAME-$$} type=${TASK_TYPE:-file_process}
text='"([^"\]|\\.)*"' s='[[:space:]]*' folder=$(mktemp -d) poll_id=$EPOCHREALTIME job='' last='' stopped=''
begin='^HTTP/.*"tasks":\[\{"id":"([^"]+)","job_type":"[^"]+","status":"processing","payload":'
names="^\{$s(\"path\"$s:$s$text|\"files\"$s:$s\[$s$text($s,$s$text)*$s\])$s\}"
ask() { curl -s -H @/dev/fd/3 "$@" 3<<<"${GATEWAY_TOKEN:+Authorization: Bearer $GATEWAY_TOKEN}"; }
post() { ask -i -m 70 -H 'Content-Type: application/json' -H 'Expect:' --data-binary @- "$url$1" <<<"$2"; }
end() { kill -KILL -- "-$1"; } 2>/dev/null; trap 'stopped=1 last=1; end "$job"' TERM INT  # a new fork may miss TERM
ended() { if [[ $stopped ]]; then end "$1"; fi; wait "$1" || wait "$1"; } 2>/dev/null  # a signal ends one wait early
trap 'rm -rf "$folder"; ask -m 5 -o /dev/null -X DELETE "$url/workers/${worker//\//%2F}"' EXIT  # no lease is left
report() {  # verb, members: again while no gateway answers, which is safe; 409: another has the task
  until reply=$(post "/tasks/$id/$1" "{\"lease_token\":\"$token\"$2}"); [[ $reply == HTTP/*\ [24]* || $stopped ]]
  do sleep 1; done; echo "$worker: $1 $id: ${reply%%$'\r'*}" >&2; }
keep() {  # heartbeats; ends the work when the lease is lost, the task is cancelled, or the worker must stop
  while sleep "$beat"; do case $(post "/tasks/$id/heartbeat" "{\"lease_token\":\"$token\"}") in
    HTTP/*\ 40[49]*) touch "$folder/lost"; end "$job" ;;
    *'"cancel_requested":true'* | *'"directive":"stop"'*) end "$job" ;; esac; done; }
work() {  # files as JSON strings; prints the result, or why there is none
  rows=''; for file in "$@"; do printf -v path %b "$(sed 's,\\\\,\\0134,g; s,\\\(["/]\),\1,g' <<<"${file:1:-1}")"
    if ! sums=$({ tee >(sha256sum >&3) <"$path" | wc -lw; } 3>&1) || ! [[ $sums =~ [0-9a-f]{64} ]]
    then echo "{\"type\":\"unreadable\",\"message\":\"cannot read the file\",\"details\":$file}"; return 1; fi
    rows+=",{\"path\":$file,\"sha256\":\"${BASH_REMATCH[0]}\","; [[ $sums =~ ([0-9]+)\ +([0-9]+) ]]
    rows+="\"lines\":${BASH_REMATCH[1]},\"words\":${BASH_REMATCH[2]}}"; done; echo "[${rows:1}]"; }
until [[ $last ]]; do
  post /poll "{\"worker_id\":\"$worker\",\"task_type\":\"$type\",\"poll_id\":\"$poll_id\"}" >"$folder/reply" & job=$!
  if ended "$job"; then reply=$(<"$folder/reply"); else reply=''; fi; job=''  # no task from half a reply
  [[ ${reply%%$'\r\n\r\n'*} != *[Xx]-[Dd]irective:\ [ds]* ]] || last=1
  case $last$reply in 1* | HTTP/*\ 20[04]*) poll_id=$EPOCHREALTIME ;; *) echo "no poll: $reply" >&2; sleep 1 ;; esac
  [[ ${reply%%$'\r'*} != *\ 40[13]* ]] || exit 1; [[ $reply =~ $begin ]] || continue  # a bad token stays bad
  id=${BASH_REMATCH[1]} rest=${reply#"${BASH_REMATCH[0]}"} token=${reply##*'"lease_token":"'} token=${token%%\"*}
  [[ $rest =~ $names ]] || { report fail ',"error":"expected path or files","retryable":false'; continue; }
  mapfile -ts1 files < <(grep -oE "$text" <<<"${BASH_REMATCH[1]}"); beat=${reply##*:} beat=${beat%%[!0-9.]*}
  work "${files[@]}" >"$folder/out" & job=$!; keep & keeper=$!; ended "$job"; done=$? job='' out=$(<"$folder/out")
  end "$keeper"; ended "$keeper"; if rm "$folder/lost" 2>/dev/null; then echo "$worker: lost $id" >&2; continue; fi
  case $done in 0) report complete ",\"result\":$out" ;; 1) report fail ",\"error\":$out,\"retryable\":false" ;;
    *) report release '' ;; esac; done
