# shellcheck shell=sh
# SPDX-License-Identifier: BSD-3-Clause
# For scripts that report in TAP and keep what a step prints in $tmp/log: read by them with `.`
n=0
bad=0

result() { # result STATUS NAME
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        echo "not ok $n - $2"
        sed 's/^/# /' "$tmp/log"
        bad=$((bad + 1))
    fi
}

skip() { # skip NAME REASON
    n=$((n + 1))
    echo "ok $n - $1 # SKIP $2"
}
