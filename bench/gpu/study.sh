#!/usr/bin/env bash
# P1's cifar2 at full recipe, chance included, as far as the time allows, in a call of its own, from the project's root:
#
#     OUT=FOLDER bash bench/gpu/study.sh                  # on a GPU machine, with .gpu/ from make gpu-bundle
#     OUT=FOLDER DEVICE=cpu bash bench/gpu/study.sh       # a rehearsal: a tiny study
#
# TIME       seconds that it may take (default: 540)
# PRECISION  of training (default: bfloat16)
# MORE       further flags of the sweep, such as --control retrain: without it there are no controls, which take longer
#            than 20 fused runs
#
# Where this version has the flags, 20 runs are fused and the network is compiled. Else it does as many runs as it can,
# two more at a time. After each step $OUT has study.log, study.jsonl and study.tar, the study as `distsim merge` writes
# it; bench/gpu/read.py unpacks it.
set -u
TIME=${TIME:-540}
. "$(dirname "$0")/ready.sh"
END=$((BEGAN + TIME))
store=$WORK/store HERE=bench/gpu
"$PYTHON" "$HERE/rows.py" || exit 1

help=$("$PYTHON" sweeps/cifar2.py --help)
has() { grep -q -- "$1" <<< "$help"; }
flags=(--local --device "$DEVICE" --activations memory --precision "${PRECISION:-bfloat16}" --data "$DATA")
runs="2 4 6 8 10 12 14 16 18 20"
if has --fuse; then flags+=(--fuse 20) runs=20; fi
if has --control; then flags+=(--control none); fi
if has --compile && [ "$DEVICE" != cpu ]; then flags+=(--compile); fi
if [ "$DEVICE" = cpu ]; then
    flags+=(--allow-slow --iterations 2 --epochs 1 --train-limit 256 --probe 100)
    has --fuse || runs="1 2"
fi
read -ra more <<< "${MORE:-}"

bring_back() {  # runs asked for, status, seconds since the first command began
    rm -rf "$WORK/published"
    "$PYTHON" -m distsim merge "$store" --into "$WORK/published" >> "$OUT/study.log" 2>&1 || return
    tar -cf "$WORK/study.tar" -C "$WORK/published" . && mv "$WORK/study.tar" "$OUT/study.tar"
    "$PYTHON" "$HERE/study.py" --published "$WORK/published" --asked "$1" --status "$2" --seconds "$3" \
        -- "${flags[@]}" "${more[@]}"
}

sweep() {  # runs: the sweep, for as long as there is time, less what bringing it back takes
    timeout --signal INT --kill-after 10 $((END - SECONDS - 20)) "$PYTHON" sweeps/cifar2.py "${flags[@]}" "${more[@]}" \
        --runs "$1" --storage "$store" >> "$OUT/study.log" 2>&1
}

first=$SECONDS
for count in $runs; do
    [ $((END - SECONDS)) -gt 30 ] || break
    sweep "$count"
    status=$?
    if [ $status != 0 ] && [ $((SECONDS - first)) -lt 60 ] && [[ "${flags[*]}" == *--compile* ]]; then
        say "status $status: once more, without --compile"
        tail -n 3 "$OUT/study.log"
        plain=()
        for flag in "${flags[@]}"; do [ "$flag" = --compile ] || plain+=("$flag"); done
        flags=("${plain[@]}")
        rm -rf "$store"  # compiled or not is another sweep
        sweep "$count"
        status=$?
    fi
    say "$count runs: status $status, $((SECONDS - first)) s since the first"
    bring_back "$count" "$status" "$((SECONDS - first))"
    [ $status = 0 ] || break
done
tail -n 40 "$OUT/study.log" | cut -c 1-200
"$PYTHON" "$HERE/read.py" --show "$OUT"
say "done"
ls -l "$OUT"
