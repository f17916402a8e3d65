#!/bin/sh
# All shards of a sequence with GNU parallel, or with xargs where it is missing: parallel.sh SHARDS
#
# JOBS run at the same time (default: one a core), each with RAYON_NUM_THREADS threads (default 1). Several machines that share DIR:
# PARALLEL="--sshlogin a,b --workdir . --env OP --env DIR --env FLAGS --env SUBQUAD --env STATE_IN" parallel.sh SHARDS
# The other variables are those of shard.sh.
set -eu
shards=${1:?expected the number of shards}
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
export RAYON_NUM_THREADS="${RAYON_NUM_THREADS:-1}"

# each STEP: runs the step for every shard, and fails if one fails.
each() {
    if command -v parallel >/dev/null && parallel --version 2>/dev/null | grep -q '^GNU'; then
        seq 0 $((shards - 1)) | parallel -j "$jobs" --halt soon,fail=1 sh "$here/shard.sh" "$1" '{}'
    else
        seq 0 $((shards - 1)) | xargs -P "$jobs" -n 1 sh "$here/shard.sh" "$1"
    fi
}

each summary
sh "$here/shard.sh" states "$shards"
each run
