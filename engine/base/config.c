/* SPDX-License-Identifier: Apache-2.0 */
/* Options: the values of one command, set from text with their origin remembered, from the command line and
 * from the environment. Files are read in config_yaml.c, the help is printed in config_help.c. Owns copies of
 * every value; used by one thread. */
#include "base/config.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_in.h"
#include "base/mem.h"

/* ---- rows ---- */

int32_t weir_config_row(const weir_config *c, const char *name, size_t len) {
  for (int32_t i = 0; i < c->n_rows; i++)
    if ((c->table[i].commands & c->command) && strlen(c->table[i].name) == len &&
        !memcmp(c->table[i].name, name, len))
      return i;
  return -1;
}

bool weir_config_elsewhere(const weir_config *c, const char *name, size_t len) {
  for (int32_t i = 0; i < c->n_rows; i++)
    if (strlen(c->table[i].name) == len && !memcmp(c->table[i].name, name, len)) return true;
  return false;
}

void weir_config_env_name(const weir_option *o, char *buf, size_t bytes) {
  if (o->env) {
    snprintf(buf, bytes, "%s", o->env);
    return;
  }
  snprintf(buf, bytes, "WEIR_%s", o->name);
  for (char *p = buf; *p; p++) {
    if (*p == '-') *p = '_';
    if (*p >= 'a' && *p <= 'z') *p = (char)(*p - 'a' + 'A');
  }
}

/* Optimal string alignment distance: insertions, deletions, changes, and two neighbours swapped. Words longer
 * than the table are far from everything. */
static int32_t distance(const char *a, const char *b) {
  enum { MAX = 40 };
  const int32_t n = (int32_t)strnlen(a, MAX + 1), m = (int32_t)strnlen(b, MAX + 1);
  if (n > MAX || m > MAX) return MAX;
  int32_t d[MAX + 1][MAX + 1];
  for (int32_t i = 0; i <= n; i++) d[i][0] = i;
  for (int32_t j = 0; j <= m; j++) d[0][j] = j;
  for (int32_t i = 1; i <= n; i++)
    for (int32_t j = 1; j <= m; j++) {
      int32_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
        best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  return d[n][m];
}

const char *weir_nearest_name(const char *word, const char *const *names, int32_t n) {
  const char *best = NULL;
  int32_t least = 0;
  for (int32_t i = 0; i < n; i++) {
    const int32_t dist = distance(word, names[i]);
    if (!best || dist < least) {
      best = names[i];
      least = dist;
    }
  }
  /* a third of the letters wrong is a slip; more is another word */
  return best && least <= 1 + (int32_t)strlen(word) / 3 ? best : NULL;
}

weir_status weir_config_unknown(const weir_config *c, const char *source, const char *prefix,
                                const char *name, size_t len, weir_err *e) {
  char word[64];
  snprintf(word, sizeof word, "%.*s", len < 60 ? (int)len : 60, name);
  const char **names = NULL;
  weir_status st = WEIR_NEW((size_t)c->n_rows, &names, e);
  if (st != WEIR_OK) return st;
  int32_t n = 0;
  for (int32_t i = 0; i < c->n_rows; i++)
    if (c->table[i].commands & c->command) names[n++] = c->table[i].name;
  const char *near = weir_nearest_name(word, names, n);
  free((void *)names);
  const char *why = weir_config_elsewhere(c, name, len) ? "belongs to another command" : "is not an option";
  if (near)
    return weir_fail(e, WEIR_EINVAL, "%s%s %s; did you mean %s%s? (%s)", prefix, word, why, prefix, near,
                     source);
  return weir_fail(e, WEIR_EINVAL, "%s%s %s (%s)", prefix, word, why, source);
}

weir_status weir_config_read_all(weir_config *c, int argc, char *const *argv, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_config_read_env(c, NULL, e)); /* it may name the file */
  if (weir_config_has(c, "config")) {
    const char *named = weir_config_peek_arg(c, argc, argv, "config");
    const char *file = named ? named : weir_config_string(c, "config");
    if (file) {
      char path[4096]; /* the second reading frees what weir_config_string lent */
      snprintf(path, sizeof path, "%s", file);
      WEIR_TRY(weir_config_read_file(c, path, e));
      WEIR_TRY(weir_config_read_env(c, NULL, e)); /* and goes before what that says */
    }
  }
  st = weir_config_read_args(c, argc, argv, e);
out:
  return st;
}

/* ---- values ---- */

static void clear(weir_opt_value *v) {
  free(v->source);
  for (int32_t i = 0; i < v->n; i++)
    if (v->str) free(v->str[i]);
  free((void *)v->str);
  free(v->num);
  *v = (weir_opt_value){0};
}

static bool parse_int(const char *text, int64_t *out) {
  char *end;
  errno = 0;
  const long long x = strtoll(text, &end, 10);
  if (end == text || *end || errno || (text[0] != '-' && text[0] != '+' && (text[0] < '0' || text[0] > '9')))
    return false;
  *out = x;
  return true;
}

/* Decimal numbers and infinities as C and YAML spell them; nothing else of what strtod takes (hexadecimal,
 * NaN, blanks in front). */
static bool parse_float(const char *text, size_t len, double *out) {
  char buf[64];
  if (len == 0 || len >= sizeof buf) return false;
  memcpy(buf, text, len);
  buf[len] = '\0';
  const char *body = buf + (buf[0] == '-' || buf[0] == '+');
  if (!strcmp(body, "inf") || !strcmp(body, ".inf") || !strcmp(body, "infinity")) {
    *out = buf[0] == '-' ? -INFINITY : INFINITY;
    return true;
  }
  if (body[strspn(body, "0123456789.eE+-")] || (body[0] != '.' && (body[0] < '0' || body[0] > '9')))
    return false;
  char *end;
  const double x = strtod(buf, &end);
  if (*end || !isfinite(x)) return false;
  *out = x;
  return true;
}

static bool parse_bool(const char *text, int64_t *out) {
  static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
  for (int i = 0; i < 4; i++) {
    if (!strcmp(text, yes[i])) {
      *out = 1;
      return true;
    }
    if (!strcmp(text, no[i])) {
      *out = 0;
      return true;
    }
  }
  return false;
}

static bool within(const weir_option *o, double x) {
  return (o->min == 0 && o->max == 0) || (x >= o->min && x <= o->max);
}

static bool is_choice(const char *choices, const char *text) {
  const size_t len = strlen(text);
  for (const char *p = choices; *p;) {
    const size_t n = strcspn(p, "|");
    if (n == len && !memcmp(p, text, n)) return true;
    p += n + (p[n] == '|');
  }
  return false;
}

/* What is being set, for messages. */
typedef struct setting {
  const weir_option *o;
  const char *spelled, *source;
} setting;

static weir_status out_of_range(const setting *s, const char *text, weir_err *e) {
  char lo[32], hi[32];
  snprintf(lo, sizeof lo, "%.10g", s->o->min);
  snprintf(hi, sizeof hi, "%.10g", s->o->max);
  return weir_fail(e, WEIR_EINVAL, "%s: %.60s is out of range, want %s .. %s (%s)", s->spelled, text, lo, hi,
                   s->source);
}

static weir_status not_a(const setting *s, const char *text, const char *wanted, weir_err *e) {
  return weir_fail(e, WEIR_EINVAL, "%s: \"%.60s\" is not %s (%s)", s->spelled, text, wanted, s->source);
}

static weir_status add_string(weir_opt_value *v, const char *text, weir_err *e) {
  char **grown = realloc((void *)v->str, ((size_t)v->n + 1) * sizeof *grown);
  if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep an option's value");
  v->str = grown;
  v->str[v->n] = strdup(text);
  if (!v->str[v->n]) return weir_fail(e, WEIR_ENOMEM, "cannot keep an option's value");
  v->n++;
  return WEIR_OK;
}

static weir_status add_floats(const setting *s, weir_opt_value *v, const char *text, weir_err *e) {
  for (const char *p = text;;) {
    const size_t len = strcspn(p, ",");
    size_t from = strspn(p, " "), to = len;
    if (from > len) from = len;
    while (to > from && p[to - 1] == ' ') to--;
    double x;
    if (!parse_float(p + from, to - from, &x))
      return not_a(s, text, "a list of numbers with commas between", e);
    if (!within(s->o, x)) {
      char one[64];
      snprintf(one, sizeof one, "%.*s", (int)(to - from), p + from);
      return out_of_range(s, one, e);
    }
    if (v->n >= WEIR_CONFIG_MAX_ITEMS)
      return weir_fail(e, WEIR_EINVAL, "%s: more than %d numbers (%s)", s->spelled, WEIR_CONFIG_MAX_ITEMS,
                       s->source);
    double *grown = realloc(v->num, ((size_t)v->n + 1) * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep an option's value");
    v->num = grown;
    v->num[v->n++] = x;
    p += len;
    if (!*p) return WEIR_OK;
    p++;
  }
}

static weir_status put(const setting *s, weir_opt_value *v, const char *text, weir_err *e) {
  switch (s->o->type) {
    case WEIR_OPT_INT:
      if (!parse_int(text, &v->i)) return not_a(s, text, "a whole number", e);
      return within(s->o, (double)v->i) ? WEIR_OK : out_of_range(s, text, e);
    case WEIR_OPT_FLOAT:
      if (!parse_float(text, strlen(text), &v->f)) return not_a(s, text, "a number", e);
      return within(s->o, v->f) ? WEIR_OK : out_of_range(s, text, e);
    case WEIR_OPT_BOOL: return parse_bool(text, &v->i) ? WEIR_OK : not_a(s, text, "true or false", e);
    case WEIR_OPT_ENUM:
      if (!is_choice(s->o->choices, text)) {
        char wanted[160];
        snprintf(wanted, sizeof wanted, "one of %s", s->o->choices);
        return not_a(s, text, wanted, e);
      }
      return add_string(v, text, e);
    case WEIR_OPT_STRING: return add_string(v, text, e);
    case WEIR_OPT_STRINGS:
      if (v->n >= WEIR_CONFIG_MAX_ITEMS)
        return weir_fail(e, WEIR_EINVAL, "%s: given more than %d times (%s)", s->spelled,
                         WEIR_CONFIG_MAX_ITEMS, s->source);
      return add_string(v, text, e);
    case WEIR_OPT_FLOATS: return add_floats(s, v, text, e);
  }
  return weir_fail(e, WEIR_EINVAL, "%s: option of unknown type", s->spelled);
}

weir_status weir_config_set(weir_config *c, int32_t i, weir_opt_rank rank, const char *spelled,
                            const char *source, const char *text, weir_err *e) {
  weir_opt_value *v = &c->value[i];
  const bool list = c->table[i].type == WEIR_OPT_STRINGS || c->table[i].type == WEIR_OPT_FLOATS;
  const bool fresh = !list || v->rank != rank || (!v->source && rank != WEIR_FROM_DEFAULT);
  if (fresh) clear(v);
  v->rank = rank;
  if (rank != WEIR_FROM_DEFAULT && !v->source && !(v->source = strdup(source)))
    return weir_fail(e, WEIR_ENOMEM, "cannot keep an option's value");
  return put(&(setting){&c->table[i], spelled, source}, v, text, e);
}

weir_status weir_config_create(const weir_option *table, int32_t n, uint32_t command, weir_config **out,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  weir_config *c = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &c, e));
  *c = (weir_config){.table = table, .n_rows = n, .command = command};
  WEIR_TRY(WEIR_NEW((size_t)n, &c->value, e));
  for (int32_t i = 0; i < n; i++)
    if ((table[i].commands & command) && table[i].def)
      WEIR_TRY(weir_config_set(c, i, WEIR_FROM_DEFAULT, table[i].name, "default", table[i].def, e));
  *out = c;
  return WEIR_OK;
out:
  weir_config_destroy(c);
  return st;
}

void weir_config_destroy(weir_config *c) {
  if (!c) return;
  for (int32_t i = 0; i < c->n_rows && c->value; i++) clear(&c->value[i]);
  free(c->value);
  free((void *)c->operand);
  free(c);
}

/* ---- environment ---- */

static const char *system_env(const char *name) { return getenv(name); }

weir_status weir_config_read_env(weir_config *c, const char *(*get)(const char *name), weir_err *e) {
  if (!get) get = system_env;
  for (int32_t i = 0; i < c->n_rows; i++) {
    const weir_option *o = &c->table[i];
    if (!(o->commands & c->command)) continue;
    char name[96], source[128];
    weir_config_env_name(o, name, sizeof name);
    const char *text = name[0] ? get(name) : NULL;
    if (!text || !*text) continue;
    if (o->type == WEIR_OPT_BOOL && o->env) text = "true";
    snprintf(source, sizeof source, "%s in the environment", name);
    const weir_status st = weir_config_set(c, i, WEIR_FROM_ENV, o->name, source, text, e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}

const char *weir_config_odd_env(const weir_config *c, char *const *env, char *meant, size_t bytes) {
  for (; env && *env; env++) {
    char name[96];
    const size_t len = strcspn(*env, "=");
    if (strncmp(*env, "WEIR_", 5) != 0 || len >= sizeof name) continue;
    memcpy(name, *env, len);
    name[len] = '\0';
    bool known = false, near = false;
    for (int32_t i = 0; i < c->n_rows && !known; i++) {
      char other[96];
      const char *one = other;
      weir_config_env_name(&c->table[i], other, sizeof other);
      known = !strcmp(name, other);
      if (known || near || !other[0] || !weir_nearest_name(name + 5, (const char *const[]){one + 5}, 1))
        continue;
      near = true;
      snprintf(meant, bytes, "%s", other);
    }
    if (!known && near) return *env;
  }
  return NULL;
}

/* ---- command line ---- */

typedef struct arg {
  int32_t row;       /* -1: an operand */
  const char *value; /* NULL: an operand, or a BOOL that was only named */
  bool no;           /* --no-name */
  bool inline_value; /* --name=value, -pvalue */
  char spelled[72];
} arg;

static const char *const here = "command line";

static weir_status unknown_letter(char letter, weir_err *e) {
  return weir_fail(e, WEIR_EINVAL, "-%c is not an option (%s)", letter, here);
}

static weir_status split_long(const weir_config *c, const char *text, arg *a, weir_err *e) {
  const char *name = text + 2;
  const size_t len = strcspn(name, "=");
  a->row = weir_config_row(c, name, len);
  if (a->row < 0 && len > 3 && !memcmp(name, "no-", 3)) {
    const int32_t plain = weir_config_row(c, name + 3, len - 3);
    if (plain >= 0 && c->table[plain].type == WEIR_OPT_BOOL) {
      a->row = plain;
      a->no = true;
    }
  }
  if (a->row < 0) return weir_config_unknown(c, here, "--", name, len, e);
  snprintf(a->spelled, sizeof a->spelled, "--%.*s", (int)(len < 60 ? len : 60), name);
  if (name[len] == '=') {
    if (a->no) return weir_fail(e, WEIR_EINVAL, "%s takes no value (%s)", a->spelled, here);
    a->value = name + len + 1;
    a->inline_value = true;
  }
  return WEIR_OK;
}

static weir_status split_short(const weir_config *c, const char *text, arg *a, weir_err *e) {
  for (int32_t i = 0; i < c->n_rows && a->row < 0; i++)
    if ((c->table[i].commands & c->command) && c->table[i].letter == text[1]) a->row = i;
  if (a->row < 0) return unknown_letter(text[1], e);
  snprintf(a->spelled, sizeof a->spelled, "-%c", text[1]);
  if (!text[2]) return WEIR_OK;
  if (c->table[a->row].type == WEIR_OPT_BOOL)
    return weir_fail(e, WEIR_EINVAL, "\"%.60s\": write single letters apart (%s)", text, here);
  a->value = text + 2;
  a->inline_value = true;
  return WEIR_OK;
}

/* The option or operand at argv[*i]; *i moves to the next. */
static weir_status next_arg(const weir_config *c, int argc, char *const *argv, int *i, bool *only_operands,
                            arg *a, weir_err *e) {
  const char *text = argv[(*i)++];
  *a = (arg){.row = -1};
  if (*only_operands || text[0] != '-' || !text[1]) {
    a->value = text;
    return WEIR_OK;
  }
  if (!strcmp(text, "--")) {
    *only_operands = true;
    return WEIR_OK;
  }
  const weir_status st = text[1] == '-' ? split_long(c, text, a, e) : split_short(c, text, a, e);
  if (st != WEIR_OK || a->value || c->table[a->row].type == WEIR_OPT_BOOL) return st;
  if (*i >= argc) return weir_fail(e, WEIR_EINVAL, "%s needs a value (%s)", a->spelled, here);
  a->value = argv[(*i)++]; /* even one that begins with '-': --entropy -1 */
  return WEIR_OK;
}

weir_status weir_config_read_args(weir_config *c, int argc, char *const *argv, weir_err *e) {
  bool only_operands = false;
  for (int i = 0; i < argc;) {
    arg a;
    weir_status st = next_arg(c, argc, argv, &i, &only_operands, &a, e);
    if (st != WEIR_OK) return st;
    if (a.row >= 0) {
      const char *text = a.value ? a.value : a.no ? "false" : "true";
      st = weir_config_set(c, a.row, WEIR_FROM_ARGS, a.spelled, here, text, e);
      if (st != WEIR_OK) return st;
    } else if (a.value) {
      const char **grown = realloc((void *)c->operand, ((size_t)c->n_operands + 1) * sizeof *grown);
      if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep the operands");
      c->operand = grown;
      c->operand[c->n_operands++] = a.value;
    }
  }
  return WEIR_OK;
}

const char *weir_config_peek_arg(const weir_config *c, int argc, char *const *argv, const char *name) {
  bool only_operands = false;
  const char *found = NULL;
  for (int i = 0; i < argc;) {
    arg a;
    if (next_arg(c, argc, argv, &i, &only_operands, &a, NULL) != WEIR_OK) break;
    if (a.row >= 0 && !strcmp(c->table[a.row].name, name))
      found = a.value ? a.value : a.no ? "false" : "true";
  }
  return found;
}

/* ---- reading values ---- */

static int32_t row_of(const weir_config *c, const char *name) {
  const int32_t i = weir_config_row(c, name, strlen(name));
  assert(i >= 0); /* a name that the program's own table lacks */
  return i;
}

static const weir_opt_value *value_of(const weir_config *c, const char *name, weir_opt_type type) {
  const int32_t i = row_of(c, name);
  assert(c->table[i].type == type);
  (void)type;
  return &c->value[i];
}

bool weir_config_has(const weir_config *c, const char *name) {
  return weir_config_row(c, name, strlen(name)) >= 0;
}

bool weir_config_is_set(const weir_config *c, const char *name) {
  return c->value[row_of(c, name)].rank != WEIR_FROM_DEFAULT;
}

int64_t weir_config_int(const weir_config *c, const char *name) { return value_of(c, name, WEIR_OPT_INT)->i; }
double weir_config_float(const weir_config *c, const char *name) {
  return value_of(c, name, WEIR_OPT_FLOAT)->f;
}
bool weir_config_bool(const weir_config *c, const char *name) {
  return value_of(c, name, WEIR_OPT_BOOL)->i != 0;
}

const char *weir_config_string(const weir_config *c, const char *name) {
  const weir_opt_value *v = &c->value[row_of(c, name)];
  return v->n ? v->str[0] : NULL;
}

const char *const *weir_config_strings(const weir_config *c, const char *name, int32_t *n) {
  const weir_opt_value *v = value_of(c, name, WEIR_OPT_STRINGS);
  *n = v->n;
  return (const char *const *)v->str;
}

const double *weir_config_floats(const weir_config *c, const char *name, int32_t *n) {
  const weir_opt_value *v = value_of(c, name, WEIR_OPT_FLOATS);
  *n = v->n;
  return v->num;
}

bool weir_config_is_list(const weir_config *c, const char *name) {
  const weir_opt_type type = c->table[row_of(c, name)].type;
  return type == WEIR_OPT_STRINGS || type == WEIR_OPT_FLOATS;
}

const char *const *weir_config_operands(const weir_config *c, int32_t *n) {
  *n = c->n_operands;
  return c->operand;
}

const char *weir_config_source(const weir_config *c, const char *name) {
  const weir_opt_value *v = &c->value[row_of(c, name)];
  return v->source ? v->source : "default";
}
