#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# run-one.sh PROGRAM [ARGUMENT...]: a test that hangs fails after THINWIRE_TEST_TIMEOUT seconds (default 900).
# THINWIRE_TEST_WRAP, a command with arguments, goes before the program (valgrind, setarch).
set -u
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
