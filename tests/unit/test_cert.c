/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The certificate's ledger where runs are cut in another way than before. */
#include "exec/exec.h"
#include "unit.h"
#include <math.h>

static tw_cert ledger[8];

static void expect(uint64_t first, uint32_t n, double acc, double bound) {
    double a = -1, b = -1;
    tw_cert_read(ledger, first, n, &a, &b);
    CU_ASSERT(fabs(a - acc) < 1e-12 && fabs(b - bound) < 1e-12);
    if (fabs(b - bound) >= 1e-12)
        printf("tiles %u from %u: bound %g, not %g\n", n, (unsigned)first, b, bound);
}

/* Tiles 0..2, 3..4, 5..7. */
static void fill(void) {
    tw_cert_write(ledger, 0, 3, 3.0f, 6.0f);
    tw_cert_write(ledger, 3, 2, 4.0f, 8.0f);
    tw_cert_write(ledger, 5, 3, 12.0f, 24.0f);
}

static void a_part_inherits_the_whole(void) {
    fill();
    expect(0, 3, 3, 6);
    expect(1, 1, 3, 6);
    expect(4, 1, 4, 8);
    expect(6, 2, 12, 24);
}

static void runs_that_are_joined_add_as_squares(void) {
    fill();
    expect(0, 5, 5, 10);
    expect(2, 3, 5, 10); /* begins inside a run */
    expect(0, 8, 13, 26);
    expect(4, 4, sqrt(160), sqrt(640));
}

static void what_is_written_is_one_run(void) {
    fill();
    tw_cert_write(ledger, 1, 5, 1.0f, 2.0f);
    expect(2, 2, 1, 2);
    expect(0, 6, sqrt(10), sqrt(40));
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(a_part_inherits_the_whole),
                                      UNIT_TEST(runs_that_are_joined_add_as_squares),
                                      UNIT_TEST(what_is_written_is_one_run)};
    return unit_main("cert", tests, UNIT_COUNT(tests));
}
