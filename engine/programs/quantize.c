/* SPDX-License-Identifier: Apache-2.0 */
/* `weir quantize`: a model file in, a GGUF file with other types of weights out. Everything is decided,
 * checked and shown first; then the work runs on all cores while the main thread writes, shows progress and
 * looks at the signals. Owns the open file, the plan and the writer. */
#include "programs/quantize.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "programs/inspect.h"
#include "programs/interrupt.h"
#include "programs/options.h"
#include "programs/quantize_hf.h"

enum { QUANTIZATION_VERSION = 2 }; /* ggml's GGML_QNT_VERSION: how blocks are laid out */

typedef struct job {
  const weir_config *c;
  weir_out *o;
  const char *in, *out; /* out NULL: none named (dry run) */
  weir_mfile *file;
  weir_gguf_writer *w;
  weir_pool *pool;
  weir_quantize_plan plan;
  weir_quantize_total total;
  /* progress */
  weir_clock clock;
  int64_t began_ns, shown_ns;
  bool line;    /* a line of progress stands on the terminal */
  bool working; /* what fails now is not the user's choice of options */
} job;

/* ---- metadata ---- */

/* Keys that are written anew, and those of a file in parts: the result is one. */
static bool is_ours(weir_str key) {
  static const char *const ours[] = {"general.file_type", "general.quantization_version", "split.no",
                                     "split.count", "split.tensors.count"};
  for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
    if (weir_str_eq(key, weir_str_of(ours[i]))) return true;
  return false;
}

static weir_status write_keys(job *j, weir_err *e) {
  weir_status st = WEIR_OK;
  bool any = false;
  const weir_gguf *g = weir_mfile_gguf(j->file);
  for (int64_t i = 0; g && i < weir_gguf_n_keys(g); i++)
    if (!is_ours(weir_gguf_key(g, i))) WEIR_TRY(weir_gguf_writer_copy(j->w, g, i, e));
  if (!g) {
    WEIR_TRY(weir_quantize_hf_keys(j->file, j->w, e));
    WEIR_TRY(weir_quantize_hf_tokenizer(j->file, j->w, e));
  }
  for (int64_t i = 0; i < j->plan.n; i++) any |= weir_dtype_is_quant(j->plan.tensor[i].to);
  WEIR_TRY(weir_gguf_writer_u32(j->w, "general.file_type", weir_quantize_file_type(&j->plan), e));
  if (any) WEIR_TRY(weir_gguf_writer_u32(j->w, "general.quantization_version", QUANTIZATION_VERSION, e));
out:
  return st;
}

/* ---- progress ---- */

static void show_progress(job *j, uint64_t done, uint64_t total) {
  enum { EVERY_NS = 100 * 1000 * 1000 };
  const int64_t now = weir_now_ns(&j->clock);
  if (!j->o->terminal_err || weir_config_bool(j->c, "quiet") || now - j->shown_ns < EVERY_NS) return;
  const double s = (double)(now - j->began_ns) / 1e9, rate = s > 0 ? (double)done / s : 0;
  const int64_t left = rate > 0 ? (int64_t)((double)(total - done) / rate + 0.5) : 0;
  char a[32], b[32];
  weir_bytes_text((double)done, a, sizeof a);
  weir_bytes_text((double)total, b, sizeof b);
  fprintf(stderr, "\r\033[K%3d %%  %s of %s  %.0f MB/s  %lld:%02lld left",
          total ? (int)(100.0 * (double)done / (double)total) : 100, a, b, rate / 1e6, (long long)(left / 60),
          (long long)(left % 60));
  fflush(stderr);
  j->shown_ns = now;
  j->line = true;
}

static void clear_progress(job *j) {
  if (j->line) fprintf(stderr, "\r\033[K");
  j->line = false;
}

static bool report(void *ctx, int64_t tensor, uint64_t done, uint64_t total) {
  job *j = ctx;
  const bool json = weir_config_bool(j->c, "json");
  if (tensor >= 0 && (json || weir_config_bool(j->c, "verbose"))) {
    clear_progress(j);
    if (json)
      weir_quantize_json_tensor(&j->plan, tensor, true, j->o);
    else
      weir_quantize_show_tensor(&j->plan, tensor, true, j->o);
    weir_out_flush(j->o);
  }
  show_progress(j, done, total);
  return weir_interrupt_pending() == 0;
}

/* ---- the parts ---- */

static void warn(const job *j) {
  for (int32_t r = 0; r < j->plan.n_rules; r++)
    if (j->plan.rule[r].n_tensors == 0)
      weir_log(WEIR_LOG_WARN, "rule %s decides no tensor", j->plan.rule[r].text);
}

static void show_plan(job *j, bool dry) {
  const bool json = weir_config_bool(j->c, "json"), verbose = weir_config_bool(j->c, "verbose");
  const bool quiet = weir_config_bool(j->c, "quiet") && !dry && !json;
  warn(j);
  if (quiet) return;
  for (int64_t i = 0; dry && i < j->plan.n; i++)
    if (json)
      weir_quantize_json_tensor(&j->plan, i, false, j->o);
    else if (verbose)
      weir_quantize_show_tensor(&j->plan, i, false, j->o);
  if (json && dry) weir_quantize_json_total(&j->plan, &j->total, j->o);
  if (!json) weir_quantize_show_plan(&j->plan, &j->total, verbose, j->o);
  weir_out_flush(j->o);
}

static weir_status prepare(job *j, weir_err *e) {
  weir_status st = WEIR_OK;
  struct stat info;
  WEIR_TRY(weir_quantize_paths(j->c, &j->in, &j->out, e));
  WEIR_TRY(weir_mfile_open(j->in, &j->file, e));
  st = weir_quantize_plan_make(j->c, j->file, &j->plan, e);
  if (st != WEIR_OK && st != WEIR_EINVAL) weir_fail_ctx(e, st, "%s", j->in); /* that would be an option */
  if (st != WEIR_OK) goto out;
  if (weir_config_string(j->c, "text")) WEIR_TRY(weir_quantize_check_text(j->c, j->in, j->file, e));
  j->total.in = j->in;
  j->total.out = j->out;
  /* of a model in several files, what their tensors have */
  const bool one =
      stat(j->in, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size > j->plan.bytes_in;
  j->total.file_in = one ? (uint64_t)info.st_size : j->plan.bytes_in;
  WEIR_TRY(weir_gguf_writer_create(j->out, weir_config_bool(j->c, "force"), &j->w, e));
  st = write_keys(j, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "%s", j->in);
    goto out;
  }
  WEIR_TRY(weir_quantize_declare(&j->plan, j->w, e));
  WEIR_TRY(weir_gguf_writer_total(j->w, &j->total.file_out, e));
out:
  return st;
}

static weir_status convert(job *j, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_quantize_watch watch = {report, j};
  const weir_pool_opts team = {.n_threads = (int32_t)weir_config_int(j->c, "threads"), .no_pin = true};
  j->working = true;
  WEIR_TRY(weir_pool_create(&team, &j->pool, e));
  weir_interrupt_init();
  signal(SIGXFSZ, SIG_IGN); /* a limit on the size of files is an error of the write, as a full disk is */
  j->clock = weir_clock_system();
  j->began_ns = weir_now_ns(&j->clock);
  WEIR_TRY(weir_quantize_work(&j->plan, j->file, j->w, j->pool, &watch, e));
  WEIR_TRY(weir_gguf_writer_finish(j->w, e));
  j->total.seconds = (double)(weir_now_ns(&j->clock) - j->began_ns) / 1e9;
out:
  clear_progress(j);
  return st;
}

static weir_status quantize(job *j, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool dry = weir_config_bool(j->c, "dry-run");
  WEIR_TRY(prepare(j, e));
  show_plan(j, dry);
  if (dry) return WEIR_OK;
  WEIR_TRY(convert(j, e));
  if (weir_config_string(j->c, "text")) {
    st = weir_quantize_measure(j->c, j->o, &j->total, e);
    if (st != WEIR_OK) {
      weir_fail_ctx(e, st, "%s is written, but its perplexity could not be measured", j->out);
      goto out;
    }
  }
  if (weir_config_bool(j->c, "json"))
    weir_quantize_json_total(&j->plan, &j->total, j->o);
  else if (!weir_config_bool(j->c, "quiet"))
    weir_quantize_show_total(&j->plan, &j->total, j->o);
out:
  return st;
}

int weir_main_quantize(const weir_config *c) {
  weir_out out;
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  job j = {.c = c, .o = &out};
  weir_out_init(&out, c);
  const weir_status st = quantize(&j, &e);
  weir_gguf_writer_close(j.w);
  weir_pool_destroy(j.pool);
  weir_quantize_plan_fini(&j.plan);
  weir_mfile_close(j.file);
  if (st == WEIR_ECANCEL && weir_interrupt_pending())
    status = 128 + weir_interrupt_pending();
  else if (st != WEIR_OK)
    status =
        st == WEIR_EINVAL && !j.working ? weir_tell_usage("quantize", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  if (!weir_out_end(&out)) status = weir_tell(&out.err, WEIR_EXIT_FAILED);
  return status;
}
