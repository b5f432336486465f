/* SPDX-License-Identifier: Apache-2.0 */
/* Files of receipts: written from a small cascade, read again, and changed in every way there is: by a
 * careless hand (the chain tells) and by one that forges the chain (the policy tells). */
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cascade/cascade_conf.h"
#include "programs/decision_log.h"
#include "programs/replay_file.h"

enum { PROMPT = 5, NEW = 24, LINES = 128 };

static uint64_t rnd_state = 7;
static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

/* A request decided here, its rows made up; the file of it. */
static char *write_file(weir_mode mode) {
  weir_err e = {0};
  weir_cascade_cfg cfg;
  const weir_cascade_opts o = {.mode = mode};
  assert_int_equal(weir_cascade_cfg_make(&o, &cfg, &e), WEIR_OK);
  const weir_ask draw = {.temperature = 0.7f, .top_p = 1, .seed = 3};
  const char *const name[] = {"small", "large"};
  const weir_log_request q = {
      .n_prompt = PROMPT, .max_new = NEW, .n_tiers = 2, .draw = &draw, .tier_name = name};
  weir_decision_log log;
  weir_cascade c;
  int32_t tok[PROMPT + NEW + 2] = {0};
  weir_receipt receipt[PROMPT + NEW + 3];
  weir_view v = {.tok = tok, .n = PROMPT, .committed = PROMPT};
  weir_row row[PROMPT + NEW + 2];
  weir_counts counts = {0};
  for (int t = 0; t < WEIR_MAX_TIERS; t++) v.mark[t] = PROMPT;
  weir_receipts_begin(receipt, PROMPT);
  weir_cascade_init(&c, &cfg, false);
  const weir_decision first = {.did = WEIR_DID_SWITCH, .hi = 1, .cfg = &cfg, .n = PROMPT};
  assert_int_equal(weir_decision_log_begin(&log, &q, &first, &e), WEIR_OK);
  weir_need need;
  while (weir_cascade_need(&c, &v, &need)) {
    const int32_t n = need.to - need.out_from;
    for (int32_t i = 0; i < n; i++) {
      const int32_t pos = need.out_from + i + 1;
      row[i] = (weir_row){.token = (int32_t)rnd(50),
                          .entropy = (float)rnd(1000) / 1000,
                          .p_max = 0.5f,
                          .margin = 0.1f,
                          .logprob = -0.7f / 3,
                          .probe_logprob = -1.1f};
      if (pos < need.to && rnd(4)) row[i].token = tok[pos]; /* it stands */
    }
    weir_decision d = {.did = WEIR_DID_OBSERVE,
                       .hi = 1,
                       .asked_hi = 1,
                       .need = need,
                       .row = row,
                       .n_rows = n,
                       .tau = cfg.gate[0].threshold,
                       .share = cfg.route.share,
                       .wait_ns = 5000};
    weir_cascade_observe(&c, &v, &need, row, &d.fx);
    weir_receipts_note(receipt, v.n, &d.fx);
    weir_cascade_apply(&c, &d.fx, tok, &v);
    v.kv_len[need.tier] = need.to < v.n ? need.to : v.n - 1;
    v.ended = v.n >= PROMPT + NEW;
    d.n = v.n;
    d.ended = v.ended;
    assert_int_equal(weir_decision_log_put(&log, &d, &e), WEIR_OK);
  }
  for (int32_t i = 0; i < NEW; i++) {
    const weir_receipt *r = &receipt[PROMPT + i];
    char h[32] = "null", tau[32] = "null";
    if (isfinite(r->entropy)) snprintf(h, sizeof h, "%.9g", (double)r->entropy);
    if (isfinite(r->tau)) snprintf(tau, sizeof tau, "%.9g", (double)r->tau);
    assert_int_equal(
        weir_buf_printf(&log.text, &e,
                        "{\"request\":0,\"i\":%d,\"id\":%d,\"tier\":\"%s\",\"H\":%s,\"tau\":%s,"
                        "\"reason\":\"%s\"}\n",
                        i, tok[PROMPT + i], name[r->tier], h, tau, weir_why_name((weir_why)r->why)),
        WEIR_OK);
    counts.by_tier[r->tier]++;
  }
  counts.new_tokens = NEW;
  assert_int_equal(weir_decision_log_end(&log, "length", &counts, 2, &e), WEIR_OK);
  return log.text.data;
}

static weir_status read_all(const char *text, weir_replay_report *report, weir_err *e) {
  weir_replay_reader *r;
  assert_int_equal(weir_replay_reader_create(&r, e), WEIR_OK);
  weir_status st = WEIR_OK;
  while (*text && st == WEIR_OK) {
    const size_t n = strcspn(text, "\n");
    st = weir_replay_reader_line(r, text, n, e);
    text += n + (text[n] != '\0');
  }
  if (st == WEIR_OK) st = weir_replay_reader_end(r, report, e);
  weir_replay_reader_destroy(r);
  return st;
}

/* The chain as if nothing had happened. */
static void forge(char *text) {
  uint64_t chain = weir_chain_begin();
  while (*text) {
    const size_t n = strcspn(text, "\n");
    char *tail = NULL, hex[17];
    for (char *p = text; p + 10 < text + n; p++)
      if (!memcmp(p, ",\"chain\":\"", 10)) tail = p;
    if (tail) {
      chain = weir_chain_next(chain, text, (size_t)(tail - text));
      snprintf(hex, sizeof hex, "%016" PRIx64, chain);
      memcpy(tail + 10, hex, 16);
    }
    text += n + (text[n] != '\0');
  }
}

/* Puts `to` for the `nth` `from`; NULL when there are not so many. */
static char *changed(const char *text, const char *from, const char *to, int nth) {
  const char *p = strstr(text, from);
  for (; p && nth > 0; nth--) p = strstr(p + 1, from);
  if (!p) return NULL;
  char *out = calloc(1, strlen(text) + strlen(to) + 1);
  memcpy(out, text, (size_t)(p - text));
  strcat(out, to);
  strcat(out, p + strlen(from));
  return out;
}

static void all_is_well(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_DEFER, WEIR_MODE_ROLLBACK, WEIR_MODE_EXACT, WEIR_MODE_LARGE};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    weir_err e = {0};
    weir_replay_report r;
    char *text = write_file(modes[m]);
    if (read_all(text, &r, &e) != WEIR_OK) fail_msg("mode %s: %s", weir_mode_name(modes[m]), e.msg);
    assert_int_equal(r.requests, 1);
    assert_int_equal(r.tokens, NEW);
    assert_true(r.decisions > 0 && r.by_reason[WEIR_WROTE] + r.by_reason[WEIR_REPLACED] >= 1);
    char *twice = changed(text, "{\"schema\":\"weir.receipt.v2\"", "{\"schema\":\"weir.receipt.v3\"", 0);
    assert_int_equal(read_all(twice, &r, &e), WEIR_EFORMAT);
    free(twice);
    free(text);
  }
}

static void lies(void **state) {
  (void)state;
  static const struct {
    const char *what, *from, *to, *told;
    weir_mode mode; /* small: defer */
  } rows[] = {
      {"a token that was written", "\"why\":\"easy\",\"append\":", "\"why\":\"easy\",\"append\":9",
       "the token was", WEIR_MODE_SMALL},
      {"a token drawn", "\"rows\":[[", "\"rows\":[[7", "the token was", WEIR_MODE_LARGE},
      {"an entropy", "\"rows\":[[", NULL, "", WEIR_MODE_SMALL},
      {"a threshold", "\"tau\":0.4", "\"tau\":0.5", "the threshold was", WEIR_MODE_SMALL},
      {"a reason", "\"reason\":\"wrote\"", "\"reason\":\"window\"", "it was window", WEIR_MODE_SMALL},
      {"who was asked", "\"need\":{\"tier\":0", "\"need\":{\"tier\":1", "the need was tier 1",
       WEIR_MODE_SMALL},
      {"what it came from", "\"why\":\"easy\"", "\"why\":\"hold\"", "came as hold", WEIR_MODE_SMALL},
      {"the token's id", "\"i\":3,\"id\":", "\"i\":3,\"id\":9", "the decisions give", WEIR_MODE_SMALL},
      {"the token's tier", "\"tier\":\"small\"", "\"tier\":\"large\"", "the decisions give", WEIR_MODE_SMALL},
      {"the token's reason", "\"reason\":\"easy\"}", "\"reason\":\"kept\"}", "the decisions give",
       WEIR_MODE_SMALL},
      {"tokens in all", "\"tokens\":24", "\"tokens\":25", "had 25 tokens", WEIR_MODE_SMALL},
      {"decisions in all", "\"decisions\":", "\"decisions\":1", "decisions, and", WEIR_MODE_SMALL},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int forged = 0; forged < 2; forged++) {
      char *text = write_file(rows[i].mode == WEIR_MODE_SMALL ? WEIR_MODE_DEFER : rows[i].mode);
      weir_err e = {0};
      weir_replay_report r;
      char *lie = rows[i].to ? changed(text, rows[i].from, rows[i].to, 0) : NULL;
      if (!rows[i].to) { /* the first row's entropy: from its second number on */
        char from[64], to[64];
        const char *p = strstr(text, rows[i].from) + strlen(rows[i].from);
        const size_t n = strcspn(strchr(p, ',') + 1, ",") + (size_t)(strchr(p, ',') + 1 - p);
        snprintf(from, sizeof from, "%s%.*s,", rows[i].from, (int)n, p);
        snprintf(to, sizeof to, "%s%.*s,%s,", rows[i].from, (int)strcspn(p, ","), p, "0.123456");
        lie = changed(text, from, to, 0);
      }
      if (!lie) fail_msg("%s: not there", rows[i].what);
      if (forged) forge(lie);
      if (read_all(lie, &r, &e) != WEIR_EINVAL) fail_msg("%s: %s", rows[i].what, e.msg);
      if (!strstr(e.msg, rows[i].told)) fail_msg("%s: %s", rows[i].what, e.msg);
      assert_int_equal(strncmp(e.msg, "line ", 5), 0);
      free(lie);
      free(text);
    }
}

/* Each line in turn is left out, or comes twice, with a chain that hides it. */
static void missing_lines(void **state) {
  (void)state;
  char *text = write_file(WEIR_MODE_ROLLBACK);
  int32_t n_lines = 0;
  for (const char *p = text; *p; p++) n_lines += *p == '\n';
  for (int32_t k = 0; k < n_lines; k++)
    for (int twice = 0; twice < 2; twice++) {
      weir_err e = {0};
      weir_replay_report r;
      char *out = calloc(2, strlen(text) + 1), *to = out;
      const char *p = text;
      for (int32_t i = 0; i < n_lines; i++) {
        const size_t n = strcspn(p, "\n") + 1;
        for (int copy = i == k ? 2 * twice : 1; copy > 0; copy--, to += n) memcpy(to, p, n);
        p += n;
      }
      forge(out);
      if (read_all(out, &r, &e) != WEIR_EINVAL)
        fail_msg("line %d, %s: %s", k + 1, twice ? "twice" : "missing", e.msg);
      free(out);
    }
  free(text);
}

/* Bytes changed at random: an error or none, never a crash. */
static void noise(void **state) {
  (void)state;
  char *text = write_file(WEIR_MODE_EXACT);
  const size_t len = strlen(text);
  int64_t refused = 0;
  for (int i = 0; i < 3000; i++) {
    weir_err e = {0};
    weir_replay_report r;
    char *out = strdup(text);
    for (uint32_t k = 1 + rnd(3); k > 0; k--) out[rnd((uint32_t)len)] = "0123456789-{}[]\",:.eInul"[rnd(24)];
    if (rnd(2)) forge(out);
    refused += read_all(out, &r, &e) != WEIR_OK;
    free(out);
  }
  assert_true(refused > 2000);
  free(text);
}

static void old_files(void **state) {
  (void)state;
  weir_err e = {0};
  weir_replay_report r;
  assert_int_equal(read_all("{\"request\":0,\"i\":0,\"id\":5}\n", &r, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "cannot be replayed"));
  assert_int_equal(read_all("nonsense\n", &r, &e), WEIR_EFORMAT);
  assert_int_equal(read_all("[1,2]\n", &r, &e), WEIR_EFORMAT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(all_is_well), cmocka_unit_test(lies),
                                     cmocka_unit_test(missing_lines), cmocka_unit_test(noise),
                                     cmocka_unit_test(old_files)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
