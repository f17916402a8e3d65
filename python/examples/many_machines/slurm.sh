#!/bin/sh
# All shards of a sequence as SLURM jobs: slurm.sh SHARDS [OPTIONS OF SBATCH FOR THE SHARDS]
#   OP=linear DIR=work FLAGS="--rule gated" slurm.sh 64 --time=10 --gpus-per-task=1 --cpus-per-task=8
#
# Submits an array of SHARDS tasks (phase 1), a job that folds their summaries, and an array again (phase 2), each after the one
# before has succeeded, and prints the number of the last. DIR lies on a file system that all nodes see. The variables are those of
# shard.sh; sbatch hands them to the jobs.
set -eu
shards=${1:?expected the number of shards}
shift
: "${OP:?expected an operator, such as OP=linear}" "${DIR:?expected the folder of the shards, such as DIR=work}"
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
DIR=$(CDPATH='' cd "$DIR" && pwd)
export OP DIR FLAGS="${FLAGS:-}" SUBQUAD="${SUBQUAD:-subquad}" STATE_IN="${STATE_IN:-}"

# submit NAME COMMAND [OPTIONS]: prints the number of the job.
submit() {
    name=$1 command=$2
    shift 2
    sbatch --parsable --kill-on-invalid-dep=yes --job-name="subquad-$name" --output="$DIR/%x-%j.log" --export=ALL "$@" \
        --wrap="sh '$here/shard.sh' $command" | cut -d ';' -f 1
}

array="--array=0-$((shards - 1))"
first=$(submit summary "summary \$SLURM_ARRAY_TASK_ID" "$array" "$@")
fold=$(submit states "states $shards" "--dependency=afterok:$first" --time=10)
submit run "run \$SLURM_ARRAY_TASK_ID" "$array" "--dependency=afterok:$fold" "$@"
