#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# The layout of .clang-format, for every C file. The README's first program is laid out by hand.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
cd "$srcdir" || exit 99
tool=
for t in ${CLANG_FORMAT:-} clang-format-14 clang-format; do
    if command -v "$t" >/dev/null 2>&1 && "$t" --version | grep -q 'version 14\.'; then
        tool=$t
        break
    fi
done
if [ -z "$tool" ]; then
    echo "SKIP: clang-format 14 is not here (other versions lay out differently)"
    exit 77
fi
bad=0
for f in $(find src tools tests examples -name '*.c' -o -name '*.h' -o -name '*.inc' | grep -v -e /build -e '^examples/first\.c$' | sort); do
    if ! "$tool" --style=file "$f" | diff -u --label "$f" --label "$f laid out" "$f" - >/tmp/tw-format.$$ 2>&1; then
        echo "FAIL: $f ($(grep -c '^[-+][^-+]' /tmp/tw-format.$$) lines differ)"
        head -n 12 /tmp/tw-format.$$
        bad=1
    fi
done
rm -f /tmp/tw-format.$$
[ $bad = 0 ] || echo "to repair: $tool -i FILE"
exit $bad
