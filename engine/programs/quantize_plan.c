/* SPDX-License-Identifier: Apache-2.0 */
/* Which type every tensor of a model gets, and that it can be had: decided before anything is written. Owns
 * the compiled rules; reads the options and the model file's index, never its tensors' bytes. Main thread. */
#define _GNU_SOURCE           /* memmem */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "kernels/quant.h"
#include "programs/quantize.h"
#include "programs/quantize_hf.h"

/* ---- types ---- */

static bool find_type(const char *name, weir_dtype *out) {
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    if (strcasecmp(name, weir_dtype_get((weir_dtype)t)->name) != 0) continue;
    *out = (weir_dtype)t;
    return true;
  }
  return false;
}

/* Some types can be read and not written; a block of zeros tells. */
static weir_status can_write(weir_dtype t, weir_err *e) {
  enum { MOST = 1024 };
  float zero[256] = {0};
  uint8_t block[MOST];
  const weir_dtype_info *info = weir_dtype_get(t);
  if (info->block_elems > 256 || info->block_bytes > MOST)
    return weir_fail(e, WEIR_EUNSUP, "%s cannot be written", info->name);
  return weir_quantize_row(t, zero, block, info->block_elems, e);
}

/* Type by name, in any case; `option` for the messages. */
static weir_status parse_type(const char *option, const char *name, weir_dtype *out, weir_err *e) {
  const size_t n = strlen(name);
  if (!find_type(name, out)) {
    /* llama.cpp's names of mixtures: Q4_K_M is mostly Q4_K */
    if (n == 6 && name[4] == '_' && strchr("SMLsml", name[5]) && (name[3] == 'K' || name[3] == 'k'))
      return weir_fail(e, WEIR_EINVAL,
                       "%s: %s is a mixture of types: say %.4s, and what shall differ with --rule", option,
                       name, name);
    return weir_fail(e, WEIR_EINVAL, "%s: %.40s is not a type (known: %s)", option, name, weir_dtype_names());
  }
  const weir_status st = can_write(*out, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, WEIR_EINVAL, "%s", option);
}

/* The next coarser need of blocks for rows that `t` does not fit: from 256 to 32 elements at no less
 * precision (a 5-bit type for a 4-bit one), then to none. */
static weir_dtype next_type(weir_dtype t) {
  weir_err e;
  switch (t) {
    case WEIR_Q4_K: return can_write(WEIR_Q5_0, &e) == WEIR_OK ? WEIR_Q5_0 : WEIR_Q8_0;
    case WEIR_Q5_K:
    case WEIR_Q6_K: return WEIR_Q8_0;
    default: return WEIR_F16;
  }
}

static bool fits(const weir_tensor_info *in, weir_dtype t) {
  return in->dim[0] % weir_dtype_get(t)->block_elems == 0;
}

static weir_dtype fitting(const weir_tensor_info *in, weir_dtype wanted) {
  weir_dtype t = wanted;
  while (!fits(in, t)) t = next_type(t); /* ends: F16 has no blocks */
  /* what must stay in 16 bits stays what it is: BF16 reaches further than F16 */
  return t != wanted && t == WEIR_F16 && in->dtype == WEIR_BF16 ? WEIR_BF16 : t;
}

/* What the head gets unless told: where the others have fewer than 6 bits it has more, as it is read whole
 * for every token and its errors go straight to the logits. */
static weir_dtype default_head(weir_dtype type, const weir_tensor_info *in) {
  const weir_dtype_info *info = weir_dtype_get(type);
  const double bits = 8.0 * info->block_bytes / info->block_elems;
  if (bits >= 6) return type;
  weir_err e;
  return fits(in, WEIR_Q6_K) && can_write(WEIR_Q6_K, &e) == WEIR_OK ? WEIR_Q6_K : WEIR_Q8_0;
}

/* ---- rules ---- */

static weir_status parse_rule(const char *text, weir_quantize_rule *r, weir_err *e) {
  int code;
  PCRE2_SIZE at;
  const char *eq = strrchr(text, '=');
  if (!eq || eq == text) return weir_fail(e, WEIR_EINVAL, "--rule: \"%.80s\": want REGEX=TYPE", text);
  r->text = text;
  weir_status st = parse_type("--rule", eq + 1, &r->to, e);
  if (st != WEIR_OK) return st;
  r->code = pcre2_compile((PCRE2_SPTR)text, (PCRE2_SIZE)(eq - text), 0, &code, &at, NULL);
  if (r->code) return WEIR_OK;
  PCRE2_UCHAR why[120];
  pcre2_get_error_message(code, why, sizeof why);
  return weir_fail(e, WEIR_EINVAL, "--rule: \"%.80s\": %s at character %zu", text, (const char *)why, at + 1);
}

/* 1: matches, 0: does not, below: an error of PCRE2, which has limits on what a match may cost. */
static int matches(const weir_quantize_rule *r, weir_str name) {
  pcre2_match_data *m = pcre2_match_data_create(1, NULL);
  if (!m) return PCRE2_ERROR_NOMEMORY;
  const int n = pcre2_match(r->code, (PCRE2_SPTR)name.data, name.len, 0, 0, m, NULL);
  pcre2_match_data_free(m);
  return n >= 0 ? 1 : n == PCRE2_ERROR_NOMATCH ? 0 : n;
}

static weir_status read_rules(const weir_config *c, weir_quantize_plan *p, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const char *const *text = weir_config_strings(c, "rule", &n);
  WEIR_TRY(WEIR_NEW((size_t)n, &p->rule, e));
  p->n_rules = n;
  for (int32_t i = 0; i < n; i++) WEIR_TRY(parse_rule(text[i], &p->rule[i], e));
out:
  return st;
}

/* ---- tensors ---- */

static bool contains(weir_str s, const char *part) {
  return memmem(s.data, s.len, part, strlen(part)) != NULL;
}

static bool named(weir_str s, const char *name) { return weir_str_eq(s, weir_str_of(name)); }

/* Matrices that are not weights of a linear, or so small and touchy that nobody rounds them: those llama.cpp
 * leaves alone too. */
static bool left_alone(weir_str name) {
  static const char *const parts[] = {
      "_norm.weight",        "ffn_gate_inp.weight", "position_embd", "token_types", "rope_",
      "ssm_conv1d",          "shortconv.conv",      "time_mix_",     "altup",       "laurel",
      "per_layer_model_proj"};
  static const char end[] = ".weight";
  const size_t n = sizeof end - 1;
  if (name.len < n || memcmp(name.data + name.len - n, end, n) != 0) return true; /* biases of experts, say */
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (contains(name, parts[i])) return true;
  return false;
}

typedef struct choice {
  weir_dtype type, head, embed;
  bool head_said, embed_said;
} choice;

static weir_status read_choice(const weir_config *c, choice *o, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *head = weir_config_string(c, "head"), *embed = weir_config_string(c, "embed");
  WEIR_TRY(parse_type("--type", weir_config_string(c, "type"), &o->type, e));
  if (head) WEIR_TRY(parse_type("--head", head, &o->head, e));
  if (embed) WEIR_TRY(parse_type("--embed", embed, &o->embed, e));
  o->head_said = head != NULL;
  o->embed_said = embed != NULL;
out:
  return st;
}

/* Sets wanted, why and rule. */
static weir_status choose(weir_quantize_plan *p, const choice *o, weir_quantize_tensor *t, weir_err *e) {
  const weir_str name = t->in.name;
  const bool is_embed = named(name, "token_embd.weight"),
             is_head = named(name, p->tied ? "token_embd.weight" : "output.weight");
  if (t->rows == 1) {
    t->why = WEIR_BY_VECTOR;
    t->wanted = weir_dtype_is_quant(t->in.dtype) ? t->in.dtype : WEIR_F32;
    return WEIR_OK;
  }
  for (int32_t r = 0; r < p->n_rules; r++) {
    const int m = matches(&p->rule[r], name);
    if (m < 0) return weir_fail(e, WEIR_EINVAL, "--rule: \"%.80s\": takes too much work", p->rule[r].text);
    if (m == 0) continue;
    t->why = WEIR_BY_RULE;
    t->rule = r;
    t->wanted = p->rule[r].to;
    p->rule[r].n_tensors++;
    return WEIR_OK;
  }
  if (left_alone(name)) {
    t->why = WEIR_BY_KIND;
    t->wanted = p->from_hf && !weir_dtype_is_quant(t->in.dtype) ? WEIR_F32 : t->in.dtype;
  } else if (is_embed && o->embed_said) {
    t->why = WEIR_BY_EMBED;
    t->wanted = o->embed;
  } else if (is_head) {
    t->why = WEIR_BY_HEAD;
    t->wanted = o->head_said ? o->head : default_head(o->type, &t->in);
    if (t->wanted == o->type && !o->head_said) t->why = WEIR_BY_TYPE;
  } else {
    t->why = WEIR_BY_TYPE;
    t->wanted = o->type;
  }
  return WEIR_OK;
}

static weir_status plan_tensor(weir_quantize_plan *p, const choice *o, bool requantize,
                               weir_quantize_tensor *t, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  t->rows = 1;
  for (int32_t d = 1; d < WEIR_GGUF_MAX_DIMS; d++)
    if (__builtin_mul_overflow(t->rows, t->in.dim[d], &t->rows)) t->rows = 0;
  if (t->rows < 1 || __builtin_mul_overflow(t->rows, t->in.dim[0], &t->elems))
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: its size overflows", weir_str_show(t->in.name, shown));
  WEIR_TRY(choose(p, o, t, e));
  t->to = fitting(&t->in, t->wanted);
  t->twice = t->to != t->in.dtype && weir_dtype_is_quant(t->in.dtype);
  if (t->twice && !requantize) {
    st = weir_fail(
        e, WEIR_EINVAL,
        "tensor %s is %s already; --requantize makes %s of that all the same, and both roundings are in "
        "the result: better to start from F32, F16 or BF16",
        weir_str_show(t->in.name, shown), weir_dtype_get(t->in.dtype)->name, weir_dtype_get(t->to)->name);
    goto out;
  }
  WEIR_TRY(weir_dtype_row_bytes(t->in.dtype, t->in.dim[0], &t->in_row_bytes, e));
  WEIR_TRY(weir_dtype_row_bytes(t->to, t->in.dim[0], &t->out_row_bytes, e));
  if (!weir_mul_size(t->out_row_bytes, (size_t)t->rows, &t->out_bytes))
    st = weir_fail(e, WEIR_EINVAL, "tensor %s: its size overflows", weir_str_show(t->in.name, shown));
out:
  return st;
}

static weir_status list_tensors(const weir_mfile *m, weir_quantize_plan *p, weir_err *e) {
  p->n = weir_mfile_n_tensors(m);
  const weir_status st = WEIR_NEW((size_t)p->n, &p->tensor, e);
  for (int64_t i = 0; st == WEIR_OK && i < p->n; i++) weir_mfile_tensor_at(m, i, &p->tensor[i].in);
  return st;
}

weir_status weir_quantize_plan_make(const weir_config *c, const weir_mfile *m, weir_quantize_plan *out,
                                    weir_err *e) {
  weir_status st = WEIR_OK;
  choice o = {0};
  weir_quantize_plan *p = out;
  *p = (weir_quantize_plan){0};
  WEIR_TRY(read_choice(c, &o, e));
  WEIR_TRY(read_rules(c, p, e));
  p->type = o.type;
  p->from_hf = weir_mfile_hf(m) != NULL;
  if (p->from_hf)
    WEIR_TRY(weir_quantize_hf_list(m, &p->tensor, &p->n, e));
  else
    WEIR_TRY(list_tensors(m, p, e));
  p->tied = true;
  for (int64_t i = 0; i < p->n; i++) p->tied &= !named(p->tensor[i].in.name, "output.weight");
  if (p->tied && o.head_said && o.embed_said && o.head != o.embed) {
    st = weir_fail(e, WEIR_EINVAL,
                   "--head and --embed: in this model they are one tensor, say one of the two");
    goto out;
  }
  for (int64_t i = 0; i < p->n; i++) {
    weir_quantize_tensor *t = &p->tensor[i];
    WEIR_TRY(plan_tensor(p, &o, weir_config_bool(c, "requantize"), t, e));
    p->elems += t->elems;
    p->bytes_in += (uint64_t)t->in_row_bytes * (uint64_t)t->rows;
    p->bytes_out += t->out_bytes;
    p->n_fallbacks += t->to != t->wanted;
    p->n_twice += t->twice;
  }
out:
  if (st != WEIR_OK) weir_quantize_plan_fini(p);
  return st;
}

void weir_quantize_plan_fini(weir_quantize_plan *p) {
  for (int32_t i = 0; p->rule && i < p->n_rules; i++) pcre2_code_free(p->rule[i].code);
  for (int64_t i = 0; p->tensor && i < p->n; i++) free(p->tensor[i].made);
  free(p->rule);
  free(p->tensor);
  *p = (weir_quantize_plan){0};
}

/* Numbers: ggml's docs/gguf.md, general.file_type. The K types have several, for llama.cpp's mixtures; the
 * small one ("S") is the one that is nearly all of one type. */
uint32_t weir_quantize_file_type(const weir_quantize_plan *p) {
  enum { GUESSED = 1024 };
  static const struct {
    weir_dtype type;
    uint32_t number;
  } of[] = {{WEIR_F32, 0},   {WEIR_F16, 1},   {WEIR_Q4_0, 2},  {WEIR_Q8_0, 7}, {WEIR_Q5_0, 8},
            {WEIR_Q4_K, 14}, {WEIR_Q5_K, 16}, {WEIR_Q6_K, 18}, {WEIR_BF16, 32}};
  int64_t elems[WEIR_DTYPE_COUNT] = {0};
  int most = 0;
  for (int64_t i = 0; i < p->n; i++) elems[p->tensor[i].to] += p->tensor[i].elems;
  for (int t = 1; t < WEIR_DTYPE_COUNT; t++)
    if (elems[t] > elems[most]) most = t;
  for (size_t i = 0; i < sizeof of / sizeof *of; i++)
    if (of[i].type == (weir_dtype)most) return of[i].number;
  return GUESSED;
}
