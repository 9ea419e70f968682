dnl SPDX-License-Identifier: BSD-3-Clause

dnl TW_TRY_CFLAG(VARIABLE, FLAG): appends FLAG to VARIABLE when the compiler takes it without complaint.
AC_DEFUN([TW_TRY_CFLAG], [
    tw_save_cflags=$CFLAGS
    CFLAGS="$CFLAGS -Werror $2"
    AC_MSG_CHECKING([whether $CC takes $2])
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [$1="$$1 $2"; AC_MSG_RESULT([yes])], [AC_MSG_RESULT([no])])
    CFLAGS=$tw_save_cflags
])

dnl C11, and the flags without which bytes would differ between builds.
AC_DEFUN([TW_C11], [
    AS_CASE([" $CFLAGS "], [*" -std="*], [], [CC="$CC -std=c11"])
    TW_CFLAGS="-fvisibility=hidden"
    TW_TRY_CFLAG([TW_CFLAGS], [-fno-math-errno])
    TW_TRY_CFLAG([TW_CFLAGS], [-pthread])
    AC_SUBST([TW_CFLAGS])
])

dnl Flags that keep floating-point values as written. They follow the user's, since the last one counts; and they stand in
dnl TW_CFLAGS too, for `make CFLAGS=...`. Tried without the user's, about which clang may warn. -ffp-contract is the last
dnl one: clang's -fno-fast-math changes it.
AC_DEFUN([TW_EXACT_MATH], [
    AC_MSG_CHECKING([that CFLAGS do not ask for -ffast-math])
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[
#if defined(__FAST_MATH__)
#error fast-math
#endif]])], [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no])
         AC_MSG_ERROR([CFLAGS ask for -ffast-math (or -Ofast): ranks would no longer agree bit for bit. Remove it.])])
    tw_exact_cflags=
    tw_user_cflags=$CFLAGS
    CFLAGS=
    m4_foreach_w([tw_flag], [-fno-fast-math -fno-unsafe-math-optimizations -fno-associative-math -fno-reciprocal-math
        -fno-finite-math-only -fsigned-zeros -fno-single-precision-constant -fno-approx-func -fexcess-precision=standard
        -fdenormal-fp-math=ieee -mno-daz-ftz -ffp-contract=off],
        [TW_TRY_CFLAG([tw_exact_cflags], tw_flag)])
    AS_CASE([$host_cpu], [x86_64], [TW_TRY_CFLAG([tw_exact_cflags], [-mfpmath=sse])])
    CFLAGS="$tw_user_cflags$tw_exact_cflags"
    TW_CFLAGS="$TW_CFLAGS$tw_exact_cflags"
    AC_MSG_CHECKING([that floating-point arithmetic is IEEE 754's])
    AC_COMPILE_IFELSE([AC_LANG_SOURCE([[#include "$srcdir/src/core/ieee.h"
int tw_translation_unit;]])], [AC_MSG_RESULT([yes])],
        [AC_MSG_RESULT([no])
         AC_MSG_ERROR([with these CFLAGS or this compiler values would be rounded otherwise than everywhere: ranks would no longer agree bit for bit. src/core/ieee.h says what is asked, config.log which of it failed.])])
])

AC_DEFUN([TW_WARNINGS], [
    AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [warnings are errors (CI)])], [], [enable_werror=no])
    TW_WARN_CFLAGS=
    m4_foreach_w([tw_flag], [-Wall -Wextra -Wpedantic -Wshadow=local -Wpointer-arith -Wstrict-prototypes
        -Wmissing-prototypes -Wmissing-declarations -Wold-style-definition -Wwrite-strings -Wundef -Wvla -Wformat=2
        -Wno-missing-field-initializers -Wno-psabi],
        [TW_TRY_CFLAG([TW_WARN_CFLAGS], tw_flag)])
    TW_WERROR_TEXT="shown"
    AS_IF([test "x$enable_werror" = xyes], [
        TW_WARN_CFLAGS="$TW_WARN_CFLAGS -Werror"
        TW_WERROR_TEXT="are errors"])
    AC_SUBST([TW_WARN_CFLAGS])
])

AC_DEFUN([TW_SANITIZERS], [
    AC_ARG_ENABLE([sanitizers],
        [AS_HELP_STRING([--enable-sanitizers=LIST], [build with -fsanitize=LIST: address,undefined or thread])],
        [], [enable_sanitizers=no])
    TW_SANITIZE=
    AS_CASE([$enable_sanitizers],
        [no], [],
        [yes], [TW_SANITIZE="address,undefined"],
        [TW_SANITIZE=$enable_sanitizers])
    # lines are enough for a report or a backtrace; tracking variables takes half of the compiler's time
    AS_IF([test "$TW_USER_CFLAGS" = unset], [CFLAGS="-O2 -g1"])
    AS_IF([test -n "$TW_SANITIZE"], [
        AS_IF([test "$TW_USER_CFLAGS" = unset], [CFLAGS="-O1 -g1"])
        TW_SAN_FLAGS="-fsanitize=$TW_SANITIZE -fno-sanitize-recover=all -fno-omit-frame-pointer"
        CFLAGS="$CFLAGS $TW_SAN_FLAGS"
        AC_MSG_CHECKING([whether -fsanitize=$TW_SANITIZE links])
        AC_LINK_IFELSE([AC_LANG_PROGRAM()], [AC_MSG_RESULT([yes])],
            [AC_MSG_RESULT([no]); AC_MSG_ERROR([the compiler cannot link with -fsanitize=$TW_SANITIZE])])
    ], [
        AC_MSG_CHECKING([whether the linker takes -z defs])
        tw_save_ldflags=$LDFLAGS
        LDFLAGS="$LDFLAGS -Wl,-z,defs"
        AC_LINK_IFELSE([AC_LANG_PROGRAM()], [TW_SHLIB_LDFLAGS="-Wl,-z,defs"; AC_MSG_RESULT([yes])],
            [TW_SHLIB_LDFLAGS=; AC_MSG_RESULT([no])])
        LDFLAGS=$tw_save_ldflags
    ])
    AM_CONDITIONAL([SANITIZED], [test -n "$TW_SANITIZE"])
    AC_SUBST([TW_SANITIZE])
    AC_SUBST([TW_SHLIB_LDFLAGS])
])

dnl The loops for AVX-512 where there is no AVX-512: tests/emulated/avx512.h gives them their intrinsics.
AC_DEFUN([TW_EMULATED_AVX512], [
    AC_ARG_ENABLE([emulated-avx512],
        [AS_HELP_STRING([--enable-emulated-avx512],
            [for tests only: the AVX-512 loops in instructions of AVX2, through SIMDe; slow])],
        [], [enable_emulated_avx512=no])
    TW_AVX512_TEXT="where the CPU has it"
    AS_IF([test "x$enable_emulated_avx512" != xno], [
        AS_CASE([$host_cpu], [x86_64], [], [AC_MSG_ERROR([--enable-emulated-avx512 is for x86-64])])
        AC_CHECK_HEADER([simde/x86/avx512.h], [],
            [AC_MSG_ERROR([--enable-emulated-avx512 needs SIMDe (Debian, Ubuntu: libsimde-dev)])])
        TW_CFLAGS="$TW_CFLAGS -DTW_EMULATE_AVX512"
        TW_AVX512_TEXT="emulated: this build is for tests only"
    ])
])
