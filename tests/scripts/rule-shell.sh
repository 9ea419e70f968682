#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Shell scripts pass shellcheck.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
cd "$srcdir" || exit 99
if ! command -v shellcheck >/dev/null 2>&1; then
    echo "SKIP: shellcheck is not here"
    exit 77
fi
bad=0
n=0
for f in autogen.sh check quickstart .ci/run bench/* tools/* config/*.sh tests/scripts/*; do
    [ -f "$f" ] || continue
    head -n 1 "$f" | grep -Eq '^#!.*\b(sh|bash)$' || continue
    n=$((n + 1))
    shellcheck -x "$f" || bad=1
done
echo "$n scripts"
exit $bad
