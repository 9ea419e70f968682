#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The committed lists of symbols, the TW_API declarations of the headers and what the shared libraries export are the same.
# With --update the lists are written from the headers instead.
set -u
export LC_ALL=C
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0

declared() { # names that follow TW_API in the given headers
    cat "$@" | sed -e '/^[ ]*#/d' -e 's,/\*.*\*/,,' | tr '\n' ' ' | grep -o 'TW_API [^;]*;' |
        sed -e 's/(.*//' -e 's/.*[^A-Za-z0-9_]\([A-Za-z0-9_]*\)[ ]*$/\1/' | sort
}

compare() { # compare WHAT FILE-A FILE-B
    if ! diff -u "$2" "$3" >"$tmp/diff"; then
        echo "FAIL: $1"
        sed 's/^/    /' "$tmp/diff"
        bad=1
    fi
}

one() { # one LIBRARY HEADER...
    library=$1
    shift
    list=$srcdir/config/$library.sym
    declared "$@" >"$tmp/declared"
    if [ "$update" = 1 ]; then
        cp "$tmp/declared" "$list"
        return
    fi
    compare "config/$library.sym and the headers differ" "$list" "$tmp/declared"
    so=${builddir:-.}/.libs/$library.so
    if [ -f "$so" ]; then
        ${NM:-nm} -D --defined-only "$so" | awk '$2 ~ /[TDBRVW]/ {print $3}' | grep -v -e '^_init$' -e '^_fini$' | sort >"$tmp/exported"
        compare "config/$library.sym and what $library.so exports differ" "$list" "$tmp/exported"
        echo "$library.so: $(wc -l <"$tmp/exported") symbols"
    else
        echo "left out: $library.so was not built here"
    fi
}

update=0
[ "${1:-}" = --update ] && update=1
one libthinwire "$srcdir/include/thinwire/thinwire.h" "$srcdir/include/thinwire/codec.h" "$srcdir/include/thinwire/experimental.h"
one libthinwire-mpi "$srcdir/include/thinwire/mpi.h"
exit $bad
