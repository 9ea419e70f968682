#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# charlm, built by its Makefile against an installed Thinwire (THINWIRE_PREFIX): a few steps over MPI and over local give the
# same losses; compare.py makes its table and plot.
set -eu
: "${THINWIRE_PREFIX:?}" "${MPIRUN:=mpirun}"
examples=$THINWIRE_PREFIX/share/doc/thinwire/examples
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"

if ! pkg-config --exists openblas; then
    echo "OpenBLAS is not here"
    exit 77
fi
make -f "$examples/charlm/Makefile" PKG_CONFIG_PATH="$THINWIRE_PREFIX/lib/pkgconfig" ${MPICC:+MPICC="$MPICC"} CFLAGS="-O3 -Wall -Wextra -Werror"
set -- -n 2
case $($MPIRUN --version 2>&1) in *"Open MPI"* | *OpenRTE*) set -- --oversubscribe --bind-to none "$@" ;; esac
export OPENBLAS_NUM_THREADS=1
# mpirun changes PATH, and with it which Python's library would be the text
text=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')
train="./charlm --text $text --eval-chars 1024 --rules *.bias=none;*=onebit+ef --steps 4 --seed 1 --eval-every 2"
set -f
# shellcheck disable=SC2086 # words
timeout 300 "$MPIRUN" "$@" $train --transport mpi --json mpi.json
# shellcheck disable=SC2086
timeout 300 $train --transport local --ranks 2 --json local.json --record grads
set +f
timeout 300 ./charlm --transport local --ranks 2 --eval-chars 1024 --steps 1 --json own.json >own.txt

# gives STATUS TEXT COMMAND...: ends with this status and says TEXT
gives() {
    want=$1 said=$2 status=0
    shift 2
    timeout 300 "$@" >said.txt 2>&1 || status=$?
    if [ $status != "$want" ] || ! grep -q -e "$said" said.txt; then
        echo "$*: exit status $status, wanted $want and \"$said\""
        cat said.txt
        exit 1
    fi
}
few="--eval-chars 1024 --steps 1 --context 2 --embed 4 --hidden 8 --text $text"
# shellcheck disable=SC2086
gives 2 "charlm: --ranks is for --transport local" env OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 ./charlm --ranks 3 $few
# shellcheck disable=SC2086
gives 2 "^charlm: THINWIRE_LOG=dbug: unknown word; did you mean 'debug'?" env THINWIRE_LOG=dbug ./charlm $few
# shellcheck disable=SC2086
gives 2 "charlm: --transport local needs no mpirun" env PMI_RANK=0 PMI_SIZE=2 ./charlm --transport local $few
# shellcheck disable=SC2086
gives 0 'warning: --rules: no layer matches "hidden"; the layers are embed, hidden1.weight' \
    ./charlm --ranks 2 $few --rules "embed | hidden=onebit+ef; *.bias=none"
[ "$(grep -c warning said.txt)" = 1 ]
./charlm --layers --hidden 512 >layers.json
"$THINWIRE_PREFIX/bin/thinwire-plan" --ranks 4 --link 100mbit --step-time 20ms layers.json >plan.txt 2>&1 || grep 'without jansson' plan.txt
if [ -w /dev/full ]; then
    # shellcheck disable=SC2086
    gives 1 "charlm: standard output could not be written" sh -c 'exec "$@" >/dev/full' sh ./charlm --quiet --ranks 2 $few
fi
python3 - <<'END'
import json, platform
own, version = json.load(open("own.json")), platform.python_version()
layers = {y["name"]: y["shape"] for y in json.load(open("layers.json"))}
assert layers == {"embed": [256, 64], "hidden1.weight": [512, 1024], "hidden1.bias": [512], "hidden2.weight": [512, 512], "hidden2.bias": [512],
                  "out.weight": [256, 512], "out.bias": [256]}, layers
assert own["python"] == version and f"(Python {version})" in open("own.txt").readline(), "the text's origin is not named"
assert json.load(open("local.json"))["python"] == "", "a text named by --text is no Python's own"
mpi, local = (json.load(open(f + ".json")) for f in ("mpi", "local"))
losses = [[(point[0], point[-1]) for point in run["curve"]] for run in (mpi, local)]
print("mpi", losses[0], "local", losses[1])
assert losses[0] == losses[1], "the transports do not give the same losses"

# --record: three steps, two ranks, seven layers; plain .npy, each as large as its shape says
import ast, os, struct
steps = sorted({int(name.split("-")[1]) for name in os.listdir("grads")})
assert len(os.listdir("grads")) == len(steps) * 2 * 7 and steps[0] == 0, sorted(os.listdir("grads"))
first = {}
for name in sorted(os.listdir("grads")):
    raw = open(os.path.join("grads", name), "rb").read()
    assert raw[:8] == b"\x93NUMPY\x01\x00", name
    skip = 10 + struct.unpack("<H", raw[8:10])[0]
    head, count = ast.literal_eval(raw[10:skip].decode()), 1
    for n in head["shape"]:
        count *= n
    assert skip % 64 == 0 and head["descr"] == "<f4" and not head["fortran_order"] and len(raw) == skip + 4 * count, (name, head)
    if "rank-0-hidden1.weight" in name or "rank-1-hidden1.weight" in name:
        first[name] = raw[skip:]
assert len(set(first.values())) == len(first), "ranks and steps have gradients of their own"
END
python3 "$examples/charlm/compare.py" --local --steps 3 --hosts 2 --charlm ./charlm --out out --charlm-options '--eval-chars 1024'
ls -l out
grep -q '<svg' out/*.svg
