#!/usr/bin/env bash
# A producer: bash and curl. `producer.sh FILE ..` has each file counted and hashed.
set -euo pipefail
gateway=${GATEWAY_URL:-http://127.0.0.1:8080} exit_code=0

# GET, or POST a body. --retry comes again after a 429 or 503, when Retry-After says; it gives up after two minutes.
call() { # path, curl's options
  # The token goes by a file: other users can read arguments.
  curl -sSf --max-time 60 --retry 20 --retry-max-time 120 -H 'Content-Type: application/json' -H @/dev/fd/3 \
    "$gateway$1" "${@:2}" 3<<<"${GATEWAY_TOKEN:+Authorization: Bearer $GATEWAY_TOKEN}"
}

# A file's name as a JSON string.
quoted() {
  local name; name=$(realpath -- "$1")
  name=${name//\\/\\\\}
  printf '"%s"' "${name//\"/\\\"}"
}

# Prints what came of a task. Without a result the exit code is 1.
show() { echo "$1"; [[ $1 =~ ^[^,]*,[^,]*,\"status\":\"completed\" ]] || exit_code=1; }

tasks=()
for file in "$@"; do
  tasks+=("{\"job_type\":\"file_process\",\"payload\":{\"path\":$(quoted "$file")}}")
done

# One task. The answer comes when it is final, at the latest after 30 s.
task=$(call /tasks -H 'Prefer: wait=30' --data-binary "${tasks[0]}")
show "$task"
if ((${#tasks[@]} > 1)); then
  rest=$(IFS=,; echo "${tasks[*]:1}")
  stored=$(call '/tasks?atomic=true' --data-binary "[$rest]") # a batch: all of it is stored, or nothing
  while read -r id; do
    task=$(call "/tasks/$id?wait=30" </dev/null)
    show "$task"
  done < <(grep -oP '"id":"\K[^"]+' <<<"$stored")
fi
exit "$exit_code"
