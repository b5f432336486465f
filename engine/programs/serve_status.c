/* SPDX-License-Identifier: Apache-2.0 */
/* What a server says of itself. Rates are of the time since the line before, levels of the moment. Main
 * thread. */
#include "programs/serve_status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MARGIN 1.05 /* how much faster it must be to be worth a word: measurements of seconds jitter */

void weir_serve_status_init(weir_serve_status *s, int32_t n_tiers, const char *const *tier_name,
                            const weir_engine_stats *now, int64_t now_ns) {
  *s = (weir_serve_status){.n_tiers = n_tiers, .last = *now, .last_ns = now_ns};
  for (int32_t t = 0; t < n_tiers; t++) s->tier_name[t] = tier_name[t];
}

static void say(weir_serve_status *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(weir_serve_status *s, const char *fmt, ...) {
  const size_t len = strlen(s->text);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(s->text + len, sizeof s->text - len, fmt, ap);
  va_end(ap);
}

static void note(weir_serve_status *s, weir_log_field f) {
  if (s->n_fields < WEIR_STATUS_MAX_FIELDS) s->field[s->n_fields++] = f;
}

static double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

static bool something(const weir_serve_status *s, const weir_engine_stats *now) {
  if (now->active > 0 || now->queued > 0) return true;
  for (int32_t t = 0; t < s->n_tiers; t++)
    if (now->tier[t].steps != s->last.tier[t].steps) return true;
  return false;
}

/* "41.2 tok/s small, 7.9 large" */
static void say_speed(weir_serve_status *s, const weir_engine_stats *now, double seconds) {
  static const char *const key[] = {"tok_s_small", "tok_s_large"};
  double sum = 0, by_last = 0;
  for (int32_t t = 0; t < s->n_tiers; t++) {
    const double n = (double)(now->tokens_by_tier[t] - s->last.tokens_by_tier[t]);
    say(s, t == 0 ? "%.1f tok/s %s" : ", %.1f %s", n / seconds, s->tier_name[t]);
    note(s, weir_log_num(key[!strcmp(s->tier_name[t], "large")], n / seconds));
    sum += n;
    by_last = n;
  }
  say(s, "; %d running, %d waiting", now->active, now->queued);
  note(s, weir_log_int("running", now->active));
  note(s, weir_log_int("waiting", now->queued));
  if (s->n_tiers < 2) return;
  say(s, "; deferred %.1f %%", 100 * share(by_last, sum));
  note(s, weir_log_num("deferral_rate", share(by_last, sum)));
}

static void say_kv(weir_serve_status *s, const weir_engine_stats *now) {
  static const char *const key[] = {"kv_used_small", "kv_used_large"};
  double looked = 0, hit = 0;
  for (int32_t t = 0; t < s->n_tiers; t++) {
    const weir_tier_stats *a = &now->tier[t], *b = &s->last.tier[t];
    const double used = share(a->kv_pages_used, a->kv_pages);
    say(s, t == 0 ? "; KV %.1f %% %s" : ", %.1f %% %s", 100 * used, s->tier_name[t]);
    note(s, weir_log_num(key[!strcmp(s->tier_name[t], "large")], used));
    looked += (double)(a->prefix_lookup_tokens - b->prefix_lookup_tokens);
    hit += (double)(a->prefix_hit_tokens - b->prefix_hit_tokens);
  }
  if (looked <= 0) return;
  say(s, "; prefix hits %.1f %%", 100 * share(hit, looked));
  note(s, weir_log_num("prefix_hit_rate", share(hit, looked)));
}

bool weir_serve_status_next(weir_serve_status *s, const weir_engine_stats *now, int64_t now_ns) {
  const bool is = something(s, now);
  s->text[0] = '\0';
  s->n_fields = 0;
  if (is && now_ns > s->last_ns) {
    say_speed(s, now, 1e-9 * (double)(now_ns - s->last_ns));
    say_kv(s, now);
    for (int32_t t = 0; t < s->n_tiers; t++)
      if (now->tier[t].dead) say(s, "; the %s tier is down", s->tier_name[t]);
  }
  s->last = *now;
  s->last_ns = now_ns;
  return is && s->text[0];
}

bool weir_serve_status_slower(weir_serve_status *s, const weir_engine_stats *now) {
  if (s->told_slower || s->n_tiers < 2 || !(now->goodput > 0) ||
      !(now->large_only_goodput > MARGIN * now->goodput))
    return false;
  s->told_slower = true;
  s->text[0] = '\0';
  s->n_fields = 0;
  say(s,
      "at this load the large model alone would be faster: about %.0f tok/s where the cascade writes %.0f. A "
      "larger --entropy defers less; --mode large is the large model alone",
      now->large_only_goodput, now->goodput);
  note(s, weir_log_num("goodput", now->goodput));
  note(s, weir_log_num("large_only_goodput", now->large_only_goodput));
  return true;
}
