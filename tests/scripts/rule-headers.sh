#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Every header compiles alone: the public ones as C99, C11 and C++11 with each compiler that is there, the inner ones as C11.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0
runs=0

try() { # try COMPILER HEADER FLAG...
    compiler=$1 header=$2
    shift 2
    runs=$((runs + 1))
    # shellcheck disable=SC2086 # CC may hold flags
    if ! $compiler "$@" -fsyntax-only -Wall -Wextra -Wpedantic -Werror "$tmp/alone.c" >"$tmp/out" 2>&1; then
        echo "FAIL: <$header> alone with $compiler $*"
        sed 's/^/    /' "$tmp/out"
        bad=1
    fi
}

have() { command -v "${1%% *}" >/dev/null 2>&1; }

for header in thinwire.h codec.h experimental.h mpi.h; do
    if [ $header = mpi.h ] && [ -z "${MPI_ISYSTEM:-}" ]; then
        echo "left out: <thinwire/mpi.h>, no MPI in this build"
        continue
    fi
    flags="-I$srcdir/include"
    [ $header = mpi.h ] && flags="$flags $MPI_ISYSTEM"
    # twice: include guards
    printf '#include <thinwire/%s>\n#include <thinwire/%s>\nint tw_alone;\n' $header $header >"$tmp/alone.c"
    # shellcheck disable=SC2086 # flags is a list
    for c in "${CC:-cc}" gcc clang; do
        have "$c" || continue
        try "$c" thinwire/$header -x c -std=c99 $flags
        try "$c" thinwire/$header -x c -std=c11 $flags
    done
    # Open MPI's mpi.h pulls in its old C++ binding, which is not ours to judge
    # shellcheck disable=SC2086
    for c in "${CXX:-c++}" g++ clang++; do
        have "$c" || continue
        try "$c" thinwire/$header -x c++ -std=c++11 -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX $flags
    done
done

for f in $(cd "$srcdir" && find src -name '*.h' | sort); do
    case $f in src/transports/mpi*) [ -n "${MPI_ISYSTEM:-}" ] || continue ;; esac
    printf '#include "%s"\nint tw_alone;\n' "${f#src/}" >"$tmp/alone.c"
    # shellcheck disable=SC2086
    try "${CC:-cc}" "$f" -x c -std=gnu11 -D_GNU_SOURCE "-I$srcdir/include" "-I$srcdir/src" ${MPI_ISYSTEM:-}
done
echo "$runs compilations"
exit $bad
