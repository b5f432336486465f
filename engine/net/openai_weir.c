/* SPDX-License-Identifier: Apache-2.0 */
/* The "weir" object of a request, and vLLM's guided_choice: what is asked of the cascade. Pure; any thread.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cascade/cascade_set.h"
#include "net/openai_in.h"

enum { MAX_SPANS = 16, MAX_CHOICES = 256, MAX_TEXT_BYTES = 4096, NUMBER_BYTES = 32 };

typedef weir_openai_reader reader;

/* Members that are read one by one; all others are settings of cascade/cascade_set.h. */
static const char *const own[] = {"mode",       "entropy", "defer_rate", "defer_burst",
                                  "load_price", "pin",     "spans",      "receipts"};

static bool is_own(const char *key) {
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (!strcmp(key, own[i])) return true;
  return false;
}

static bool is_setting(const char *key) {
  for (int32_t i = 0; weir_cascade_setting_name(i); i++)
    if (!strcmp(key, weir_cascade_setting_name(i))) return true;
  return false;
}

static void say_unknown(reader *r, const char *key) {
  char shown[48], what[512] = "is not known: there are mode";
  snprintf(shown, sizeof shown, "%.40s", key);
  size_t at = strlen(what);
  for (size_t i = 1; i < sizeof own / sizeof *own && at < sizeof what; i++)
    at += (size_t)snprintf(what + at, sizeof what - at, ", %s", own[i]);
  for (int32_t i = 0; weir_cascade_setting_name(i) && at < sizeof what; i++)
    at += (size_t)snprintf(what + at, sizeof what - at, ", %s", weir_cascade_setting_name(i));
  weir_openai_bad(r, shown, what);
}

/* A number or a string, as text: what it means is the engine's to say. */
static void take_setting(reader *r, weir_openai_request *q, const char *key, const json_t *v) {
  weir_client_setting *s = &q->setting[q->ask.n_settings];
  s->name = key;
  if (json_is_string(v)) {
    s->value = json_string_value(v);
  } else if (json_is_number(v)) {
    char *text = weir_openai_alloc(r, NUMBER_BYTES, 1);
    if (!text) return;
    if (json_is_integer(v))
      snprintf(text, NUMBER_BYTES, "%lld", (long long)json_integer_value(v));
    else
      snprintf(text, NUMBER_BYTES, "%.9g", json_real_value(v));
    s->value = text;
  } else {
    weir_openai_bad(r, key, "must be a number or a string");
    return;
  }
  q->ask.n_settings++;
}

static void read_settings(reader *r, weir_openai_request *q) {
  const char *key;
  json_t *v;
  size_t n = 0;
  json_object_foreach(r->root, key, v) {
    if (is_own(key)) continue;
    if (!is_setting(key)) {
      say_unknown(r, key);
      return;
    }
    n += !json_is_null(v);
  }
  if (n == 0) return;
  q->setting = weir_openai_alloc(r, n, sizeof *q->setting);
  if (!q->setting) return;
  json_object_foreach(r->root, key, v) {
    if (!is_own(key) && !json_is_null(v)) take_setting(r, q, key, v);
    if (weir_openai_failed(r)) return;
  }
  q->ask.setting = q->setting;
}

static void read_spans(reader *r, weir_openai_request *q) {
  static const char wrong[] =
      "must be an array of 16 objects at most, each of a threshold, a start and maybe an end";
  json_t *v = weir_openai_get(r, "spans"), *one;
  size_t i;
  if (!v || weir_openai_failed(r)) return;
  if (!json_is_array(v) || json_array_size(v) > MAX_SPANS) {
    weir_openai_bad(r, "spans", wrong);
    return;
  }
  if (json_array_size(v) == 0) return;
  q->span = weir_openai_alloc(r, json_array_size(v), sizeof *q->span);
  if (!q->span) return;
  json_array_foreach(v, i, one) {
    const json_t *threshold = json_object_get(one, "threshold"), *start = json_object_get(one, "start"),
                 *end = json_object_get(one, "end");
    const bool good =
        json_is_number(threshold) && fabs(json_number_value(threshold)) <= 1e6 && json_is_string(start) &&
        json_string_length(start) > 0 && json_string_length(start) <= MAX_TEXT_BYTES &&
        (!end || json_is_null(end) || (json_is_string(end) && json_string_length(end) <= MAX_TEXT_BYTES));
    if (!good) {
      weir_openai_bad(r, "spans", wrong);
      return;
    }
    q->span[i] = (weir_client_span){(float)json_number_value(threshold), json_string_value(start),
                                    json_string_value(end)};
  }
  q->ask.span = q->span;
  q->ask.n_spans = json_array_size(v);
}

void weir_openai_choices(weir_openai_reader *r, weir_openai_request *q) {
  json_t *v = weir_openai_get(r, "guided_choice"), *one;
  size_t i;
  if (!v || weir_openai_failed(r)) return;
  if (!json_is_array(v) || json_array_size(v) == 0 || json_array_size(v) > MAX_CHOICES) {
    weir_openai_bad(r, "guided_choice", "must be an array of 1 to 256 strings");
    return;
  }
  q->choice = weir_openai_alloc(r, json_array_size(v), sizeof *q->choice);
  if (!q->choice) return;
  json_array_foreach(v, i, one) {
    if (!json_is_string(one) || json_string_length(one) == 0 || json_string_length(one) > MAX_TEXT_BYTES) {
      weir_openai_bad(r, "guided_choice", "must hold strings, none empty, of 4096 bytes at most");
      return;
    }
    q->choice[i] = json_string_value(one);
  }
  q->ask.choice = q->choice;
  q->ask.n_choices = json_array_size(v);
}

void weir_openai_weir(weir_openai_reader *r, weir_openai_request *q) {
  json_t *v = weir_openai_get(r, "weir");
  int64_t burst = 0;
  if (!v) return;
  if (!json_is_object(v)) {
    weir_openai_bad(r, "weir", "must be an object");
    return;
  }
  reader in = *r;
  in.root = v;
  in.prefix = "weir.";
  read_settings(&in, q);
  read_spans(&in, q);
  weir_openai_string(&in, "mode", 15, &q->ask.mode);
  q->ask.has_entropy = weir_openai_number(&in, "entropy", 0, 1000, false, &q->ask.entropy);
  q->ask.has_defer_rate = weir_openai_number(&in, "defer_rate", 0, 1, false, &q->ask.defer_rate);
  if (weir_openai_int(&in, "defer_burst", 0, 1 << 20, &burst)) q->ask.defer_burst = (uint32_t)burst;
  q->ask.has_load_price = weir_openai_number(&in, "load_price", 0, 100, false, &q->ask.load_price);
  weir_openai_bool(&in, "pin", &q->ask.pin);
  weir_openai_bool(&in, "receipts", &q->ask.receipts);
}
