#!/usr/bin/env bash
# Stops this notebook instance when nobody needs it: no job in the queue, no run of ours, no busy kernel, and nobody
# at work in Jupyter for a while. What cannot be found out counts as work: an hour too long costs less than a lost
# training.
#
#   auto-stop.sh NAME IDLE_MINUTES DATA ENVIRONMENT    look, and stop the instance NAME when it may
#   auto-stop.sh --decide NOW IDLE_MINUTES JOBS KERNELS TERMINALS RUNS SINCE
#                                                      say only what would be done; JSON in files
set -euo pipefail

PYTHON=${PYTHON:-python3}

# Prints "stop: ..." or "stay: ...".
#   $1 now [s]  $2 idle minutes  $3 queue  $4 kernels  $5 terminals (files with JSON, as their programs print it)
#   $6 number of running pipelines  $7 since when the instance runs [s]
decide() {
    "$PYTHON" - "$@" <<'PYTHON'
import datetime
import json
import sys

now, idle, jobs_file, kernels_file, terminals_file, runs, since = sys.argv[1:8]
now, limit = float(now), 60 * float(idle)


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def answer(text):
    print(text)
    sys.exit(0)


def when(text):
    moment = datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()


if int(runs) > 0:
    answer("stay: %s runs of the pipeline" % runs)
last = float(since)
try:
    jobs = read(jobs_file)
    jobs = jobs.get("jobs", []) if isinstance(jobs, dict) else jobs
    waiting = [job["name"] for job in jobs if job["state"] not in ("succeeded", "failed", "cancelled")]
    last = max([last] + [float(job.get("ended") or 0) for job in jobs])
except Exception as error:
    answer("stay: the queue cannot be read (%s)" % type(error).__name__)
if waiting:
    answer("stay: %d jobs in the queue, such as %s" % (len(waiting), waiting[0]))
try:
    kernels, terminals = read(kernels_file), read(terminals_file)
    busy = [kernel for kernel in kernels if kernel.get("execution_state") != "idle"]
    moments = [when(one["last_activity"]) for one in kernels + terminals if one.get("last_activity")]
except Exception as error:
    answer("stay: Jupyter cannot be asked (%s)" % type(error).__name__)
if busy:
    answer("stay: %d kernels work" % len(busy))
last = max([last] + moments)
quiet = now - last
if quiet < limit:
    answer("stay: quiet for %d of %d minutes" % (max(quiet, 0) // 60, limit // 60))
answer("stop: quiet for %d minutes" % (quiet // 60))
PYTHON
}

# Asks Jupyter on this machine; its certificate is for another name.
ask_jupyter() {
    curl --silent --show-error --fail --insecure --max-time 10 "https://localhost:8443/api/$1" > "$2"
}

look() {
    local name=$1 idle=$2 data=$3 environment=$4 work runs since verdict
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder of now, not of then
    trap "rm -rf '$work'" EXIT
    SPACEPORT_DATA="$data" "$environment/bin/spaceport-lab" jobs --json > "$work/jobs.json" 2>/dev/null || true
    ask_jupyter kernels "$work/kernels.json" || true
    ask_jupyter terminals "$work/terminals.json" || true
    # Runs that were started by hand are in no queue.
    runs=$(pgrep -fc 'spaceport_lab\.(pipeline|jobs)\.execute' || true)
    since=$(($(date +%s) - $(cut -d. -f1 /proc/uptime)))
    PYTHON="$environment/bin/python"
    verdict=$(decide "$(date +%s)" "$idle" "$work/jobs.json" "$work/kernels.json" "$work/terminals.json" \
        "${runs:-0}" "$since")
    echo "$(date --iso-8601=seconds) $verdict"
    case "$verdict" in
    stop:*) aws sagemaker stop-notebook-instance --notebook-instance-name "$name" ;;
    esac
}

case "${1:-}" in
--decide)
    shift
    decide "$@"
    ;;
"" | -*)
    echo "usage: $0 NAME IDLE_MINUTES DATA ENVIRONMENT" >&2
    exit 2
    ;;
*) look "$@" ;;
esac
