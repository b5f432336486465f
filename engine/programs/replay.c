/* SPDX-License-Identifier: Apache-2.0 */
/* `weir replay`: a file of receipts, every decision derived again. Main thread. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "programs/options.h"
#include "programs/out.h"
#include "programs/replay_file.h"

enum { LONGEST_LINE = 1 << 28 };

static weir_status read_lines(FILE *f, const char *path, weir_replay_reader *r, weir_err *e) {
  char *line = NULL;
  size_t cap = 0;
  ssize_t n;
  weir_status st = WEIR_OK;
  errno = 0;
  while (st == WEIR_OK && (n = getline(&line, &cap, f)) >= 0) {
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
    if (n > LONGEST_LINE)
      st = weir_fail(e, WEIR_EFORMAT, "a line of %zd bytes", n);
    else if (n > 0)
      st = weir_replay_reader_line(r, line, (size_t)n, e);
  }
  if (st == WEIR_OK && ferror(f)) st = weir_fail(e, WEIR_EIO, "%s", strerror(errno));
  free(line);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s", path);
}

static json_t *counts(const int64_t *n, int32_t count, const char *(*name)(int)) {
  json_t *o = json_object();
  for (int32_t i = 0; o && i < count; i++)
    if (n[i] > 0) json_object_set_new(o, name(i), json_integer(n[i]));
  return o;
}

static const char *reason_of(int i) { return weir_reason_name((weir_reason)i); }
static const char *why_of(int i) { return weir_why_name((weir_why)i); }

static void tell_json(weir_out *out, const weir_replay_report *p, const weir_err *e) {
  weir_out_json(
      out,
      json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s?}", "schema", "weir.replay.v1", "same",
                e == NULL, "requests", (json_int_t)p->requests, "decisions", (json_int_t)p->decisions,
                "tokens", (json_int_t)p->tokens, "switches", (json_int_t)p->switches, "wanted_up",
                (json_int_t)p->wanted_up, "reasons", counts(p->by_reason, WEIR_GAVE_UP + 1, reason_of),
                "written", counts(p->by_why, WEIR_WHY_ROUTED + 1, why_of), "mismatch", e ? e->msg : NULL));
}

static void tell_text(weir_out *out, const weir_replay_report *p) {
  weir_out_printf(out, "%" PRId64 " %s, %" PRId64 " decisions, %" PRId64 " tokens: all as the policy says\n",
                  p->requests, p->requests == 1 ? "request" : "requests", p->decisions, p->tokens);
  for (int i = 0; i <= WEIR_GAVE_UP; i++)
    if (p->by_reason[i] > 0) weir_out_printf(out, "  %-10s %8" PRId64 "\n", reason_of(i), p->by_reason[i]);
  if (p->switches > 0) weir_out_printf(out, "  %-10s %8" PRId64 "\n", "switched", p->switches);
  weir_out_printf(out, "tokens by how they came\n");
  for (int i = 0; i <= WEIR_WHY_ROUTED; i++)
    if (p->by_why[i] > 0) weir_out_printf(out, "  %-10s %8" PRId64 "\n", why_of(i), p->by_why[i]);
  if (p->wanted_up > 0) weir_out_printf(out, "  %-10s %8" PRId64 "\n", "wanted", p->wanted_up);
}

int weir_main_replay(const weir_config *c) {
  weir_out out;
  weir_err e = {0};
  weir_replay_reader *r = NULL;
  weir_replay_report report = {0};
  int32_t n = 0;
  const char *const *file = weir_config_operands(c, &n);
  weir_out_init(&out, c);
  if (n != 1) {
    weir_fail(&e, WEIR_EINVAL, "want one file of receipts, got %d", (int)n);
    return weir_tell_usage("replay", &e);
  }
  const bool in = !strcmp(file[0], "-");
  FILE *f = in ? stdin : fopen(file[0], "rb");
  weir_status st = f ? WEIR_OK : weir_fail(&e, WEIR_EIO, "%s: %s", file[0], strerror(errno));
  if (st == WEIR_OK) st = weir_replay_reader_create(&r, &e);
  if (st == WEIR_OK) st = read_lines(f, in ? "standard input" : file[0], r, &e);
  if (st == WEIR_OK) st = weir_replay_reader_end(r, &report, &e);
  if (r) report = weir_replay_reader_report(r);
  if (st == WEIR_OK && report.requests == 0)
    st = weir_fail(&e, WEIR_EFORMAT, "%s: there is no request in it", file[0]);
  if (weir_config_bool(c, "json"))
    tell_json(&out, &report, st == WEIR_OK ? NULL : &e);
  else if (st == WEIR_OK)
    tell_text(&out, &report);
  if (f && !in) fclose(f);
  weir_replay_reader_destroy(r);
  if (st != WEIR_OK) weir_tell(&e, 0);
  if (!weir_out_end(&out)) return weir_tell(&out.err, WEIR_EXIT_FAILED);
  return st == WEIR_OK ? WEIR_EXIT_OK : WEIR_EXIT_FAILED;
}
