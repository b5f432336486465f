/* SPDX-License-Identifier: Apache-2.0 */
/* Dividing cores among teams, on machines that are folders of files in the form of /sys/devices/system/node.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "base/cores.h"

enum { MOST_NODES = 4, MOST_PARTS = 64 };

typedef struct machine {
  const char *node[MOST_NODES]; /* its cpulist; NULL: no such node */
} machine;

static char folder[64];

static void build(const machine *m) {
  strcpy(folder, "/tmp/weir-cores-XXXXXX");
  assert_non_null(mkdtemp(folder));
  for (int i = 0; i < MOST_NODES; i++) {
    char path[128];
    if (!m->node[i]) continue;
    snprintf(path, sizeof path, "%s/node%d", folder, i);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/node%d/cpulist", folder, i);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "%s\n", m->node[i]);
    assert_int_equal(fclose(f), 0);
  }
}

static void pull_down(void) {
  for (int i = 0; i < MOST_NODES; i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/node%d/cpulist", folder, i);
    unlink(path);
    snprintf(path, sizeof path, "%s/node%d", folder, i);
    rmdir(path);
  }
  assert_int_equal(rmdir(folder), 0);
}

/* "0 1 2/4 5 6": the cores of each part; "-" where a part is not pinned. */
static void print(const weir_core_share *s, int32_t n, char *out, size_t bytes) {
  size_t at = 0;
  out[0] = '\0';
  for (int32_t p = 0; p < n; p++) {
    if (p > 0) at += (size_t)snprintf(out + at, bytes - at, "/");
    if (s[p].cores.n == 0) at += (size_t)snprintf(out + at, bytes - at, "-");
    for (int32_t i = 0; i < s[p].cores.n; i++)
      at += (size_t)snprintf(out + at, bytes - at, "%s%d", i ? " " : "", s[p].cores.core[i]);
  }
}

static weir_cores range(int32_t from, int32_t to) {
  weir_cores c = {.n = 0};
  for (int32_t i = from; i <= to; i++) c.core[c.n++] = i;
  return c;
}

static const struct {
  const char *what;
  machine m;
  int32_t first, last; /* of the process */
  int32_t may_use;     /* 0: all of these */
  int32_t parts, threads, want_threads;
  bool want_crowded;
  const char *want;
} cases[] = {
    {"one team has the machine", {{"0-7"}}, 0, 7, 0, 1, 0, 8, false, "0 1 2 3 4 5 6 7"},
    {"two halves", {{"0-7"}}, 0, 7, 0, 2, 0, 4, false, "0 1 2 3/4 5 6 7"},
    {"all get as many: one stays free", {{"0-6"}}, 0, 6, 0, 2, 0, 3, false, "0 1 2/3 4 5"},
    {"fewer threads than there could be", {{"0-7"}}, 0, 7, 0, 2, 2, 2, false, "0 1/2 3"},
    {"a node each", {{"0-3", "4-7"}}, 0, 7, 0, 2, 0, 4, false, "0 1 2 3/4 5 6 7"},
    {"a node each, not all of it", {{"0-3", "4-7"}}, 0, 7, 0, 2, 2, 2, false, "0 1/4 5"},
    {"siblings at the end of the numbers",
     {{"0-1,4-5", "2-3,6-7"}},
     0,
     7,
     0,
     2,
     0,
     4,
     false,
     "0 1 4 5/2 3 6 7"},
    {"two teams a node", {{"0-3", "4-7"}}, 0, 7, 0, 4, 0, 2, false, "0 1/2 3/4 5/6 7"},
    {"three teams on two nodes", {{"0-3", "4-7"}}, 0, 7, 0, 3, 2, 2, false, "0 1/2 3/4 5"},
    {"a team over two of four nodes",
     {{"0-1", "2-3", "4-5", "6-7"}},
     0,
     7,
     0,
     2,
     0,
     4,
     false,
     "0 1 2 3/4 5 6 7"},
    {"a team on the first of its two nodes",
     {{"0-1", "2-3", "4-5", "6-7"}},
     0,
     7,
     0,
     2,
     2,
     2,
     false,
     "0 1/4 5"},
    {"nodes of interleaved cores", {{"0,2,4,6", "1,3,5,7"}}, 0, 7, 0, 2, 0, 4, false, "0 2 4 6/1 3 5 7"},
    {"too few on one node: runs across", {{"0-1", "2-7"}}, 0, 7, 0, 2, 0, 4, false, "0 1 2 3/4 5 6 7"},
    {"a process bound to one node", {{"0-3", "4-7"}}, 4, 7, 0, 2, 0, 2, false, "4 5/6 7"},
    {"a process bound across nodes", {{"0-3", "4-7"}}, 2, 5, 0, 2, 0, 2, false, "2 3/4 5"},
    {"a node without cores", {{"0-3", "", "4-7"}}, 0, 7, 0, 2, 0, 4, false, "0 1 2 3/4 5 6 7"},
    {"a gap in the numbers of nodes", {{"0-3", NULL, NULL, "4-7"}}, 0, 7, 0, 2, 2, 2, false, "0 1/4 5"},
    {"no nodes to be read", {{NULL}}, 0, 3, 0, 2, 0, 2, false, "0 1/2 3"},
    {"a list that is none", {{"0-x"}}, 0, 3, 0, 2, 0, 2, false, "0 1/2 3"},
    {"a list that ends early", {{"0-3", "4-"}}, 0, 7, 0, 2, 0, 4, false, "0 1 2 3/4 5 6 7"},
    {"nodes that leave cores out", {{"0-3"}}, 0, 7, 0, 2, 0, 4, false, "0 1 2 3/4 5 6 7"},
    {"a quota below the cores", {{"0-7"}}, 0, 7, 4, 2, 0, 2, false, "0 1/2 3"},
    {"more threads than the quota", {{"0-7"}}, 0, 7, 4, 2, 3, 3, true, "0 1 2/3 4 5"},
    {"more teams than the quota", {{"0-7"}}, 0, 7, 2, 4, 0, 1, true, "0/1/2/3"},
    {"more teams than cores", {{"0-1"}}, 0, 1, 0, 4, 0, 1, true, "-/-/-/-"},
    {"more threads than cores", {{"0-3"}}, 0, 3, 0, 2, 3, 3, true, "-/-"},
};

static void test_divide(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_core_share *s = calloc(MOST_PARTS, sizeof *s);
    weir_err e = {0};
    char got[1024];
    assert_non_null(s);
    const weir_cores mine = range(cases[i].first, cases[i].last);
    build(&cases[i].m);
    const weir_status st = weir_cores_divide(&mine, cases[i].may_use ? cases[i].may_use : mine.n, folder,
                                             cases[i].parts, cases[i].threads, s, &e);
    pull_down();
    if (st != WEIR_OK) fail_msg("%s: %s", cases[i].what, e.msg);
    print(s, cases[i].parts, got, sizeof got);
    if (strcmp(got, cases[i].want) != 0) fail_msg("%s: cores %s, want %s", cases[i].what, got, cases[i].want);
    for (int32_t p = 0; p < cases[i].parts; p++)
      if (s[p].n_threads != cases[i].want_threads || s[p].crowded != cases[i].want_crowded)
        fail_msg("%s: part %d has %d threads, crowded %d; want %d, %d", cases[i].what, p, s[p].n_threads,
                 s[p].crowded, cases[i].want_threads, cases[i].want_crowded);
    free(s);
  }
}

/* A system that does not tell its cores. */
static void test_unknown(void **state) {
  (void)state;
  weir_core_share *s = calloc(2, sizeof *s);
  weir_err e = {0};
  const weir_cores none = {.n = 0};
  assert_non_null(s);
  assert_int_equal(weir_cores_divide(&none, 1, "/nowhere", 2, 0, s, &e), WEIR_OK);
  for (int p = 0; p < 2; p++) {
    assert_int_equal(s[p].n_threads, 1);
    assert_int_equal(s[p].cores.n, 0);
  }
  assert_int_equal(weir_cores_divide(&none, 1, NULL, 0, 1, s, &e), WEIR_EINVAL);
  assert_int_equal(weir_cores_divide(&none, 1, NULL, 1, -1, s, &e), WEIR_EINVAL);
  assert_int_equal(weir_cores_divide(&none, 1, NULL, 1, WEIR_CORES_MAX + 1, s, &e), WEIR_EINVAL);
  free(s);
}

/* No core twice, on machines and numbers drawn by chance: whatever the nodes. */
static void test_disjoint(void **state) {
  (void)state;
  static const machine all[] = {{{"0-15"}},
                                {{"0-7", "8-15"}},
                                {{"0-3,8-11", "4-7,12-15"}},
                                {{"0-1", "2-9", "10-15"}},
                                {{"0", "1-3", "4-12", "13-15"}}};
  weir_core_share *s = calloc(16, sizeof *s);
  assert_non_null(s);
  for (size_t m = 0; m < sizeof all / sizeof *all; m++) {
    build(&all[m]);
    for (int32_t parts = 1; parts <= 16; parts++)
      for (int32_t threads = 0; threads <= 17; threads++) {
        weir_err e = {0};
        bool taken[16] = {false};
        const weir_cores mine = range(0, 15);
        assert_int_equal(weir_cores_divide(&mine, 16, folder, parts, threads, s, &e), WEIR_OK);
        const bool fits = parts * (threads ? threads : 1) <= 16;
        for (int32_t p = 0; p < parts; p++) {
          assert_int_equal(s[p].cores.n, fits ? s[p].n_threads : 0);
          for (int32_t i = 0; i < s[p].cores.n; i++) {
            assert_in_range(s[p].cores.core[i], 0, 15);
            if (taken[s[p].cores.core[i]])
              fail_msg("machine %zu, %d parts of %d: core %d twice", m, parts, threads, s[p].cores.core[i]);
            taken[s[p].cores.core[i]] = true;
          }
        }
      }
    pull_down();
  }
  free(s);
}

static void test_mine(void **state) {
  (void)state;
  weir_cores c;
  weir_cores_mine(&c);
  assert_true(c.n > 0);
  for (int32_t i = 1; i < c.n; i++) assert_true(c.core[i] > c.core[i - 1]);
  assert_in_range(weir_cores_quota(c.n), 1, c.n);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_divide),
      cmocka_unit_test(test_unknown),
      cmocka_unit_test(test_disjoint),
      cmocka_unit_test(test_mine),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
