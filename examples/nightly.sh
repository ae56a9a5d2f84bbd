#!/bin/sh
# Posts a batch file, waits until it is complete, prints its counts, and keeps the failed rows beside it.
# Usage: sh nightly.sh FILE. See README.md for the variables. Needs curl.
set -eu

file=$1
url=${PROFILED_URL:-http://127.0.0.1:8750}
client=${PROFILED_CLIENT:-demo}

call() {
  if [ -n "${PROFILED_TOKEN:-}" ]; then
    curl -sS -H "Authorization: Bearer $PROFILED_TOKEN" "$@"
  else
    curl -sS "$@"
  fi
}

# The same file on the same day is the same batch, however often it is sent.
key="nightly-$(date -u +%F)-$(cksum <"$file" | tr ' ' '-')"

# curl itself tries again where the daemon is busy or away.
answer=$(call --retry 5 --retry-connrefused -H "Idempotency-Key: $key" -H 'Content-Type: text/csv' \
  --data-binary "@$file" "$url/m2/$client/v2/profile/batchUpdate")
case $answer in
*'<success>true</success>'*) ;;
*)
  echo "refused: $answer" >&2
  exit 1
  ;;
esac
id=$(printf '%s' "$answer" | sed 's/.*batchId=\([^<]*\)<.*/\1/')

tag() {
  rest=${status#*"<$1>"}
  printf '%s' "${rest%%"</$1>"*}"
}
while :; do
  status=$(call --retry 5 --retry-connrefused "$url/m2/$client/profile/batchStatus?batchId=$id&showDetails=true")
  case $(tag status) in
  complete) break ;;
  incomplete) sleep 1 ;;
  *)
    echo "$id: $status" >&2
    exit 1
    ;;
  esac
done

echo "$id: $(tag batchSize) rows = $(tag successfulUpdates) updated or created + $(tag profilesNotFound) not found" \
  "+ $(tag ignoredUpdates) ignored + $(tag failedUpdates) failed"
if [ "$(tag failedUpdates)" -gt 0 ]; then
  call -o "$file.failed" "$url/api/v1/batches/$id/repair?client=$client"
  echo "the failed rows are in $file.failed" >&2
  exit 1
fi
