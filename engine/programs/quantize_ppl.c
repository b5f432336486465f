/* SPDX-License-Identifier: Apache-2.0 */
/* What a quantisation costs: perplexity of both files on a text of the user's. The text and the model are
 * looked at before the work, so that a wrong one is not found out after it. Owns nothing beyond its calls;
 * main thread. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "model/hparams.h"
#include "model/tokenizer.h"
#include "programs/interrupt.h"
#include "programs/perplexity.h"
#include "programs/prompts.h"
#include "programs/quantize.h"
#include "serve/pair.h"

enum { WINDOW = 512 }; /* tokens, as llama-perplexity has by default */

static weir_status encode(const weir_config *c, weir_tokenizer *tok, weir_tokens *ids, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf text = {0};
  const char *path = weir_config_string(c, "text");
  const int64_t limit = weir_config_int(c, "limit");
  WEIR_TRY(weir_read_file(path, &text, e));
  st = weir_encode_prompt(tok, text.data, text.len, false, ids, e);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "%s", path);
  if (limit > 0 && ids->n > limit) ids->n = (int32_t)limit;
out:
  weir_buf_fini(&text);
  return st;
}

weir_status weir_quantize_check_text(const weir_config *c, const char *in, const weir_mfile *m, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hparams h;
  weir_tokenizer *tok = NULL;
  weir_tokens ids = {0};
  if ((st = weir_hparams_read(m, &h, e)) != WEIR_OK || (st = weir_tokenizer_create(m, &tok, e)) != WEIR_OK) {
    weir_fail_ctx(e, st, "%s", in);
    goto out;
  }
  WEIR_TRY(encode(c, tok, &ids, e));
  const int32_t window = h.n_ctx < WINDOW ? h.n_ctx : WINDOW;
  if (ids.n < window)
    st = weir_fail(e, WEIR_EINVAL, "%s: %d tokens, want %d at least to measure perplexity",
                   weir_config_string(c, "text"), ids.n, window);
out:
  weir_tokens_fini(&ids);
  weir_tokenizer_destroy(tok);
  return st;
}

typedef struct show {
  bool on, shown;
} show;

static bool progress(void *ctx, int64_t done, int64_t total, const double *ppl) {
  show *s = ctx;
  if (s->on) {
    fprintf(stderr, "\r\033[Kperplexity %lld/%lld: %.4f before, %.4f after", (long long)done,
            (long long)total, ppl[1], ppl[0]);
    fflush(stderr);
    s->shown = true;
  }
  return weir_interrupt_pending() == 0;
}

weir_status weir_quantize_measure(const weir_config *c, const weir_out *o, weir_quantize_total *t,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pair *pair = NULL;
  weir_tokens ids = {0};
  weir_ppl p;
  show s = {.on = o->terminal_err && !weir_config_bool(c, "quiet")};
  /* the new file in the place of the small model: both see the same windows, and agreement is counted too */
  weir_pair_opts opts = {.small_path = t->out,
                         .large_path = t->in,
                         .n_threads = (int32_t)weir_config_int(c, "threads"),
                         .n_ctx = WINDOW,
                         .max_seqs = 1,
                         .kv_dtype = WEIR_F16};
  weir_ppl_opts how = {.n_ctx = WINDOW, .progress = progress, .progress_ctx = &s};
  WEIR_TRY(weir_pair_open(&opts, &pair, e));
  weir_exec *const tier[] = {weir_pair_exec(pair, 0), weir_pair_exec(pair, 1)};
  for (int32_t i = 0; i < 2; i++)
    if (tier[i]->info.n_ctx < how.n_ctx) how.n_ctx = tier[i]->info.n_ctx;
  WEIR_TRY(encode(c, weir_pair_tokenizer(pair), &ids, e));
  st = weir_perplexity(tier, 2, weir_pair_tokenizer(pair), &ids, &how, &p, e);
  if (s.shown) fprintf(stderr, "\r\033[K");
  if (st != WEIR_OK) goto out;
  t->ppl_out = p.tier[0].ppl;
  t->ppl_in = p.tier[1].ppl;
  t->ppl_error = p.tier[1].ppl_error;
  t->same_top1 = p.pair.top1;
  t->n_scored = p.n_scored;
out:
  weir_tokens_fini(&ids);
  weir_pair_close(pair);
  return st;
}
