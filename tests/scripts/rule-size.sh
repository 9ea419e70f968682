#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A function fits a screen (80 lines at most) and a file is one topic (800 lines at most).
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
cd "$srcdir" || exit 99
# shellcheck disable=SC2046 # the names have no blanks
awk '
function done_with(file) { if (lines > 800) { print "FAIL: " file ": " lines " lines"; bad = 1 } }
FNR == 1 { if (last != "") done_with(last); last = FILENAME; inside = 0; opened = 0 }
{ lines = FNR }
/\\$/ { next }
!inside && /\)[ \t]*(TW_[A-Z0-9_]+[ \t]*)?\{$/ && !/^[ \t]*#/ { inside = 1; start = FNR; name = $0 }
inside && /^}/ {
    n = FNR - start + 1
    if (n > 80) { print "FAIL: " FILENAME ":" start ": " n " lines: " name; bad = 1 }
    if (n > longest) { longest = n; where = FILENAME ":" start }
    inside = 0
}
END { if (last != "") done_with(last); print "longest function: " longest " lines, " where; exit bad }
' $(find src include tools tests examples -name '*.c' -o -name '*.h' -o -name '*.inc' | grep -v '/build' | sort)
