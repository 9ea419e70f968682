# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash
# What ./check and ./quickstart need, each thing found by trying it, and how to get it. Sourced by both.
#
# A row: Debian/Ubuntu packages @ test @ what for

have() { command -v "$1" >/dev/null 2>&1; }
# thinwire-netlab looks in these folders too: Debian leaves them out of a user's PATH.
have_system() { PATH=$PATH:/usr/sbin:/sbin have "$1"; }
have_header() { # have_header NAME [FLAG...]
    local name=$1
    shift
    # only one header is asked for at a time, so a missing compiler reads as a missing header: the compiler is listed first
    echo "#include <$name>" | cc -E "$@" -x c - >/dev/null 2>&1
}
have_mpi() { [ -n "$(mpi_wrapper "$1")" ]; }

# The compiler wrapper of Open MPI or MPICH: Debian's name, or plain mpicc where that is the one.
mpi_wrapper() {
    local flavour=$1
    if have "mpicc.$flavour"; then
        command -v "mpicc.$flavour"
    elif have mpicc; then
        case $flavour in
        openmpi) mpicc --showme:version >/dev/null 2>&1 && command -v mpicc ;;
        mpich) mpicc -show 2>/dev/null | grep -q lmpich && command -v mpicc ;;
        esac
    fi
}

needed_to_build="
gcc libc6-dev@have cc && have_header stdlib.h@C compiler
make@have make@build
autoconf@have autoreconf@configure script
automake@have automake@makefiles
libtool@have libtoolize@shared libraries
pkg-config@have pkg-config@finding libraries
libxxhash-dev@have_header xxhash.h@hashes of names and frames
libhwloc-dev@have_header hwloc.h@cores and caches
libjansson-dev@have_header jansson.h@.safetensors files"

needed_for_one_mpi="
libopenmpi-dev openmpi-bin@have_mpi openmpi || have_mpi mpich@MPI
libopenblas-dev@have_openblas@the example trainer
python3@have python3@the text that the example trains on"

needed_for_netlab="
iproute2@have_system ip && have_system tc@the network lab"

needed_to_check="
g++@have c++@the headers are tried in C++
libopenmpi-dev openmpi-bin@have_mpi openmpi@tests over Open MPI
libmpich-dev mpich@have_mpi mpich@tests over MPICH
libopenblas-dev@have_openblas@the example trainer
python3@have python3@the text that the example trains on
libcunit1-dev@have_header CUnit/CUnit.h@unit tests
libsimde-dev@uname -m | grep -qxv x86_64 || have_header simde/x86/avx512.h@tests of the AVX-512 loops on CPUs without
ccache@have ccache@what several stages compile alike
clang@have clang@second compiler
libclang-rt-14-dev@have_libfuzzer@fuzzing
clang-format-14@have clang-format-14 || have clang-format@layout of the sources
shellcheck@have shellcheck@shell scripts
valgrind@have valgrind@memory errors
gcc-aarch64-linux-gnu libc6-dev-arm64-cross@have aarch64-linux-gnu-gcc@cross compilation
qemu-user@have qemu-aarch64 || uname -m | grep -qx aarch64@tests of the aarch64 build
xz-utils@have xz@make distcheck
python3-numpy python3-matplotlib@python_with numpy,matplotlib >/dev/null@tests of the scripts of bench
iproute2@have_system ip && have_system tc@the network lab"

have_libfuzzer() {
    local program status
    program=$(mktemp) || return 1
    echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return p == 0 && n > 0; }' |
        clang -fsanitize=fuzzer,address,undefined -x c - -o "$program" 2>/dev/null
    status=$?
    rm -f "$program"
    return $status
}

# A Python that has these modules: the first on the PATH, or the one that Debian's packages are for.
python_with() { # python_with MODULE[,MODULE...]
    local python
    for python in python3 /usr/bin/python3; do
        if have "$python" && "$python" -c "import $1" 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

have_openblas() {
    # shellcheck disable=SC2046 # flags
    have_header cblas.h $(pkg-config --cflags openblas 2>/dev/null)
}

# missing ROWS: those whose test fails, as "packages@what for"
missing() {
    local packages check purpose
    while IFS=@ read -r packages check purpose; do
        if [ -n "$packages" ] && ! eval "$check"; then echo "$packages@$purpose"; fi
    done <<<"$1"
}

# ensure ROWS LOG: installs what is missing through apt-get, as root or with sudo that asks nothing. Returns 1, with a
# list, where it cannot. Does nothing, and needs neither network nor rights, when all is there.
ensure() {
    local rows log=$2 packages sudo=""
    rows=$(missing "$1")
    [ -n "$rows" ] || return 0
    packages=$(cut -d@ -f1 <<<"$rows" | tr ' ' '\n' | sort -u | tr '\n' ' ')
    if have apt-get; then
        if [ "$(id -u)" != 0 ]; then
            if have sudo && sudo -n true 2>/dev/null; then sudo="sudo -n"; else sudo=no; fi
        fi
        if [ "$sudo" != no ]; then
            echo "installing: $packages"
            # shellcheck disable=SC2086 # lists of words
            if { $sudo env DEBIAN_FRONTEND=noninteractive apt-get update &&
                $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages; } \
                >"$log" 2>&1 </dev/null; then
                rows=$(missing "$1")
                [ -n "$rows" ] || return 0
            else
                tail -n 15 "$log"
                echo "apt-get failed; its output is in $log"
            fi
        fi
    fi
    echo "missing here (names of Debian and Ubuntu packages; other systems have them under similar names):"
    while IFS=@ read -r package purpose; do
        printf '    %-46s %s\n' "$package" "$purpose"
    done <<<"$rows"
    have apt-get && echo "to install them: sudo apt-get install $packages"
    return 1
}

# unpack_arm64 PACKAGE FOLDER: unpacks a package of arm64 in FOLDER. apt keeps its lists and its state there too: the system
# need not learn of a second architecture, and nobody has to be root.
unpack_arm64() {
    local apt
    rm -rf "${2:?}"
    mkdir -p "$2/state/lists/partial" "$2/cache/archives/partial" && cd "$2" && : >status || return 1
    apt=(timeout 120 apt-get -y -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$2/state"
        -o Dir::State::status="$2/status" -o Dir::Cache="$2/cache" -o APT::Sandbox::User=)
    "${apt[@]}" update && "${apt[@]}" download "$1" && dpkg-deb -x "$1"_*.deb .
}
