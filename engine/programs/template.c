/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of a chat format, for `weir chat` and `weir serve`. Main thread. */
#include "programs/template.h"

#include <string.h>

#include "base/log.h"
#include "programs/prompts.h"

weir_status weir_template_named(const char *name, weir_buf *jinja, weir_chat_format *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_format f;
  weir_buf text = {0};
  if (weir_chat_by_name(name, &f)) {
    *out = f;
    return WEIR_OK;
  }
  if (!strchr(name, '.') && !strchr(name, '/'))
    return weir_fail(e, WEIR_EINVAL, "template %s is not known; there are %s, or a file of Jinja", name,
                     weir_chat_names());
  WEIR_TRY(weir_read_file(name, &text, e));
  WEIR_TRY(weir_chat_detect((weir_str){text.data, text.len}, &f, e));
  weir_buf_fini(jinja);
  *jinja = text;
  text = (weir_buf){0};
  *out = f;
out:
  weir_buf_fini(&text);
  return st;
}

static bool contains(weir_str text, const char *word) {
  const size_t len = strlen(word);
  for (size_t i = 0; i + len <= text.len; i++)
    if (!memcmp(text.data + i, word, len)) return true;
  return false;
}

weir_status weir_template_own(const weir_pair *pair, weir_chat_format *out, bool *dated, weir_err *e) {
  const weir_str jinja = weir_pair_template(pair, weir_pair_n_tiers(pair) - 1),
                 other = weir_pair_template(pair, 0);
  const weir_status st = weir_chat_detect(jinja, out, e);
  if (st != WEIR_OK) return st;
  *dated = contains(jinja, "strftime_now");
  if (weir_str_eq(jinja, other)) return WEIR_OK;
  weir_chat_format small;
  weir_err why;
  const bool known = weir_chat_detect(other, &small, &why) == WEIR_OK;
  if (!known || small.style != out->style || !weir_str_eq(small.default_system, out->default_system))
    weir_log(WEIR_LOG_WARN, "the chat templates differ: small %s, large %s; the large model's is used",
             known       ? weir_chat_name(&small)
             : other.len ? "unknown"
                         : "none",
             weir_chat_name(out));
  return WEIR_OK;
}
