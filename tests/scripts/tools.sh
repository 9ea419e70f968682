#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# What the tools say and how they end when their environment or their options are wrong, as TAP.
set -u
: "${srcdir:?}" "${builddir:?}"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
info=$builddir/thinwire-info
bench=$builddir/thinwire-bench
n=0 bad=0
unset THINWIRE_LOG THINWIRE_TIMEOUT THINWIRE_ISA THINWIRE_FAULT

# gives STATUS TEXT COMMAND...: ends with this status and says TEXT (a pattern) on either stream
gives() {
    want=$1 text=$2
    shift 2
    n=$((n + 1))
    timeout -k 5 60 "$@" >"$tmp/out" 2>&1 </dev/null
    status=$?
    if [ $status = "$want" ] && grep -q -e "$text" "$tmp/out"; then
        echo "ok $n - $*: $want"
    else
        echo "not ok $n - $*: exit status $status, wanted $want and \"$text\""
        tail -n 8 "$tmp/out" | sed 's/^/# /'
        bad=1
    fi
}

gives 0 "^  THINWIRE_FAULT  *(not set)" "$info"
gives 0 '"problem": ""' "$info" --json
gives 2 "unexpected argument" "$info" --jsno
gives 3 "^  THINWIRE_TIMEOUT=soon: wants seconds" env THINWIRE_TIMEOUT=soon "$info"
gives 3 "^  THINWIRE_LOG=wran: unknown word; did you mean 'warn'?" env THINWIRE_TIMEOUT=soon THINWIRE_LOG=wran "$info"
gives 3 "\"problem\": \"THINWIRE_FAULT=drop:-3: 'drop:-3': a frame is a number from 1\"" env THINWIRE_FAULT=drop:-3 "$info" --json
codec="$bench codec -b 64K -n 1 -w 0 --codec none"
small="allreduce --ranks 2 -b 4K -e 4K -n 1 -w 0 --codec none"
for isa in ref avx2 avx512 neon; do
    if "$info" | grep -Eq "codecs run as:.* $isa([ *]|\$)"; then
        gives 0 "codecs run as:.* $isa\*" env THINWIRE_ISA=$isa "$info"
        # shellcheck disable=SC2086 # words
        gives 0 . env THINWIRE_ISA=$isa $codec
    else
        gives 3 "^  THINWIRE_ISA=$isa: this build or this CPU lacks it; there are: ref" env THINWIRE_ISA=$isa "$info"
        # shellcheck disable=SC2086
        gives 2 "THINWIRE_ISA=$isa: this build" env THINWIRE_ISA=$isa $codec
    fi
done
for transport in local sim; do
    # shellcheck disable=SC2086
    gives 2 "--baseline: plain MPI runs beside --transport mpi only, not $transport" \
        "$bench" $small --transport $transport --baseline mpi
    # shellcheck disable=SC2086
    gives 2 "--baseline: plain MPI" "$bench" $small --transport $transport --baseline-n 3
    # shellcheck disable=SC2086
    gives 0 . "$bench" $small --transport $transport --baseline none
done
gives 2 "--timeout: must be above 0" "$bench" allreduce --timeout 0
# shellcheck disable=SC2086
gives 2 '^thinwire-bench allreduce: frames of 10 bytes: 64 to 1048576$' "$bench" $small --frame 10
# shellcheck disable=SC2086
gives 2 '^thinwire-bench allreduce: tile of 300 values: a power of two' "$bench" $small --tile 300
# shellcheck disable=SC2086
gives 2 "^thinwire-bench allreduce: layer 'bench.0' is not fp32 under 'none' without residuals" \
    "$bench" $small --algo native --codec onebit
n=$((n + 1)) # nothing was printed before the sentence
if [ "$(wc -l <"$tmp/out")" = 1 ]; then
    echo "ok $n - one line"
else
    echo "not ok $n - more than one line"
    bad=1
fi
gives 0 . "$bench" allreduce --ranks 2 -b 4K -e 4K -n 1 -w 0 --algo native
gives 2 '^thinwire-bench codec: --bytes: "1" is no valid value' "$bench" codec -b 1
gives 2 '^thinwire-bench codec: --seed: "x" is no valid value' "$bench" codec --seed x
whole="$bench codec -b 64K -n 1 -w 0"
# shellcheck disable=SC2086 # words
{
    gives 0 '^#   an array; decode writes' $whole --codec topk
    gives 0 'owner (sum, select, answer)' $whole --codec topk+ef
    gives 0 'owner (sum, select, answer)' $whole --codec ternary:density=0.05,select=group+ef
    gives 0 '"of": "layer".*"owner_of_bound"' $whole --codec topk:select=threshold+ef --json -
    gives 0 '"of": "array".*"decode_of_bound".*"columns": 128' $whole --codec powersgd --json -
    gives 0 '; rows of 64' $whole --codec powersgd:iterations=2+ef --columns 64
    gives 0 '; rows of 32' $whole --codec powersgd:columns=32+ef --columns 64
    gives 2 'no factors are made of 16384 values in rows of 128 at rank 128' $whole --codec powersgd:rank=128+ef
    gives 2 'no factors are made of 16384 values in rows of 100 at' $whole --codec powersgd --columns 100
    gives 2 '^thinwire-bench codec: --columns: "0" is no valid value' $whole --columns 0
    gives 2 'ISA "nosuch"' $whole --codec topk --isa nosuch
    gives 0 . env THINWIRE_ISA=ref $whole --codec topk+ef --codec powersgd+ef
}
for size in OMPI_COMM_WORLD_SIZE PMI_SIZE; do
    for transport in local sim; do
        # shellcheck disable=SC2086
        gives 2 "--transport $transport needs no mpirun: each of its 3 processes" env $size=3 "$bench" $small --transport $transport
    done
    # shellcheck disable=SC2086
    gives 0 . env $size=1 "$bench" $small --transport sim
done
if "$info" | grep -q '^  mpi  *no$'; then
    gives 0 '"name": "mpi", "in_build": "no", "abandon": "-".*not in this build' "$info" --json
else
    gives 0 '"name": "mpi", "in_build": "yes", "abandon": "no"' "$info" --json
fi
if [ -w /dev/full ]; then
    lost="standard output could not be written: No space left"
    full='exec "$@" >/dev/full'
    for option in "" --json --help --version; do
        gives 1 "thinwire-info: $lost" sh -c "$full" sh "$info" ${option:+$option}
    done
    gives 1 "thinwire-bench: $lost" sh -c "$full" sh "$bench" --version
    # shellcheck disable=SC2086
    gives 1 "thinwire-bench: standard output could not be written" sh -c "$full" sh $codec
    # shellcheck disable=SC2086
    gives 1 "thinwire-bench: standard output could not be written" sh -c "$full" sh "$bench" $small --transport sim
    # shellcheck disable=SC2086
    gives 1 "thinwire-bench: standard output could not be written" sh -c "$full" sh "$bench" $small --transport sim --json -
fi
for rate in 500kbit 0mbit 401gbit fast; do
    gives 2 '--rate wants 1mbit to 400gbit' "$srcdir/quickstart" --rate $rate
done
for words in --jobs "--jobs 0" --jobs=x --stage= --stage "--jobs 2 --stage"; do
    # shellcheck disable=SC2086 # words
    gives 2 '^usage: ./check' "$srcdir/check" $words
done
gives 2 'no stage none' "$srcdir/check" --jobs=2 --stage none
echo "1..$n"
exit $bad
