/* SPDX-License-Identifier: Apache-2.0 */
/* Gate files: what is written comes back to the bit; every spoiled member is refused by name; cut and bent
 * bytes never do more than fail. */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "programs/gate_file.h"

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static weir_gate_file sample(weir_gate_kind kind) {
  weir_gate_file f = {.kind = kind,
                      .small = {"tiny \"q\"\\ \xc3\xa9", 512, 3, 0xfedcba9876543210u},
                      .large = "large",
                      .threshold = 0.12345679f,
                      .fitted = {1000, 0.0625, 0.975, 0.03, 0.001},
                      .held_out = {500, 0.07, 0.96, 0.031, 0.002}};
  if (kind == WEIR_GATE_ISOTONIC) {
    f.map = (weir_gate_map){WEIR_STAT_MARGIN, 3, {1e-30f, 0.33333334f, 0.99999994f}, {1, 0.1f, 1e-9f}};
  } else {
    f.head = (weir_gate_head){.dim = 3, .bias = -1.7320508f, .stat_weight = {0.1f, 0, -3e-7f}};
    f.head.weight = malloc(3 * sizeof(float));
    assert_non_null(f.head.weight);
    memcpy(f.head.weight, (const float[]){3.4e38f, -1e-38f, 0.1f}, 3 * sizeof(float));
  }
  return f;
}

static void expect_same(const weir_gate_file *a, const weir_gate_file *b) {
  assert_true(a->kind == b->kind && a->small.n_vocab == b->small.n_vocab && a->small.dim == b->small.dim);
  assert_true(a->small.fingerprint == b->small.fingerprint);
  assert_string_equal(a->small.name, b->small.name);
  assert_string_equal(a->large, b->large);
  assert_string_equal(a->data, b->data);
  assert_true(a->threshold == b->threshold || (isnan(a->threshold) && isnan(b->threshold)));
  assert_memory_equal(&a->fitted, &b->fitted, sizeof a->fitted);
  assert_memory_equal(&a->held_out, &b->held_out, sizeof a->held_out);
  assert_memory_equal(&a->map, &b->map, sizeof a->map);
  assert_true(a->head.dim == b->head.dim && a->head.bias == b->head.bias);
  assert_memory_equal(a->head.stat_weight, b->head.stat_weight, sizeof a->head.stat_weight);
  if (a->head.dim > 0)
    assert_memory_equal(a->head.weight, b->head.weight, (size_t)a->head.dim * sizeof *a->head.weight);
}

static weir_buf printed(const weir_gate_file *f) {
  weir_buf b = {0};
  weir_err e;
  must(weir_gate_file_print(f, &b, &e), &e);
  return b;
}

static void test_there_and_back(void **state) {
  (void)state;
  char path[] = "/tmp/weir-gate-XXXXXX";
  const int fd = mkstemp(path);
  weir_err e;
  assert_true(fd >= 0);
  close(fd);
  for (int k = 0; k < 4; k++) {
    weir_gate_file f = sample(k % 2 ? WEIR_GATE_HEAD : WEIR_GATE_ISOTONIC), got, read;
    if (k > 1) { /* what may be left out */
      f.threshold = NAN;
      f.large[0] = '\0';
      f.fitted = f.held_out = (weir_gate_quality){0};
      memset(f.head.stat_weight, 0, sizeof f.head.stat_weight);
      snprintf(f.data, sizeof f.data, "tasks, 451");
    }
    weir_buf b = printed(&f);
    must(weir_gate_file_parse((weir_str){b.data, b.len}, &got, &e), &e);
    expect_same(&got, &f);
    must(weir_gate_file_write(path, &f, &e), &e);
    must(weir_gate_file_read(path, &read, &e), &e);
    expect_same(&read, &f);
    weir_buf_fini(&b);
    weir_gate_file_fini(&f);
    weir_gate_file_fini(&got);
    weir_gate_file_fini(&read);
  }
  unlink(path);
  weir_gate_file f;
  assert_int_equal(weir_gate_file_read(path, &f, &e), WEIR_EIO);
  assert_non_null(strstr(e.msg, path));
  f = sample(WEIR_GATE_HEAD);
  assert_int_equal(weir_gate_file_write("/nowhere/at/all.json", &f, &e), WEIR_EIO);
  f.head.weight[1] = NAN;
  weir_buf b = {0};
  assert_int_equal(weir_gate_file_print(&f, &b, &e), WEIR_EINVAL);
  weir_buf_fini(&b);
  weir_gate_file_fini(&f);
}

/* One member for another, as text. */
static void test_spoiled_members(void **state) {
  (void)state;
  static const struct {
    weir_gate_kind kind;
    const char *old, *with, *says;
  } table[] = {
      {WEIR_GATE_HEAD, "weir.gate.v1", "weir.gate.v2", "schema"},
      {WEIR_GATE_HEAD, "\"gate\": \"head\"", "\"gate\": \"entropy\"", "isotonic or head"},
      {WEIR_GATE_HEAD, "\"gate\": \"head\"", "\"gate\": \"isotonic\"", "statistic"},
      {WEIR_GATE_HEAD, "\"bias\": -1.73205078", "\"bias\": \"a\"", "bias"},
      {WEIR_GATE_HEAD, "\"bias\": -1.73205078", "\"bias\": 1e39", "bias"},
      {WEIR_GATE_HEAD, "\"bias\": -1.73205078,", "", "bias"},
      {WEIR_GATE_HEAD, "\"weights\": [", "\"weights\": [null, ", "weights"},
      {WEIR_GATE_HEAD, "\"weights\": [", "\"weights\": [1, ", "dimension 3"},
      {WEIR_GATE_HEAD, "\"weights\": [", "\"weight\": [", "weights"},
      {WEIR_GATE_HEAD, "{\"entropy\": 0.100000001", "{\"entropy\": true", "entropy"},
      {WEIR_GATE_HEAD, "{\"entropy\": 0.1", "{\"perplexity\": 0.1", "statistics"},
      {WEIR_GATE_HEAD, "\"dim\": 3", "\"dim\": 4", "dimension 4"},
      {WEIR_GATE_HEAD, "\"dim\": 3", "\"dim\": 0", "dim"},
      {WEIR_GATE_HEAD, "\"dim\": 3", "\"dim\": 3.0", "dim"},
      {WEIR_GATE_HEAD, "\"vocabulary\": 512", "\"vocabulary\": 99999999999", "vocabulary"},
      {WEIR_GATE_HEAD, "fedcba98", "FEDCBA98", "fingerprint"},
      {WEIR_GATE_HEAD, "fedcba98", "fedcba9", "fingerprint"},
      {WEIR_GATE_HEAD, "fedcba98", "fedcba980", "fingerprint"},
      {WEIR_GATE_HEAD, "\"rows\": 1000", "\"rows\": 0", "rows"},
      {WEIR_GATE_HEAD, "\"auc\": 0.975", "\"auc\": 1.5", "auc"},
      {WEIR_GATE_HEAD, "\"auc\": 0.975, ", "", "auc"},
      {WEIR_GATE_HEAD, "\"threshold\": ", "\"threshold\": 7, \"x\": ", "threshold"},
      {WEIR_GATE_HEAD, "\"large\": ", "\"larger\": ", "not known"},
      {WEIR_GATE_HEAD, "{\"name\"", "{\"nick\": 1, \"name\"", "small"},
      {WEIR_GATE_HEAD, "\"large\": \"large\"", "\"large\": 3", "large"},
      {WEIR_GATE_HEAD, "\"small\"", "\"large\"", ""}, /* twice */
      {WEIR_GATE_ISOTONIC, "\"margin\"", "\"chance\"", "statistic"},
      {WEIR_GATE_ISOTONIC, "\"margin\"", "\"entropy\"", "falls"},
      {WEIR_GATE_ISOTONIC, "\"knots\": [", "\"knots\": [[1]", ""},
      {WEIR_GATE_ISOTONIC, "\"knots\": [", "\"knots\": [[0, 1, 2], ", "knots"},
      {WEIR_GATE_ISOTONIC, "\"knots\": [", "\"knots\": [5, ", "knots"},
      {WEIR_GATE_ISOTONIC, "\"knots\": [", "\"knots\": [[2, 1], ", "ascend"},
      {WEIR_GATE_ISOTONIC, "\"knots\": [", "\"bias\": 1, \"knots\": [", "not of this gate"},
      {WEIR_GATE_ISOTONIC, ", 1]", ", 1.5]", "probability"},
      {WEIR_GATE_ISOTONIC, ", 1]", ", \"1\"]", "knots"},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    weir_gate_file f = sample(table[i].kind), got;
    weir_buf b = printed(&f), bent = {0};
    weir_err e = {0};
    must(weir_buf_put(&b, "", 1, &e), &e);
    const char *at = strstr(b.data, table[i].old);
    if (!at) fail_msg("case %zu: %s is not in %s", i, table[i].old, b.data);
    must(weir_buf_printf(&bent, &e, "%.*s%s%s", (int)(at - b.data), b.data, table[i].with,
                         at + strlen(table[i].old)),
         &e);
    if (weir_gate_file_parse((weir_str){bent.data, bent.len}, &got, &e) != WEIR_EFORMAT)
      fail_msg("case %zu (%s) is not refused", i, table[i].with);
    if (!strstr(e.msg, table[i].says)) fail_msg("case %zu (%s): %s", i, table[i].with, e.msg);
    assert_null(got.head.weight);
    weir_buf_fini(&b);
    weir_buf_fini(&bent);
    weir_gate_file_fini(&f);
  }
}

static void test_sizes(void **state) {
  (void)state;
  weir_err e;
  weir_gate_file got;
  weir_buf b = {0};
  must(weir_buf_puts(
           &b,
           "{\"schema\": \"weir.gate.v1\", \"gate\": \"isotonic\", \"statistic\": \"entropy\", \"knots\": [",
           &e),
       &e);
  for (int i = 0; i <= WEIR_GATE_MAP_KNOTS; i++)
    must(weir_buf_printf(&b, &e, "%s[%d, 0]", i ? ", " : "", i), &e);
  must(weir_buf_puts(&b, "]}", &e), &e);
  assert_int_equal(weir_gate_file_parse((weir_str){b.data, b.len}, &got, &e), WEIR_EFORMAT);
  assert_non_null(strstr(e.msg, "knots"));
  weir_buf_truncate(&b, 0);
  must(weir_buf_puts(&b, "{\"schema\": \"weir.gate.v1\", \"gate\": \"head\", \"bias\": 0, \"weights\": [0",
                     &e),
       &e);
  for (int i = 0; i < WEIR_GATE_MAX_DIM; i++) must(weir_buf_puts(&b, ",0", &e), &e);
  must(weir_buf_puts(&b, "]}", &e), &e);
  assert_int_equal(weir_gate_file_parse((weir_str){b.data, b.len}, &got, &e), WEIR_EFORMAT);
  assert_non_null(strstr(e.msg, "weights"));
  assert_int_equal(weir_gate_file_parse((weir_str){b.data, (size_t)WEIR_GATE_FILE_MAX + 1}, &got, &e),
                   WEIR_EFORMAT);
  weir_buf_fini(&b);
}

/* Every cut, and bytes turned at random: an answer or a reason, and nothing left over (the sanitizers look).
 */
static void test_bent_bytes(void **state) {
  (void)state;
  uint64_t seed = 9;
  for (int k = 0; k < 2; k++) {
    weir_gate_file f = sample(k ? WEIR_GATE_HEAD : WEIR_GATE_ISOTONIC), got;
    weir_buf b = printed(&f);
    weir_err e;
    while (b.len > 0 && b.data[b.len - 1] == '\n') b.len--;
    for (size_t n = 0; n < b.len; n++)
      if (weir_gate_file_parse((weir_str){b.data, n}, &got, &e) == WEIR_OK)
        fail_msg("%zu bytes of %zu pass", n, b.len);
    int passed = 0;
    for (int round = 0; round < 4000; round++) {
      char *copy = malloc(b.len);
      assert_non_null(copy);
      memcpy(copy, b.data, b.len);
      for (int i = 0; i <= round % 3; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        copy[(seed >> 33) % b.len] = "0123456789.-e\"[]{},: \\n\xff"[(seed >> 20) % 25];
      }
      if (weir_gate_file_parse((weir_str){copy, b.len}, &got, &e) == WEIR_OK) {
        passed++;
        assert_null(got.kind == WEIR_GATE_HEAD ? weir_gate_head_error(&got.head)
                                               : weir_gate_map_error(&got.map));
      } else {
        assert_true(e.msg[0] != '\0');
      }
      weir_gate_file_fini(&got);
      free(copy);
    }
    assert_true(passed > 0 && passed < 4000);
    weir_buf_fini(&b);
    weir_gate_file_fini(&f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_there_and_back),
      cmocka_unit_test(test_spoiled_members),
      cmocka_unit_test(test_sizes),
      cmocka_unit_test(test_bent_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
