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
