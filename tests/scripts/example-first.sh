#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The first program: at most 30 lines, built by its Makefile against an installed Thinwire (THINWIRE_PREFIX), run on 4 ranks.
set -eu
: "${THINWIRE_PREFIX:?}" "${MPIRUN:=mpirun}"
examples=$THINWIRE_PREFIX/share/doc/thinwire/examples
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"

lines=$(wc -l <"$examples/first.c")
[ "$lines" -le 30 ] || {
    echo "first.c has $lines lines"
    exit 1
}
make -f "$examples/Makefile" PKG_CONFIG_PATH="$THINWIRE_PREFIX/lib/pkgconfig"
set -- -n 4
case $($MPIRUN --version 2>&1) in *"Open MPI"* | *OpenRTE*) set -- --oversubscribe --bind-to none "$@" ;; esac
timeout 300 "$MPIRUN" "$@" ./first >said
cat said
grep -Eq '^[0-9.]+x fewer bytes; sum of averages is within [-+.0-9e]+ of exact$' said
