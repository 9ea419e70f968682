#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# run-one.sh PROGRAM [ARGUMENT...]: a test that hangs fails after THINWIRE_TEST_TIMEOUT seconds (default 900).
# THINWIRE_TEST_WRAP, a command with arguments, goes before the program (valgrind, setarch). Programs whose name has
# THINWIRE_TEST_SKIP in it are skipped.
set -u
case $1 in
*"${THINWIRE_TEST_SKIP:-no test has this in its name}"*)
    echo "left out by THINWIRE_TEST_SKIP"
    exit 77
    ;;
esac
limit=${THINWIRE_TEST_TIMEOUT:-900}
if ! command -v timeout >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    exec ${THINWIRE_TEST_WRAP:-} "$@"
fi
# shellcheck disable=SC2086
timeout -k 10 "$limit" ${THINWIRE_TEST_WRAP:-} "$@"
status=$?
if [ $status -eq 124 ] || [ $status -eq 137 ]; then
    echo "$1: killed after $limit s"
    exit 1
fi
exit $status
