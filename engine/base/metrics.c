/* SPDX-License-Identifier: Apache-2.0 */
/* The registry of metrics. Families and their series are two levels of lists that only grow, linked with
 * release stores under a lock that makers take; so whoever moves or visits a series needs no lock, and none
 * is held while a visitor's function runs. Values are relaxed atomics: a series is exact, two series read one
 * after the other may be a moment apart. Any thread. */
#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct family family;

struct weir_metric {
  family *of;
  weir_metric *_Atomic next;
  weir_metric_label label[WEIR_METRIC_MAX_LABELS]; /* strings owned */
  _Atomic uint64_t value;                          /* bits of a double; of a histogram: its sum */
  _Atomic uint64_t bucket[];                       /* [of->n_le], each by itself; histograms */
};

struct family {
  family *_Atomic next;
  weir_metric *_Atomic first;
  weir_metric *last; /* under the lock */
  weir_metric_type type;
  char *name, *help; /* owned */
  int32_t n_labels, n_le;
  double le[WEIR_METRIC_MAX_BUCKETS]; /* [n_le], the last is +Inf */
};

struct weir_metrics {
  pthread_mutex_t lock; /* of making */
  family *_Atomic first;
  family *last;
  int32_t n_series;
};

/* ---- doubles in atomic words ---- */

static uint64_t bits_of(double x) {
  uint64_t b;
  memcpy(&b, &x, sizeof b);
  return b;
}

static double double_of(uint64_t b) {
  double x;
  memcpy(&x, &b, sizeof x);
  return x;
}

static double load(_Atomic uint64_t *at) { return double_of(atomic_load_explicit(at, memory_order_relaxed)); }

static void add(_Atomic uint64_t *at, double by) {
  uint64_t old = atomic_load_explicit(at, memory_order_relaxed);
  while (!atomic_compare_exchange_weak_explicit(at, &old, bits_of(double_of(old) + by), memory_order_relaxed,
                                                memory_order_relaxed)) {
  }
}

static void raise_to(_Atomic uint64_t *at, double value) {
  uint64_t old = atomic_load_explicit(at, memory_order_relaxed);
  while (value > double_of(old) &&
         !atomic_compare_exchange_weak_explicit(at, &old, bits_of(value), memory_order_relaxed,
                                                memory_order_relaxed)) {
  }
}

/* ---- making ---- */

static void free_series(weir_metric *m, int32_t n_labels) {
  if (!m) return;
  for (int32_t i = 0; i < n_labels; i++) {
    free((char *)m->label[i].name);
    free((char *)m->label[i].value);
  }
  free(m);
}

static void free_family(family *f) {
  if (!f) return;
  for (weir_metric *m = atomic_load(&f->first), *next; m; m = next) {
    next = atomic_load(&m->next);
    free_series(m, f->n_labels);
  }
  free(f->name);
  free(f->help);
  free(f);
}

weir_status weir_metrics_create(weir_metrics **out, weir_err *e) {
  *out = NULL;
  weir_metrics *r = NULL;
  const weir_status st = WEIR_NEW(1, &r, e);
  if (st != WEIR_OK) return st;
  if (pthread_mutex_init(&r->lock, NULL) != 0) {
    free(r);
    return weir_fail(e, WEIR_ENOMEM, "cannot make a lock of metrics");
  }
  *out = r;
  return WEIR_OK;
}

void weir_metrics_destroy(weir_metrics *r) {
  if (!r) return;
  for (family *f = atomic_load(&r->first), *next; f; f = next) {
    next = atomic_load(&f->next);
    free_family(f);
  }
  pthread_mutex_destroy(&r->lock);
  free(r);
}

/* Prometheus' data model: letters, digits, '_', and ':' in names of metrics alone; no digit first. */
static bool legal_name(const char *name, bool colon) {
  const size_t len = name ? strnlen(name, WEIR_METRIC_MAX_TEXT + 1) : 0;
  if (len == 0 || len > WEIR_METRIC_MAX_TEXT || (name[0] >= '0' && name[0] <= '9')) return false;
  for (const char *p = name; *p; p++) {
    const bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
    if (!letter && !(*p >= '0' && *p <= '9') && *p != '_' && !(colon && *p == ':')) return false;
  }
  return true;
}

static bool legal_text(const char *text) { return text && strnlen(text, 1025) <= 1024; }

static weir_status check_labels(weir_metric_type type, const char *name, const weir_metric_label *label,
                                int32_t n, weir_err *e) {
  if (n < 0 || n > WEIR_METRIC_MAX_LABELS || (n > 0 && !label))
    return weir_fail(e, WEIR_EINVAL, "metric %s: %d labels, at most %d are kept", name, n,
                     WEIR_METRIC_MAX_LABELS);
  for (int32_t i = 0; i < n; i++) {
    const char *word = label[i].name;
    if (!legal_name(word, false) || !strncmp(word, "__", 2))
      return weir_fail(e, WEIR_EINVAL, "metric %s: label %d has no legal name", name, i);
    if (type == WEIR_METRIC_HISTOGRAM && !strcmp(word, "le"))
      return weir_fail(e, WEIR_EINVAL, "metric %s: the label le is a histogram's own", name);
    if (!legal_text(label[i].value))
      return weir_fail(e, WEIR_EINVAL, "metric %s: label %s has no value, or one too long", name, word);
    for (int32_t k = 0; k < i; k++)
      if (!strcmp(word, label[k].name))
        return weir_fail(e, WEIR_EINVAL, "metric %s: label %s is given twice", name, word);
  }
  return WEIR_OK;
}

static weir_status check_buckets(weir_metric_type type, const char *name, const double *le, int32_t n,
                                 weir_err *e) {
  if (type != WEIR_METRIC_HISTOGRAM)
    return n == 0 ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "metric %s: buckets belong to histograms", name);
  if (n < 1 || n >= WEIR_METRIC_MAX_BUCKETS || !le)
    return weir_fail(e, WEIR_EINVAL, "metric %s: %d buckets, want 1 .. %d", name, n,
                     WEIR_METRIC_MAX_BUCKETS - 1);
  for (int32_t i = 0; i < n; i++)
    if (!isfinite(le[i]) || (i > 0 && !(le[i] > le[i - 1])))
      return weir_fail(e, WEIR_EINVAL, "metric %s: bucket %d is not above the one before it", name, i);
  return WEIR_OK;
}

static weir_status copy_text(const char *text, char **out, weir_err *e) {
  *out = strdup(text);
  return *out ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "cannot keep the text of a metric");
}

static weir_status make_family(weir_metric_type type, const char *name, const char *help, int32_t n_labels,
                               const double *le, int32_t n_le, family **out, weir_err *e) {
  weir_status st = WEIR_OK;
  family *f = NULL;
  WEIR_TRY(WEIR_NEW(1, &f, e));
  f->type = type;
  f->n_labels = n_labels;
  WEIR_TRY(copy_text(name, &f->name, e));
  WEIR_TRY(copy_text(help, &f->help, e));
  if (type == WEIR_METRIC_HISTOGRAM) {
    memcpy(f->le, le, (size_t)n_le * sizeof *le);
    f->le[n_le] = INFINITY;
    f->n_le = n_le + 1;
  }
  *out = f;
  return WEIR_OK;
out:
  free_family(f);
  return st;
}

static weir_status make_series(family *f, const weir_metric_label *label, weir_metric **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_metric *m = NULL;
  void *raw = NULL;
  WEIR_TRY(weir_calloc(1, sizeof *m + (size_t)f->n_le * sizeof m->bucket[0], "a metric", &raw, e));
  m = raw;
  m->of = f;
  for (int32_t i = 0; i < f->n_labels; i++) {
    WEIR_TRY(copy_text(label[i].name, (char **)&m->label[i].name, e));
    WEIR_TRY(copy_text(label[i].value, (char **)&m->label[i].value, e));
  }
  *out = m;
  return WEIR_OK;
out:
  free_series(m, f->n_labels);
  return st;
}

/* Whether a series fits the family that has its name, and is not there already. */
static weir_status check_fit(family *f, weir_metric_type type, const char *help,
                             const weir_metric_label *label, int32_t n_labels, const double *le, int32_t n_le,
                             weir_err *e) {
  if (f->type != type || strcmp(f->help, help) != 0 || f->n_labels != n_labels)
    return weir_fail(e, WEIR_EINVAL, "metric %s is there with another type, help or number of labels",
                     f->name);
  if (type == WEIR_METRIC_HISTOGRAM &&
      (f->n_le != n_le + 1 || memcmp(f->le, le, (size_t)n_le * sizeof *le) != 0))
    return weir_fail(e, WEIR_EINVAL, "metric %s is there with other buckets", f->name);
  for (weir_metric *m = atomic_load(&f->first); m; m = atomic_load(&m->next)) {
    bool same = true;
    for (int32_t i = 0; i < n_labels; i++) {
      if (strcmp(m->label[i].name, label[i].name) != 0)
        return weir_fail(e, WEIR_EINVAL, "metric %s is there with the label %s, not %s", f->name,
                         m->label[i].name, label[i].name);
      same = same && !strcmp(m->label[i].value, label[i].value);
    }
    if (same) return weir_fail(e, WEIR_EINVAL, "metric %s is there with the same labels", f->name);
  }
  return WEIR_OK;
}

static family *find_family(weir_metrics *r, const char *name) {
  family *f = atomic_load(&r->first);
  while (f && strcmp(f->name, name) != 0) f = atomic_load(&f->next);
  return f;
}

weir_status weir_metrics_add(weir_metrics *r, weir_metric_type type, const char *name, const char *help,
                             const weir_metric_label *label, int32_t n_labels, const double *le, int32_t n_le,
                             weir_metric **out, weir_err *e) {
  weir_status st = WEIR_OK;
  family *fresh = NULL, *f;
  weir_metric *m = NULL;
  *out = NULL;
  if (!legal_name(name, true)) return weir_fail(e, WEIR_EINVAL, "a metric has no legal name");
  if (!legal_text(help)) return weir_fail(e, WEIR_EINVAL, "metric %s: no help, or too long", name);
  if (type != WEIR_METRIC_COUNTER && type != WEIR_METRIC_GAUGE && type != WEIR_METRIC_HISTOGRAM)
    return weir_fail(e, WEIR_EINVAL, "metric %s: type %d is not known", name, (int)type);
  st = check_labels(type, name, label, n_labels, e);
  if (st == WEIR_OK) st = check_buckets(type, name, le, n_le, e);
  if (st != WEIR_OK) return st;

  pthread_mutex_lock(&r->lock);
  if (r->n_series >= WEIR_METRIC_MAX_SERIES)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "metric %s: more than %d series", name, WEIR_METRIC_MAX_SERIES));
  f = find_family(r, name);
  if (f)
    WEIR_TRY(check_fit(f, type, help, label, n_labels, le, n_le, e));
  else
    WEIR_TRY(make_family(type, name, help, n_labels, le, n_le, &fresh, e));
  WEIR_TRY(make_series(f ? f : fresh, label, &m, e));
  if (fresh) { /* with its series in it before anybody can find it */
    fresh->last = m;
    atomic_store_explicit(&fresh->first, m, memory_order_release);
    atomic_store_explicit(r->last ? &r->last->next : &r->first, fresh, memory_order_release);
    r->last = fresh;
    fresh = NULL;
  } else {
    atomic_store_explicit(&f->last->next, m, memory_order_release);
    f->last = m;
  }
  r->n_series++;
  *out = m;
out:
  pthread_mutex_unlock(&r->lock);
  free_family(fresh);
  return st;
}

/* ---- moving ---- */

void weir_metric_inc(weir_metric *m, double by) {
  if (m->of->type == WEIR_METRIC_HISTOGRAM || isnan(by)) return;
  if (m->of->type == WEIR_METRIC_COUNTER && by < 0) return;
  add(&m->value, by);
}

void weir_metric_set(weir_metric *m, double value) {
  if (m->of->type == WEIR_METRIC_GAUGE)
    atomic_store_explicit(&m->value, bits_of(value), memory_order_relaxed);
  else if (m->of->type == WEIR_METRIC_COUNTER)
    raise_to(&m->value, value);
}

void weir_metric_observe(weir_metric *m, double value) {
  const family *f = m->of;
  if (f->type != WEIR_METRIC_HISTOGRAM || isnan(value)) return;
  int32_t i = 0;
  while (i < f->n_le - 1 && value > f->le[i]) i++;
  atomic_fetch_add_explicit(&m->bucket[i], 1, memory_order_relaxed);
  add(&m->value, value);
}

/* ---- reading ---- */

void weir_metrics_visit(weir_metrics *r, void (*fn)(void *ctx, const weir_metric_view *), void *ctx) {
  for (family *f = atomic_load_explicit(&r->first, memory_order_acquire); f;
       f = atomic_load_explicit(&f->next, memory_order_acquire)) {
    for (weir_metric *m = atomic_load_explicit(&f->first, memory_order_acquire); m;
         m = atomic_load_explicit(&m->next, memory_order_acquire)) {
      uint64_t count[WEIR_METRIC_MAX_BUCKETS], sum = 0;
      for (int32_t i = 0; i < f->n_le; i++) /* cumulated here: a bucket can never hold less than the last */
        count[i] = sum += atomic_load_explicit(&m->bucket[i], memory_order_relaxed);
      weir_metric_view v = {
          .name = f->name, .help = f->help, .type = f->type, .label = m->label, .n_labels = f->n_labels};
      if (f->type == WEIR_METRIC_HISTOGRAM) {
        v.le = f->le;
        v.count = count;
        v.n_le = f->n_le;
        v.sum = load(&m->value);
      } else {
        v.value = load(&m->value);
      }
      fn(ctx, &v);
    }
  }
}
