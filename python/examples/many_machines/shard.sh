#!/bin/sh
# One step of one shard of a sequence, in the folder DIR, which all machines see:
#   shard.sh summary I    phase 1: DIR/shard-I.safetensors -> DIR/summary-I.safetensors
#   shard.sh states N     between: the summaries of N shards -> DIR/state-I.safetensors, the state before shard I, for I = 1 .. N;
#                         state-N is the one after all tokens
#   shard.sh run I        phase 2: shard I from the state before it -> DIR/out-I.safetensors
# I counts from 0 and has five digits in file names.
#
# Variables: OP, the operator (linear, slay, ssd, mamba); DIR; FLAGS of `subquad run`, the same in all steps (--rule gated --segment
# 512 --backend cpu); SUBQUAD, the command; STATE_IN, a file with the state before the first token.
set -eu
: "${OP:?expected an operator, such as OP=linear}" "${DIR:?expected the folder of the shards, such as DIR=work}"
subquad=${SUBQUAD:-subquad}

file() { printf '%s/%s-%05d.safetensors' "$DIR" "$1" "$2"; }

# Words of FLAGS are split at spaces on purpose.
case "${1:-}" in
summary)
    # shellcheck disable=SC2086
    "$subquad" run "$OP" ${FLAGS:-} --quiet --input "$(file shard "$2")" --summary-out "$(file summary "$2")"
    ;;
states)
    before=${STATE_IN:-}
    i=0
    while [ "$i" -lt "$2" ]; do
        after=$(file state $((i + 1)))
        "$subquad" merge --quiet "$(file summary "$i")" ${before:+--state-in "$before"} --state-out "$after"
        before=$after
        i=$((i + 1))
    done
    ;;
run)
    before=${STATE_IN:-}
    [ "$2" -eq 0 ] || before=$(file state "$2")
    # shellcheck disable=SC2086
    "$subquad" run "$OP" ${FLAGS:-} --quiet --input "$(file shard "$2")" ${before:+--state-in "$before"} --output "$(file out "$2")"
    ;;
*)
    echo "shard.sh: expected summary, states or run, found ${1:-nothing}" >&2
    exit 2
    ;;
esac
