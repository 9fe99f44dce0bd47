#!/usr/bin/env bash
# Everything that a GPU shows, in one call of at most four minutes, from the project's root:
#
#     OUT=FOLDER bash bench/gpu/run.sh                    # on a GPU machine, with .gpu/ from make gpu-bundle
#     OUT=FOLDER DEVICE=cpu bash bench/gpu/run.sh         # a rehearsal of about a minute: tiny sizes, no times to keep
#     OUT=FOLDER PARTS="rates" bash bench/gpu/run.sh      # some of it
#
# PARTS   tests        all tests that are marked `gpu`; failures are listed
#         determinism  the same sweep alone, killed and resumed, in packs, fused: are the digests equal?
#         rates        images a second of all problems in all precisions, compiled, packed, fused; longest kernels
#         comparisons  the device's own rates, then layers of cifar2 and VGG16 at n = 5,000 by each route
# The first two measure no times, so they run side by side. With them networks are compiled that `rates` measures then.
#
# Each part may take so many seconds: TESTS, DETERMINISM, RATES, COMPARISONS. What is not done by then is left out.
# In $OUT each part writes a line of JSON for each result as soon as it is there. bench/gpu/read.py makes tables of them.
set -u
PARTS=${PARTS:-tests determinism rates comparisons}
. "$(dirname "$0")/ready.sh"
if [ "$DEVICE" = cpu ]; then later=240; fi  # a rehearsal may be on a slow machine, with others at work
TESTS=${TESTS:-${later:-85}} DETERMINISM=${DETERMINISM:-${later:-85}} RATES=${RATES:-${later:-80}}
COMPARISONS=${COMPARISONS:-${later:-45}}
HERE=bench/gpu

wanted() { [[ " $PARTS " == *" $1 "* ]]; }

part() {  # name, seconds, script: it ends itself in time; if it does not, it is interrupted, then killed
    local began=$SECONDS log=$WORK/$1.log status
    timeout --signal INT --kill-after 5 $(($2 + 5)) "$PYTHON" "$HERE/$3.py" --until $(($(date +%s) + $2)) > "$log" 2>&1
    status=$?
    { echo "=== $1: status $status, $((SECONDS - began)) s"; cat "$log"; } >> "$OUT/run.log"
    say "$1: status $status, $((SECONDS - began)) s"
    [ $status = 0 ] || tail -n 5 "$log" | cut -c 1-300
}

say "ready: $DEVICE, $DATA"
"$PYTHON" "$HERE/rows.py" || exit 1  # the machine, and that this Python can do it
if wanted tests; then part tests "$TESTS" gpu_tests & fi
if wanted determinism; then part determinism "$DETERMINISM" determinism & fi
if wanted rates && wanted tests; then part warm "$TESTS" warm & fi
[ "$DEVICE" = cpu ] || wait
if wanted rates; then part rates "$RATES" rates; fi
if wanted comparisons; then part comparisons "$COMPARISONS" comparisons; fi
wait
"$PYTHON" "$HERE/read.py" --show "$OUT"
say "done"
ls -l "$OUT"
