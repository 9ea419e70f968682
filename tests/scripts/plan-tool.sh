#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# thinwire-plan from outside, beside the same model in Python: plan_tool.py, as TAP.
set -u
: "${srcdir:?}" "${builddir:?}"
unset THINWIRE_LOG THINWIRE_TIMEOUT THINWIRE_ISA THINWIRE_FAULT
if ! command -v python3 >/dev/null 2>&1; then
    echo "SKIP: python3 is not here"
    exit 77
fi
exec python3 "$srcdir/tests/scripts/plan_tool.py" "$builddir/thinwire-plan" "$builddir/thinwire-bench"
