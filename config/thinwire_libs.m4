dnl SPDX-License-Identifier: BSD-3-Clause
dnl Libraries: xxHash (needed), hwloc, jansson and CUnit (optional). pkg-config first, then the usual places.

dnl TW_FIND_LIB(PREFIX, PKG, HEADER, LIBRARY, FUNCTION, IF-FOUND, IF-NOT)
AC_DEFUN([TW_FIND_LIB], [
    AC_ARG_VAR([$1][_CFLAGS], [C compiler flags for $2, overriding pkg-config])
    AC_ARG_VAR([$1][_LIBS], [linker flags for $2, overriding pkg-config])
    AS_IF([test -z "$[$1][_LIBS]" && test -n "$PKG_CONFIG" && $PKG_CONFIG --exists $2 2>/dev/null], [
        [$1][_CFLAGS]=`$PKG_CONFIG --cflags $2`
        [$1][_LIBS]=`$PKG_CONFIG --libs $2`])
    AS_IF([test -z "$[$1][_LIBS]"], [[$1][_LIBS]="-l$4"])
    AC_MSG_CHECKING([for $2])
    tw_save_cppflags=$CPPFLAGS
    tw_save_libs=$LIBS
    CPPFLAGS="$CPPFLAGS $[$1][_CFLAGS]"
    LIBS="$[$1][_LIBS] $LIBS"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <$3>]], [[return (void *)$5 == (void *)0]])],
        [tw_found=yes], [tw_found=no])
    CPPFLAGS=$tw_save_cppflags
    LIBS=$tw_save_libs
    AC_MSG_RESULT([$tw_found])
    AS_IF([test $tw_found = yes], [$6], [[$1][_CFLAGS]=; [$1][_LIBS]=
        $7])
    AC_SUBST([$1][_CFLAGS])
    AC_SUBST([$1][_LIBS])
])

dnl xxHash is compiled in from its header (XXH_INLINE_ALL): nothing to link with.
AC_DEFUN([TW_XXHASH], [
    AC_ARG_VAR([XXHASH_CFLAGS], [C compiler flags for xxHash, overriding pkg-config])
    AS_IF([test -z "$XXHASH_CFLAGS" && test -n "$PKG_CONFIG" && $PKG_CONFIG --exists libxxhash 2>/dev/null],
        [XXHASH_CFLAGS=`$PKG_CONFIG --cflags libxxhash`])
    AC_MSG_CHECKING([for xxhash.h 0.8 or newer])
    tw_save_cppflags=$CPPFLAGS
    CPPFLAGS="$CPPFLAGS $XXHASH_CFLAGS"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#define XXH_INLINE_ALL
#include <xxhash.h>
#if XXH_VERSION_NUMBER < 800
#error
#endif]], [[return (int)XXH3_64bits_withSeed("", 0, 1)]])], [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no])
         AC_MSG_ERROR([xxhash.h 0.8 or newer is needed (Debian, Ubuntu: libxxhash-dev)])])
    CPPFLAGS=$tw_save_cppflags
])

AC_DEFUN([TW_HWLOC], [
    AC_ARG_WITH([hwloc],
        [AS_HELP_STRING([--with-hwloc=yes|no|check], [topology through hwloc; without it: sched_getaffinity and sysfs])],
        [], [with_hwloc=check])
    TW_HWLOC_TEXT="no (fall-back: sched_getaffinity and sysfs)"
    AS_IF([test "x$with_hwloc" != xno], [
        TW_FIND_LIB([HWLOC], [hwloc], [hwloc.h], [hwloc], [hwloc_topology_init], [
            AC_DEFINE([HAVE_HWLOC], [1], [hwloc is there])
            TW_HWLOC_TEXT=yes
        ], [
            AS_IF([test "x$with_hwloc" = xyes],
                [AC_MSG_ERROR([--with-hwloc was given but hwloc was not found (Debian, Ubuntu: libhwloc-dev)])])
            TW_MISSING="$TW_MISSING
    hwloc       core and cache counts come from the fall-back (Debian, Ubuntu: libhwloc-dev)"
        ])
    ])
    AM_CONDITIONAL([HAVE_HWLOC], [test "x$TW_HWLOC_TEXT" = xyes])
])

AC_DEFUN([TW_JANSSON], [
    AC_ARG_WITH([jansson],
        [AS_HELP_STRING([--with-jansson=yes|no|check], [thinwire-codec and thinwire-plan read .safetensors files and JSON; without it: refused])],
        [], [with_jansson=check])
    TW_JANSSON_TEXT="no (thinwire-codec does not read .safetensors files, thinwire-plan reads nothing)"
    AS_IF([test "x$with_jansson" != xno], [
        TW_FIND_LIB([JANSSON], [jansson], [jansson.h], [jansson], [json_loadb], [
            AC_DEFINE([HAVE_JANSSON], [1], [jansson is there])
            TW_JANSSON_TEXT=yes
        ], [
            AS_IF([test "x$with_jansson" = xyes],
                [AC_MSG_ERROR([--with-jansson was given but jansson was not found (Debian, Ubuntu: libjansson-dev)])])
            TW_MISSING="$TW_MISSING
    jansson     thinwire-codec does not read .safetensors files, thinwire-plan reads nothing (Debian, Ubuntu: libjansson-dev)"
        ])
    ])
])

AC_DEFUN([TW_CUNIT], [
    TW_FIND_LIB([CUNIT], [cunit], [CUnit/CUnit.h], [cunit], [CU_initialize_registry], [TW_CUNIT_TEXT=yes], [
        TW_CUNIT_TEXT=no
        TW_MISSING="$TW_MISSING
    CUnit       make check leaves out the tests written with it (Debian, Ubuntu: libcunit1-dev)"
    ])
    AM_CONDITIONAL([HAVE_CUNIT], [test "x$TW_CUNIT_TEXT" = xyes])
])

dnl For bench/lowrank_speed alone, which is not made unless asked for: nothing is said where it is missing.
AC_DEFUN([TW_OPENBLAS], [
    TW_FIND_LIB([OPENBLAS], [openblas], [cblas.h], [openblas], [openblas_get_corename],
        [AC_DEFINE([HAVE_OPENBLAS], [1], [bench/lowrank_speed compares with OpenBLAS])], [])
])
