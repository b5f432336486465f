/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the models of a server. Main thread; what is opened belongs to the service's threads afterwards. */
#include "programs/serve_models.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "kernels/dtype.h"
#include "model/mfile.h"
#include "programs/template.h"

static const char *main_type(const weir_mfile *f) {
  int64_t bytes[WEIR_DTYPE_COUNT] = {0};
  int32_t best = 0;
  for (int64_t i = 0; i < weir_mfile_n_tensors(f); i++) {
    weir_tensor_info t;
    weir_mfile_tensor_at(f, i, &t);
    bytes[t.dtype] += (int64_t)t.bytes;
  }
  for (int32_t i = 1; i < WEIR_DTYPE_COUNT; i++)
    if (bytes[i] > bytes[best]) best = i;
  return weir_dtype_get((weir_dtype)best)->name;
}

static void last_part(const char *path, char *out, size_t bytes) {
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') n--;
  size_t from = n;
  while (from > 0 && path[from - 1] != '/') from--;
  snprintf(out, bytes, "%.*s", (int)(n - from < bytes ? n - from : bytes - 1), path + from);
}

/* The facts of one model's file; from the last one, whose tokenizer the pair has, two more of it: one for
 * short texts and one for long ones, each for a thread of its own. */
static weir_status look_into(weir_served *s, int32_t tier, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mfile *f = NULL;
  weir_served_tier *t = &s->tier[tier];
  t->name = s->models.tier_name[tier];
  last_part(path, t->model, sizeof t->model);
  snprintf(t->device, sizeof t->device, "%s", weir_pair_device(s->models.pair, tier));
  WEIR_TRY(weir_mfile_open(path, &f, e));
  t->type = main_type(f);
  if (tier == s->models.n_tiers - 1) {
    WEIR_TRY(weir_tokenizer_create(f, &s->prepare, e));
    WEIR_TRY(weir_tokenizer_create(f, &s->prepare_long, e));
  }
out:
  weir_mfile_close(f);
  return st;
}

static void choose_format(const weir_serve_settings *set, weir_served *s) {
  weir_err why = {0};
  bool dated;
  if (set->has_format) {
    s->format = set->format;
    s->has_chat = true;
  } else if (weir_template_own(s->models.pair, &s->format, &dated, &why) == WEIR_OK) {
    s->has_chat = true;
  } else {
    weir_log(WEIR_LOG_WARN, "chats are refused, texts are not: %s", why.msg);
  }
}

weir_status weir_served_open(const weir_serve_settings *set, weir_served *s, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_out out = {.terminal_err = isatty(STDERR_FILENO) != 0 &&
                                        !strcmp(weir_config_string(set->c, "log-format"), "text")};
  *s = (weir_served){.models = {.large = -1}};
  WEIR_TRY(
      weir_load(set->c, &set->paths, (int32_t)weir_config_int(set->c, "max-active"), &out, &s->models, e));
  s->n_ctx = INT32_MAX;
  for (int32_t t = 0; t < s->models.n_tiers; t++) {
    const int32_t n_ctx = weir_pair_exec(s->models.pair, t)->info.n_ctx;
    if (n_ctx < s->n_ctx) s->n_ctx = n_ctx;
    WEIR_TRY(look_into(s, t, t == s->models.large ? set->paths.large : set->paths.small, e));
  }
  choose_format(set, s);
out:
  return st;
}

void weir_served_close(weir_served *s) {
  weir_tokenizer_destroy(s->prepare);
  weir_tokenizer_destroy(s->prepare_long);
  weir_loaded_close(&s->models);
  *s = (weir_served){.models = {.large = -1}};
}
