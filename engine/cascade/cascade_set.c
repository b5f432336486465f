/* SPDX-License-Identifier: Apache-2.0 */
/* Settings by name. Owns nothing; any thread. */
#include "cascade/cascade_set.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum { FLOAT, INT, GATE, ACCEPT, AFTER, QUALITY } kind;

static const struct setting {
  const char *name;
  kind kind;
  uint32_t option; /* WEIR_OPT_* */
  size_t at;       /* of its field in weir_cascade_opts */
} settings[] = {
#define AT(field) offsetof(weir_cascade_opts, field)
    {"gate", GATE, WEIR_OPT_GATE, AT(gate)},
    {"threshold", FLOAT, WEIR_OPT_THRESHOLD, AT(threshold)},
    {"accept", ACCEPT, WEIR_OPT_ACCEPT, AT(accept)},
    {"accept_nll", FLOAT, WEIR_OPT_ACCEPT_NLL, AT(accept_nll)},
    {"accept_alpha", FLOAT, WEIR_OPT_ACCEPT_ALPHA, AT(accept_alpha)},
    {"accept_epsilon", FLOAT, WEIR_OPT_ACCEPT_EPSILON, AT(accept_epsilon)},
    {"accept_delta", FLOAT, WEIR_OPT_ACCEPT_DELTA, AT(accept_delta)},
    {"window", INT, WEIR_OPT_WINDOW, AT(window)},
    {"hold", INT, WEIR_OPT_HOLD, AT(hold)},
    {"horizon", INT, WEIR_OPT_HORIZON, AT(horizon)},
    {"defer_wait", INT, WEIR_OPT_DEFER_WAIT, AT(defer_wait_ms)},
    {"fusion_weight", FLOAT, WEIR_OPT_FUSION_WEIGHT, AT(fusion_weight)},
    {"route_prompt", INT, WEIR_OPT_ROUTE_PROMPT, AT(route_prompt)},
    {"route_after", AFTER, WEIR_OPT_ROUTE_AFTER, AT(route_after)},
    {"route_share", FLOAT, WEIR_OPT_ROUTE_SHARE, AT(route_share)},
    {"quality", QUALITY, WEIR_OPT_QUALITY, AT(quality)},
#undef AT
};

static const struct setting *find(const char *name) {
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
    if (!strcmp(name, settings[i].name)) return &settings[i];
  return NULL;
}

/* No blanks before it, nothing behind it: what strtod skips is not ours to skip. */
static bool is_whole(const char *value, const char *end) {
  return end != value && *end == '\0' &&
         (*value == '-' || *value == '.' || *value == 'i' || (*value >= '0' && *value <= '9'));
}

const char *weir_cascade_setting_name(int32_t i) {
  return i >= 0 && (size_t)i < sizeof settings / sizeof *settings ? settings[i].name : NULL;
}

weir_status weir_cascade_opts_set(weir_cascade_opts *o, const char *name, const char *value, weir_err *e) {
  const struct setting *s = find(name);
  char *end = NULL;
  if (!s) return weir_fail(e, WEIR_EINVAL, "there is no setting \"%.40s\"", name);
  void *field = (char *)o + s->at;
  bool good = strlen(value) < WEIR_SETTING_VALUE_BYTES;
  if (good && s->kind == GATE)
    good = weir_gate_parse(value, field);
  else if (good && s->kind == ACCEPT)
    good = weir_accept_parse(value, field);
  else if (good && s->kind == AFTER)
    good = weir_route_after_parse(value, field);
  else if (good && s->kind == QUALITY)
    good = weir_quality_parse(value, field);
  else if (good && s->kind == INT) {
    errno = 0;
    const long x = strtol(value, &end, 10);
    good = is_whole(value, end) && errno == 0 && x >= INT32_MIN && x <= INT32_MAX;
    if (good) *(int32_t *)field = (int32_t)x;
  } else if (good) {
    const double x = strtod(value, &end);
    good = is_whole(value, end) && !isnan(x) && (isinf(x) || fabs(x) <= (double)FLT_MAX);
    if (good) *(float *)field = (float)x;
  }
  if (!good) {
    static const char *const wants[] = {[FLOAT] = "a number",
                                        [INT] = "a whole number",
                                        [GATE] = "a gate's name",
                                        [ACCEPT] = "a rule's name",
                                        [AFTER] = "a number of tokens, or end",
                                        [QUALITY] = "near, exact or any"};
    return weir_fail(e, WEIR_EINVAL, "%s: want %s, got \"%.40s\"", s->name, wants[s->kind], value);
  }
  o->set |= s->option;
  return WEIR_OK;
}
