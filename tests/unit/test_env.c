/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The environment table. It is read once per process, so every case runs in a fresh one: this program starts itself
 * again with "--context". */
#include "core/core.h"
#include "unit.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

/* What becomes of a communicator of one rank and of a reducer with two layers. */
static void print_world(tw_ctx *c) {
    const tw_layer layers[] = {TW_LAYER("net.weight", 7), TW_LAYER("net.bias", 7)};
    tw_comm *comm = NULL;
    tw_reducer *red = NULL;
    tw_status s = tw_comm_create_local(c, 1, &comm);
    printf("comm %s [%s]\n", tw_status_name(s), s < 0 ? tw_last_error() : "");
    if (s < 0)
        return;
    s = tw_reducer_create(comm, layers, 2, NULL, NULL, &red);
    printf("reducer %s [%s]\n", tw_status_name(s), s < 0 ? tw_last_error() : "");
    tw_reducer_destroy(red);
    tw_comm_destroy(comm);
}

static int child_main(void) {
    tw_ctx *c = NULL;
    const char *line;
    dup2(STDOUT_FILENO, STDERR_FILENO);
    setvbuf(stdout, NULL, _IONBF, 0);
    tw_status s = tw_ctx_create(NULL, &c);
    printf("create %s [%s]\n", tw_status_name(s), tw_last_error());
    tw_ctx *d = NULL;
    printf("default %s\n", tw_status_name(tw_ctx_resolve(NULL, &d)));
    const tw_env *e = tw_env_get();
    printf("log %d timeout %g isa %s faults %u\n", e->log_level, e->timeout_s, e->isa ? e->isa : "-", e->faults.n);
    for (uint32_t i = 0; i < e->faults.n; i++)
        printf("kind %u rank %d frame %llu delay %g layer [%s]\n", (unsigned)e->faults.fault[i].kind,
               e->faults.fault[i].rank, (unsigned long long)e->faults.fault[i].frame, e->faults.fault[i].delay_s,
               e->faults.fault[i].layer);
    if (c) {
        printf("deadline %g\n", c->cfg.timeout_s);
        for (int level = TW_LOG_ERROR; level <= TW_LOG_DEBUG; level++)
            tw_log(c, level, "line %d", level);
    }
    for (unsigned i = 0; (line = tw_env_line(i)) != NULL; i++)
        printf("%s\nproblem %u [%s]\n", line, i, tw_env_problem(i));
    if (c)
        print_world(c);
    tw_ctx_destroy(c);
    return 0;
}

/* What a child prints under that environment; all four variables are unset first. */
static const char *child(const char *name, const char *value) {
    static char text[16384];
    char self[4096];
    int ends[2], status = -1;
    size_t n = 0;
    ssize_t got, length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0 || pipe(ends) != 0)
        return "";
    self[length] = '\0';
    pid_t pid = fork();
    if (pid == 0) {
        static const char *const names[] = {"THINWIRE_LOG", "THINWIRE_TIMEOUT", "THINWIRE_ISA", "THINWIRE_FAULT"};
        for (size_t i = 0; i < UNIT_COUNT(names); i++)
            unsetenv(names[i]);
        if (name)
            setenv(name, value, 1);
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        /* as this program was started, which may be under an emulator */
        execl("/bin/sh", "sh", "-c", "exec ${THINWIRE_TEST_WRAP-} \"$0\" --context", self, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    while (n < sizeof text - 1 &&
           ((got = read(ends[0], text + n, sizeof text - 1 - n)) > 0 || (got < 0 && errno == EINTR)))
        n += got > 0 ? (size_t)got : 0;
    text[n] = '\0';
    close(ends[0]);
    CU_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return text;
}

static void nothing_set_is_silent(void) {
    const char *out = child(NULL, NULL);
    unit_has(out,
             "create TW_OK []\ndefault TW_OK\nlog 0 timeout 0 isa - faults 0\ndeadline 120\nTHINWIRE_LOG\t(not set)\t");
    unit_has(out, "THINWIRE_TIMEOUT\t(not set)\t120\t");
    unit_has(out, "THINWIRE_ISA\t(not set)\tbest\t");
    unit_has(out, "THINWIRE_FAULT\t(not set)\tnone\t");
    CU_ASSERT_PTR_NULL(strstr(out, "thinwire:"));
    CU_ASSERT_PTR_NULL(tw_env_problem(4));
    unit_has(child("THINWIRE_TIMEOUT", ""), "create TW_OK []"); /* empty is not set */
}

static void good_values_are_taken(void) {
    static const char *const numbers[][2] = {
        {"30", "30"},     {"0.5", "0.5"},
        {".25", "0.25"},  {"1e3", "1000"},
        {"25E-1", "2.5"}, {"1e+9", "1e+09"},
        {"5.", "5"},      {"0000000000000000000000000000000000000000000000000000000000007", "7"}};
    const char *out = child("THINWIRE_LOG", "warn");
    unit_has(out, "log 2 ");
    unit_has(out, "thinwire: error: line 1\nthinwire: warn: line 2\nTHINWIRE_LOG\twarn\t");
    unit_has(child("THINWIRE_LOG", "debug"), "thinwire: info: line 3\nthinwire: debug: line 4\n");
    for (size_t i = 0; i < UNIT_COUNT(numbers); i++) {
        char wants[64];
        snprintf(wants, sizeof wants, "deadline %s\n", numbers[i][1]);
        unit_has(child("THINWIRE_TIMEOUT", numbers[i][0]), wants);
    }
    out = child("THINWIRE_FAULT", "drop:3, delay:2.5ms@7,nan:a layer:x@12,stop:0,mute:2");
    unit_has(out, "faults 5\nkind 0 rank -1 frame 3 delay 0 layer []\nkind 5 rank 7 frame 0 delay 0.0025 layer []\n");
    unit_has(out, "kind 6 rank 12 frame 0 delay 0 layer [a layer:x]\nkind 3 rank -1 frame 0 ");
    unit_has(out, "kind 4 rank -1 frame 2 ");
    unit_has(child("THINWIRE_FAULT", "delay:100us,delay:1s,delay:60s"), "faults 3\n");
    unit_has(child("THINWIRE_FAULT", "nan:a@0,nan:b@1"), "faults 2\n");
    unit_has(child("THINWIRE_FAULT", "drop:18446744073709551615"), "frame 18446744073709551615 ");
}

static void bad_values_are_named_and_change_nothing(void) {
    static const char *const bad_seconds[] = {"0",  "-1",   "abc", "1s",   "nan", "inf", "1e400", "1e10",  " 5",
                                              "5 ", "1..2", "1,5", "0x10", "1e",  ".",   "e5",    "1e5e5", "1e-400"};
    const char *out = child("THINWIRE_LOG", "wran");
    unit_has(out, "create TW_ERR_ARG [THINWIRE_LOG=wran: unknown word; did you mean 'warn'?]");
    unit_has(out, "default TW_ERR_ARG\nlog 0 timeout 0 isa - faults 0\n");
    out = child("THINWIRE_ISA", "avx513");
    unit_has(out, "create TW_ERR_ARG [THINWIRE_ISA=avx513: unknown word; did you mean 'avx512'?]");
    unit_has(out, "problem 1 []\n");
    unit_has(out, "problem 2 [THINWIRE_ISA=avx513: unknown word; did you mean 'avx512'?]\n");
    for (size_t i = 0; i < UNIT_COUNT(bad_seconds); i++) {
        out = child("THINWIRE_TIMEOUT", bad_seconds[i]);
        unit_has(out, "create TW_ERR_ARG [THINWIRE_TIMEOUT=");
        unit_has(out, "wants seconds");
        unit_has(out, " timeout 0 ");
    }
    unit_has(child("THINWIRE_FAULT", "a\tb\nc"), "THINWIRE_FAULT\ta?b?c\tnone\t"); /* a line stays a line */
}

/* Each name either works or fails by name: nothing falls back. On any machine "neon" or "avx2" is missing. */
static void forced_isa_is_forced(void) {
    static const char *const names[] = {"ref", "avx2", "avx512", "neon"};
    unsigned missing = 0;
    for (size_t i = 0; i < UNIT_COUNT(names); i++) {
        bool here = false;
        char wants[96];
        for (const char *const *isa = tw_isa_list(); *isa; isa++)
            here = here || !strcmp(*isa, names[i]);
        const char *out = child("THINWIRE_ISA", names[i]);
        missing += !here;
        if (here) {
            snprintf(wants, sizeof wants, "isa %s ", names[i]);
            unit_has(out, "create TW_OK []\ndefault TW_OK\n");
        } else {
            snprintf(wants, sizeof wants,
                     "create TW_ERR_UNSUPPORTED [THINWIRE_ISA=%s: this build or this CPU lacks it; there are: ref",
                     names[i]);
            unit_has(out, "default TW_ERR_UNSUPPORTED\n");
        }
        unit_has(out, wants);
    }
    CU_ASSERT(missing > 0);
}

static void bad_faults_are_named(void) {
    static const char *const bad[][2] = {
        {"drop:-3", "'drop:-3': a frame is a number from 1"},
        {"drop:0", "from 1"},
        {"drop:", "from 1"},
        {"drop:3x", "from 1"},
        {"drop:+3", "from 1"},
        {"drop:18446744073709551616", "from 1"},
        {"truncate:1.5", "from 1"},
        {"stop:-1", "a number of frames"},
        {"mute:0", "a hop is 1 or 2"},
        {"mute:3", "a hop is 1 or 2"},
        {"delay:5", "a delay is"},
        {"delay:-5ms", "a delay is"},
        {"delay:nanms", "a delay is"},
        {"delay:5m", "a delay is"},
        {"delay:61s", "a delay is"},
        {"delay:ms", "a delay is"},
        {"nan:", "a layer's name of 1 to 127 bytes"},
        {"nan:a,nan:b", "'nan:b': a rank can have one nan fault, and 'nan:a' is there already"},
        {"nan:a@1,nan:b", "'nan:b': a rank can have one"},
        {"drop:1@", "'drop:1@': @ wants a rank"},
        {"drop:1@-1", "@ wants a rank"},
        {"drop:1@one", "@ wants a rank"},
        {"drop:1@2147483648", "@ wants a rank"},
        {"drop", "a fault is KIND:VALUE"},
        {"drop@1:2", "@ wants a rank"},
        {"dorp:1", "unknown fault; did you mean 'drop'?"},
        {"drop:1,,drop:2", "a fault is missing here"},
        {"drop:1,", "a fault is missing here"},
        {"1,1", "a fault is KIND:VALUE"},
        {"drop:1,drop:2,drop:3,drop:4,drop:5,drop:6,drop:7,drop:8,drop:9,drop:1,drop:2,drop:3,drop:4,drop:5,drop:6,"
         "drop:7,drop:8",
         "more than 16 faults"}};
    char far[3000];
    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        const char *out = child("THINWIRE_FAULT", bad[i][0]);
        unit_has(out, "create TW_ERR_ARG [THINWIRE_FAULT=");
        unit_has(out, bad[i][1]);
        unit_has(out, " faults 0\n");
    }
    memset(far, 'x', sizeof far);
    far[sizeof far - 1] = '\0';
    unit_has(child("THINWIRE_FAULT", far), "that fault is too long");
}

static void faults_that_cannot_happen_are_named(void) {
    const char *out = child("THINWIRE_FAULT", "drop:1@1");
    unit_has(out, "create TW_OK");
    unit_has(out, "comm TW_ERR_ARG [THINWIRE_FAULT: 'drop:1@1': the last of 1 ranks is 0]");
    out = child("THINWIRE_FAULT", "nan:net.bais@0");
    unit_has(out, "comm TW_OK");
    unit_has(out, "reducer TW_ERR_ARG [THINWIRE_FAULT: rank 0 has no layer 'net.bais'; did you mean 'net.bias'?]");
    unit_has(child("THINWIRE_FAULT", "nan:net.bias"), "reducer TW_OK");
}

int main(int argc, char **argv) {
    static const unit_test tests[] = {
        UNIT_TEST(nothing_set_is_silent),
        UNIT_TEST(good_values_are_taken),
        UNIT_TEST(bad_values_are_named_and_change_nothing),
        UNIT_TEST(forced_isa_is_forced),
        UNIT_TEST(bad_faults_are_named),
        UNIT_TEST(faults_that_cannot_happen_are_named),
    };
    if (argc == 2 && strcmp(argv[1], "--context") == 0)
        return child_main();
    return unit_main("env", tests, UNIT_COUNT(tests));
}
