dnl SPDX-License-Identifier: BSD-3-Clause
dnl Only mpi.c, the MPI tests and programs see MPI, so the wrapper is not made the compiler: its flags are asked for, and
dnl only the parts that say where MPI is (-I -D, -L -l -Wl) are taken. Includes go in as system folders: mpi.h does not
dnl keep to our warnings.
AC_DEFUN([TW_MPI], [
    AC_ARG_WITH([mpi],
        [AS_HELP_STRING([--with-mpi=WRAPPER|no|check], [build libthinwire-mpi with the flags of this compiler wrapper])],
        [], [with_mpi=check])
    AC_ARG_VAR([MPIRUN], [launcher of the MPI tests, default: the one beside the wrapper])
    MPICC=
    AS_CASE([$with_mpi],
        [no], [],
        [yes|check|""], [AC_PATH_PROGS([MPICC], [mpicc mpicc.openmpi mpicc.mpich])],
        [*/*], [MPICC=$with_mpi],
        [AC_PATH_PROG([MPICC], [$with_mpi])])
    TW_MPI_TEXT=no
    MPI_CFLAGS= MPI_LIBS= MPI_ISYSTEM=
    AS_IF([test -n "$MPICC"], [
        tw_mpi_compile=`$MPICC --showme:compile 2>/dev/null` && tw_mpi_link=`$MPICC --showme:link 2>/dev/null` || {
            tw_mpi_compile=`$MPICC -show 2>/dev/null`
            tw_mpi_link=$tw_mpi_compile
        }
        for tw_word in $tw_mpi_compile; do
            AS_CASE([$tw_word],
                [-I*], [MPI_CFLAGS="$MPI_CFLAGS $tw_word"
                        MPI_ISYSTEM="$MPI_ISYSTEM -isystem `AS_ECHO(["$tw_word"]) | $SED 's/^-I//'`"],
                [-D*], [MPI_CFLAGS="$MPI_CFLAGS $tw_word"; MPI_ISYSTEM="$MPI_ISYSTEM $tw_word"])
        done
        for tw_word in $tw_mpi_link; do
            AS_CASE([$tw_word],
                [-Wl,-z,relro], [],
                [-L*|-l*|-Wl,*|-pthread], [MPI_LIBS="$MPI_LIBS $tw_word"])
        done
        AC_MSG_CHECKING([whether a program with the flags of $MPICC links])
        tw_save_cppflags=$CPPFLAGS
        tw_save_libs=$LIBS
        CPPFLAGS="$CPPFLAGS $MPI_ISYSTEM"
        LIBS="$MPI_LIBS $LIBS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <mpi.h>
#if MPI_VERSION < 3
#error MPI 3 is needed
#endif]], [[MPI_Request r; int x = 0;
MPI_Init(0, 0);
return MPI_Iallreduce(MPI_IN_PLACE, &x, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD, &r);]])],
            [AC_MSG_RESULT([yes]); TW_MPI_TEXT=yes], [AC_MSG_RESULT([no])])
        tw_mpi_flavour=unknown
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <mpi.h>
#ifndef OPEN_MPI
#error
#endif]])], [tw_mpi_flavour=openmpi])
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <mpi.h>
#ifndef MPICH_VERSION
#error
#endif]])], [tw_mpi_flavour=mpich])
        CPPFLAGS=$tw_save_cppflags
        LIBS=$tw_save_libs
    ])
    AS_IF([test "$TW_MPI_TEXT" = yes], [
        AS_IF([test -z "$MPIRUN"], [
            tw_mpirun=`AS_ECHO(["$MPICC"]) | $SED 's,mpicc\(@<:@^/@:>@*\)$,mpirun\1,'`
            AS_IF([test "$tw_mpirun" != "$MPICC" && test -x "$tw_mpirun"], [MPIRUN=$tw_mpirun],
                [AC_PATH_PROGS([MPIRUN], [mpirun mpiexec])])
        ])
        TW_MPI_TEXT="yes ($tw_mpi_flavour, $MPICC, tests with ${MPIRUN:-no launcher found})"
    ], [
        AS_CASE([$with_mpi],
            [no], [],
            [check|""], [TW_MISSING="$TW_MISSING
    MPI         no libthinwire-mpi (Debian, Ubuntu: libopenmpi-dev openmpi-bin, or libmpich-dev mpich)"],
            [AC_MSG_ERROR([--with-mpi=$with_mpi: no usable MPI 3 compiler wrapper of that name])])
    ])
    AM_CONDITIONAL([HAVE_MPI], [test "$TW_MPI_TEXT" != no])
    AM_COND_IF([HAVE_MPI], [AC_DEFINE([HAVE_MPI], [1], [libthinwire-mpi is built])])
    AC_SUBST([MPICC])
    AC_SUBST([MPI_CFLAGS])
    AC_SUBST([MPI_ISYSTEM])
    AC_SUBST([MPI_LIBS])
    MPI_FLAVOUR=$tw_mpi_flavour
    AC_SUBST([MPI_FLAVOUR])
])
