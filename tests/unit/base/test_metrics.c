/* SPDX-License-Identifier: Apache-2.0 */
/* The registry of metrics: what may be made, what each type makes of a value, order and bounds, and threads
 * that move series while others are made and visited. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "base/metrics.h"

static weir_metrics *make(void) {
  weir_metrics *r = NULL;
  weir_err e;
  if (weir_metrics_create(&r, &e) != WEIR_OK) fail_msg("create: %s", e.msg);
  return r;
}

static weir_metric *plain(weir_metrics *r, weir_metric_type type, const char *name, const char *tier) {
  weir_metric *m = NULL;
  weir_err e;
  const weir_metric_label label = {"tier", tier};
  if (weir_metrics_add(r, type, name, "Help.", &label, tier ? 1 : 0, NULL, 0, &m, &e) != WEIR_OK)
    fail_msg("add %s: %s", name, e.msg);
  return m;
}

/* ---- a copy of everything a visit shows ---- */

enum { SEEN_MAX = 64 };
typedef struct seen {
  char name[64], labels[128];
  weir_metric_type type;
  double value, sum, le[WEIR_METRIC_MAX_BUCKETS];
  uint64_t count[WEIR_METRIC_MAX_BUCKETS];
  int32_t n_le;
} seen;
typedef struct all {
  seen one[SEEN_MAX];
  int32_t n;
} all;

static void keep(void *ctx, const weir_metric_view *v) {
  all *a = ctx;
  assert_true(a->n < SEEN_MAX);
  seen *s = &a->one[a->n++];
  *s = (seen){.type = v->type, .value = v->value, .sum = v->sum, .n_le = v->n_le};
  snprintf(s->name, sizeof s->name, "%s", v->name);
  for (int32_t i = 0; i < v->n_labels; i++) {
    const size_t at = strlen(s->labels);
    snprintf(s->labels + at, sizeof s->labels - at, "%s=%s;", v->label[i].name, v->label[i].value);
  }
  for (int32_t i = 0; i < v->n_le; i++) {
    s->le[i] = v->le[i];
    s->count[i] = v->count[i];
  }
}

static all visit(weir_metrics *r) {
  all a = {.n = 0};
  weir_metrics_visit(r, keep, &a);
  return a;
}

/* ---- what may be made ---- */

static void test_refused(void **state) {
  (void)state;
  static const double good[] = {1, 2}, falling[] = {2, 1}, twice[] = {1, 1}, inf[] = {1, INFINITY},
                      nan_le[] = {NAN};
  double many[WEIR_METRIC_MAX_BUCKETS];
  char longest[WEIR_METRIC_MAX_TEXT + 2];
  for (int i = 0; i < WEIR_METRIC_MAX_BUCKETS; i++) many[i] = i;
  memset(longest, 'a', sizeof longest - 1);
  longest[sizeof longest - 1] = '\0';
  const weir_metric_type c = WEIR_METRIC_COUNTER, g = WEIR_METRIC_GAUGE, h = WEIR_METRIC_HISTOGRAM;
  const weir_metric_label tier[] = {{"tier", "small"}}, other[] = {{"mode", "small"}},
                          two[] = {{"a", "1"}, {"a", "2"}}, digit[] = {{"1a", ""}}, colon[] = {{"a:b", ""}},
                          own[] = {{"__a", ""}}, le_label[] = {{"le", "1"}}, null[] = {{"a", NULL}},
                          five[] = {{"a", ""}, {"b", ""}, {"c", ""}, {"d", ""}, {"e", ""}};
  const struct {
    const char *what;
    weir_metric_type type;
    const char *name, *help;
    const weir_metric_label *label;
    int32_t n_labels;
    const double *le;
    int32_t n_le;
    bool fine;
  } row[] = {
      {"counter", c, "weir:a_total", "A.", tier, 1, NULL, 0, true},
      {"the same again", c, "weir:a_total", "A.", tier, 1, NULL, 0, false},
      {"another type", g, "weir:a_total", "A.", tier, 1, NULL, 0, false},
      {"another help", c, "weir:a_total", "B.", tier, 1, NULL, 0, false},
      {"fewer labels", c, "weir:a_total", "A.", NULL, 0, NULL, 0, false},
      {"other label", c, "weir:a_total", "A.", other, 1, NULL, 0, false},
      {"no name", c, "", "A.", NULL, 0, NULL, 0, false},
      {"NULL name", c, NULL, "A.", NULL, 0, NULL, 0, false},
      {"NULL help", c, "weir:b", NULL, NULL, 0, NULL, 0, false},
      {"digit first", c, "1a", "A.", NULL, 0, NULL, 0, false},
      {"dash", c, "weir:a-b", "A.", NULL, 0, NULL, 0, false},
      {"blank", c, "weir:a b", "A.", NULL, 0, NULL, 0, false},
      {"line break", c, "weir:a\n", "A.", NULL, 0, NULL, 0, false},
      {"too long", c, longest, "A.", NULL, 0, NULL, 0, false},
      {"label twice", c, "weir:b", "A.", two, 2, NULL, 0, false},
      {"label with digit first", c, "weir:b", "A.", digit, 1, NULL, 0, false},
      {"label with colon", c, "weir:b", "A.", colon, 1, NULL, 0, false},
      {"label of Prometheus itself", c, "weir:b", "A.", own, 1, NULL, 0, false},
      {"label without value", c, "weir:b", "A.", null, 1, NULL, 0, false},
      {"five labels", c, "weir:b", "A.", five, 5, NULL, 0, false},
      {"negative labels", c, "weir:b", "A.", five, -1, NULL, 0, false},
      {"four labels", c, "weir:four", "A.", five, 4, NULL, 0, true},
      {"unknown type", (weir_metric_type)7, "weir:b", "A.", NULL, 0, NULL, 0, false},
      {"buckets of a gauge", g, "weir:b", "A.", NULL, 0, good, 2, false},
      {"histogram", h, "weir:h", "A.", NULL, 0, good, 2, true},
      {"other buckets", h, "weir:h", "A.", tier, 1, good, 1, false},
      {"no buckets", h, "weir:i", "A.", NULL, 0, NULL, 0, false},
      {"falling buckets", h, "weir:i", "A.", NULL, 0, falling, 2, false},
      {"equal buckets", h, "weir:i", "A.", NULL, 0, twice, 2, false},
      {"infinite bucket", h, "weir:i", "A.", NULL, 0, inf, 2, false},
      {"NaN bucket", h, "weir:i", "A.", NULL, 0, nan_le, 1, false},
      {"too many buckets", h, "weir:i", "A.", NULL, 0, many, WEIR_METRIC_MAX_BUCKETS, false},
      {"as many as there may be", h, "weir:i", "A.", NULL, 0, many, WEIR_METRIC_MAX_BUCKETS - 1, true},
      {"le as a label", h, "weir:j", "A.", le_label, 1, good, 2, false},
  };
  weir_metrics *r = make();
  int32_t n = 0;
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    weir_metric *m = (weir_metric *)row;
    weir_err e = {0};
    const weir_status st = weir_metrics_add(r, row[i].type, row[i].name, row[i].help, row[i].label,
                                            row[i].n_labels, row[i].le, row[i].n_le, &m, &e);
    if (st != (row[i].fine ? WEIR_OK : WEIR_EINVAL)) fail_msg("%s: status %d: %s", row[i].what, st, e.msg);
    if (row[i].fine != (m != NULL)) fail_msg("%s: series %p", row[i].what, (void *)m);
    n += row[i].fine;
    const all a = visit(r);
    if (a.n != n) fail_msg("%s: %d series, want %d", row[i].what, a.n, n);
  }
  weir_metrics_destroy(r);
  weir_metrics_destroy(NULL);
}

static void test_bounded(void **state) {
  (void)state;
  weir_metrics *r = make();
  weir_metric *m;
  weir_err e;
  char value[16];
  for (int i = 0; i <= WEIR_METRIC_MAX_SERIES; i++) {
    snprintf(value, sizeof value, "%d", i);
    char name[32];
    snprintf(name, sizeof name, "weir:n%d", i % 512); /* a few in each family */
    const weir_status st = weir_metrics_add(r, WEIR_METRIC_COUNTER, name, "N.",
                                            &(weir_metric_label){"i", value}, 1, NULL, 0, &m, &e);
    assert_int_equal(st, i < WEIR_METRIC_MAX_SERIES ? WEIR_OK : WEIR_EINVAL);
  }
  weir_metrics_destroy(r);
}

/* Families stand together in order of their making, whatever came between. */
static void test_order(void **state) {
  (void)state;
  weir_metrics *r = make();
  char name[16] = "weir:b", tier[16] = "small";
  plain(r, WEIR_METRIC_COUNTER, name, tier);
  memset(name, 'x', 5); /* the registry keeps its own */
  memset(tier, 'x', 5);
  plain(r, WEIR_METRIC_GAUGE, "weir:a", NULL);
  plain(r, WEIR_METRIC_COUNTER, "weir:b", "large");
  const all a = visit(r);
  static const char *const want[][2] = {{"weir:b", "tier=small;"}, {"weir:b", "tier=large;"}, {"weir:a", ""}};
  assert_int_equal(a.n, 3);
  for (int i = 0; i < 3; i++) {
    assert_string_equal(a.one[i].name, want[i][0]);
    assert_string_equal(a.one[i].labels, want[i][1]);
  }
  weir_metrics_destroy(r);
}

/* ---- values ---- */

static void test_values(void **state) {
  (void)state;
  weir_metrics *r = make();
  weir_metric *c = plain(r, WEIR_METRIC_COUNTER, "weir:c", NULL),
              *g = plain(r, WEIR_METRIC_GAUGE, "weir:g", NULL);
  static const struct {
    char on, how; /* c counter, g gauge; + inc, = set, o observe */
    double by, want;
  } row[] = {
      {'c', '+', 1, 1},     {'c', '+', 0.5, 1.5},   {'c', '+', -1, 1.5}, {'c', '+', NAN, 1.5},
      {'c', '=', 7, 7},     {'c', '=', 3, 7},       {'c', '=', NAN, 7},  {'c', 'o', 9, 7},
      {'g', '+', 2, 2},     {'g', '+', -5, -3},     {'g', '=', 11, 11},  {'g', '=', -0.25, -0.25},
      {'g', 'o', 3, -0.25}, {'g', '+', NAN, -0.25},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    weir_metric *m = row[i].on == 'c' ? c : g;
    if (row[i].how == '+') weir_metric_inc(m, row[i].by);
    if (row[i].how == '=') weir_metric_set(m, row[i].by);
    if (row[i].how == 'o') weir_metric_observe(m, row[i].by);
    const double got = visit(r).one[row[i].on == 'g'].value;
    if (got != row[i].want) fail_msg("step %zu: %g, want %g", i, got, row[i].want);
  }
  weir_metric_set(g, INFINITY);
  assert_true(isinf(visit(r).one[1].value));
  weir_metrics_destroy(r);
}

static void test_histogram(void **state) {
  (void)state;
  static const double le[] = {0.1, 1, 10};
  static const double value[] = {0, 0.1, 0.100001, 1, 5, 10, 11, INFINITY, -3, NAN};
  static const uint64_t want[] = {3, 5, 7, 9}; /* -3, 0, 0.1 | 0.100001, 1 | 5, 10 | 11, inf */
  weir_metrics *r = make();
  weir_metric *m;
  weir_err e;
  assert_int_equal(weir_metrics_add(r, WEIR_METRIC_HISTOGRAM, "weir:h_seconds", "H.", NULL, 0, le, 3, &m, &e),
                   WEIR_OK);
  for (size_t i = 0; i < sizeof value / sizeof *value; i++) weir_metric_observe(m, value[i]);
  weir_metric_inc(m, 100); /* not how a histogram moves */
  weir_metric_set(m, 100);
  all a = visit(r);
  assert_int_equal(a.one[0].n_le, 4);
  assert_true(isinf(a.one[0].le[3]));
  for (int i = 0; i < 3; i++) assert_true(a.one[0].le[i] == le[i]);
  for (int i = 0; i < 4; i++)
    if (a.one[0].count[i] != want[i])
      fail_msg("bucket %d: %llu, want %llu", i, (unsigned long long)a.one[0].count[i],
               (unsigned long long)want[i]);
  assert_true(isinf(a.one[0].sum));
  weir_metrics_destroy(r);

  r = make();
  assert_int_equal(weir_metrics_add(r, WEIR_METRIC_HISTOGRAM, "weir:h_seconds", "H.", NULL, 0, le, 3, &m, &e),
                   WEIR_OK);
  weir_metric_observe(m, 0.25);
  weir_metric_observe(m, 4);
  assert_true(visit(r).one[0].sum == 4.25);
  weir_metrics_destroy(r);
}

/* ---- threads ---- */

enum { MOVERS = 3, MOVES = 4000, MADE = 40 };

typedef struct crowd {
  weir_metrics *r;
  weir_metric *counter, *histogram, *gauge;
  atomic_int moving, wrong;
} crowd;

static void *mover(void *ctx) {
  crowd *c = ctx;
  for (int i = 0; i < MOVES; i++) {
    weir_metric_inc(c->counter, 1);
    weir_metric_inc(c->gauge, i % 2 ? -1 : 1);
    weir_metric_observe(c->histogram, i % 4);
  }
  atomic_fetch_sub(&c->moving, 1);
  return NULL;
}

static void *maker(void *ctx) {
  crowd *c = ctx;
  for (int i = 0; i < MADE; i++) {
    char name[32];
    weir_metric *m;
    snprintf(name, sizeof name, "weir:made_%d", i);
    if (weir_metrics_add(c->r, WEIR_METRIC_COUNTER, name, "M.", NULL, 0, NULL, 0, &m, NULL) != WEIR_OK)
      atomic_fetch_add(&c->wrong, 1);
    else
      weir_metric_inc(m, 1);
  }
  atomic_fetch_sub(&c->moving, 1);
  return NULL;
}

static void look(void *ctx, const weir_metric_view *v) {
  crowd *c = ctx;
  for (int32_t i = 1; i < v->n_le; i++)
    if (v->count[i] < v->count[i - 1]) atomic_fetch_add(&c->wrong, 1);
  if (v->type == WEIR_METRIC_COUNTER && v->value < 0) atomic_fetch_add(&c->wrong, 1);
}

static void test_threads(void **state) {
  (void)state;
  static const double le[] = {0, 1, 2};
  crowd c = {.r = make(), .moving = MOVERS + 1};
  pthread_t thread[MOVERS + 1];
  weir_err e;
  c.counter = plain(c.r, WEIR_METRIC_COUNTER, "weir:c", NULL);
  c.gauge = plain(c.r, WEIR_METRIC_GAUGE, "weir:g", NULL);
  assert_int_equal(
      weir_metrics_add(c.r, WEIR_METRIC_HISTOGRAM, "weir:h", "H.", NULL, 0, le, 3, &c.histogram, &e),
      WEIR_OK);
  for (int i = 0; i <= MOVERS; i++)
    assert_int_equal(pthread_create(&thread[i], NULL, i < MOVERS ? mover : maker, &c), 0);
  while (atomic_load(&c.moving) > 0) weir_metrics_visit(c.r, look, &c);
  for (int i = 0; i <= MOVERS; i++) pthread_join(thread[i], NULL);
  assert_int_equal(atomic_load(&c.wrong), 0);
  const all a = visit(c.r);
  assert_int_equal(a.n, 3 + MADE);
  assert_true(a.one[0].value == MOVERS * MOVES);
  assert_true(a.one[1].value == 0);
  assert_int_equal(a.one[2].count[3], MOVERS * MOVES);
  assert_int_equal(a.one[2].count[0], MOVERS * MOVES / 4);
  assert_true(a.one[2].sum == MOVERS * MOVES / 4 * (0 + 1 + 2 + 3));
  for (int i = 0; i < MADE; i++) assert_true(a.one[3 + i].value == 1);
  weir_metrics_destroy(c.r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_refused), cmocka_unit_test(test_bounded),   cmocka_unit_test(test_order),
      cmocka_unit_test(test_values),  cmocka_unit_test(test_histogram), cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
