/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a tokenizer.json, from the names of the tokenizers library into the description's. Owns
 * nothing; calls jansson; one thread. What a step does that is not done here, it is refused for. */
#include <inttypes.h>

#include "base/buf.h"
#include "model/charsmap.h"
#include "model/tok_json.h"
#include "model/tok_tables.h"
#include "model/utf8.h"

/* ---- values ---- */

weir_str weir_json_str(const json_t *string) {
  return (weir_str){json_string_value(string), json_string_length(string)};
}

weir_status weir_tok_json_text(const json_t *object, const char *key, weir_str *out, weir_err *e) {
  const json_t *v = json_object_get(object, key);
  if (!json_is_string(v)) return weir_fail(e, WEIR_EFORMAT, "\"%s\": want a string", key);
  *out = weir_json_str(v);
  return WEIR_OK;
}

weir_status weir_json_flag(const json_t *object, const char *key, bool def, bool *out, weir_err *e) {
  const json_t *v = json_object_get(object, key);
  *out = def;
  if (!v || json_is_null(v)) return WEIR_OK;
  if (!json_is_boolean(v)) return weir_fail(e, WEIR_EFORMAT, "\"%s\": want true or false", key);
  *out = json_is_true(v);
  return WEIR_OK;
}

weir_status weir_json_type(const json_t *step, weir_str *out, weir_err *e) {
  if (!json_is_object(step)) return weir_fail(e, WEIR_EFORMAT, "want an object");
  return weir_tok_json_text(step, "type", out, e);
}

static bool is(weir_str name, const char *s) { return weir_str_eq(name, weir_str_of(s)); }

static weir_status refuse(weir_str type, const char *known, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, WEIR_EUNSUP, "%s is not supported (known: %s)", weir_str_show(type, shown), known);
}

/* {"String": "..."} or {"Regex": "..."} */
static weir_status pattern(const json_t *step, weir_str *out, bool *is_regex, weir_err *e) {
  const json_t *p = json_object_get(step, "pattern");
  *is_regex = json_object_get(p, "Regex") != NULL;
  const weir_status st = weir_tok_json_text(p, *is_regex ? "Regex" : "String", out, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "\"pattern\"");
  return out->len ? WEIR_OK : weir_fail(e, WEIR_EUNSUP, "an empty pattern is not supported");
}

/* One character, as UTF-8. */
static weir_status one_char(const json_t *step, const char *key, weir_str *out, weir_err *e) {
  int32_t len;
  const weir_status st = weir_tok_json_text(step, key, out, e);
  if (st != WEIR_OK) return st;
  if (out->len && weir_utf8_next(out->data, out->len, &len) == WEIR_UTF8_CHAR && (size_t)len == out->len)
    return WEIR_OK;
  return weir_fail(e, WEIR_EFORMAT, "\"%s\": want one character", key);
}

typedef weir_status (*step_reader)(weir_tok_spec *, const json_t *, weir_err *);

static weir_status each(weir_tok_spec *s, const json_t *step, const char *key, step_reader read,
                        weir_err *e) {
  const json_t *list = json_object_get(step, key);
  if (!json_is_array(list)) return weir_fail(e, WEIR_EFORMAT, "\"%s\": want a list", key);
  for (size_t i = 0; i < json_array_size(list); i++) {
    const weir_status st = read(s, json_array_get(list, i), e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}

/* ---- normalizers ---- */

static weir_status precompiled(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf blob = {0};
  weir_str text;
  WEIR_TRY(weir_tok_json_text(step, "precompiled_charsmap", &text, e));
  WEIR_TRY(weir_base64_decode(text, &blob, e));
  if (blob.len)
    WEIR_TRY(weir_tok_spec_add_norm(
        s, (weir_norm_step){.kind = WEIR_NORM_CHARSMAP, .content = {blob.data, blob.len}}, e));
out:
  weir_buf_fini(&blob);
  return st;
}

static weir_status read_normalizer(weir_tok_spec *s, const json_t *step, weir_err *e) {
  static const struct {
    const char *name;
    weir_norm_kind kind;
  } plain[] = {{"NFC", WEIR_NORM_NFC},
               {"NFD", WEIR_NORM_NFD},
               {"NFKC", WEIR_NORM_NFKC},
               {"NFKD", WEIR_NORM_NFKD},
               {"Nmt", WEIR_NORM_NMT},
               {"Lowercase", WEIR_NORM_LOWERCASE},
               {"StripAccents", WEIR_NORM_STRIP_ACCENTS}};
  weir_status st = WEIR_OK;
  weir_norm_step n = {0};
  weir_str type;
  WEIR_TRY(weir_json_type(step, &type, e));
  if (is(type, "Sequence")) return each(s, step, "normalizers", read_normalizer, e);
  if (is(type, "Precompiled")) return precompiled(s, step, e);
  for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
    if (is(type, plain[i].name)) return weir_tok_spec_add_norm(s, (weir_norm_step){.kind = plain[i].kind}, e);
  if (is(type, "Strip")) {
    n.kind = WEIR_NORM_STRIP;
    WEIR_TRY(weir_json_flag(step, "strip_left", false, &n.left, e));
    WEIR_TRY(weir_json_flag(step, "strip_right", false, &n.right, e));
  } else if (is(type, "Prepend")) {
    n.kind = WEIR_NORM_PREPEND;
    WEIR_TRY(weir_tok_json_text(step, "prepend", &n.content, e));
  } else if (is(type, "Replace")) {
    n.kind = WEIR_NORM_REPLACE;
    WEIR_TRY(pattern(step, &n.pattern, &n.is_regex, e));
    WEIR_TRY(weir_tok_json_text(step, "content", &n.content, e));
  } else {
    return refuse(
        type, "Sequence NFC NFD NFKC NFKD Nmt Lowercase Strip StripAccents Replace Prepend Precompiled", e);
  }
  WEIR_TRY(weir_tok_spec_add_norm(s, n, e));
out:
  return st;
}

weir_status weir_tok_json_normalizer(weir_tok_spec *s, const json_t *j, weir_err *e) {
  if (!j || json_is_null(j)) return WEIR_OK;
  const weir_status st = read_normalizer(s, j, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "normalizer");
}

/* ---- pre-tokenizers ---- */

static weir_status behavior(const json_t *step, weir_split_behavior *out, weir_err *e) {
  static const struct {
    const char *name;
    weir_split_behavior is;
  } rows[] = {{"Removed", WEIR_SPLIT_REMOVED},
              {"Isolated", WEIR_SPLIT_ISOLATED},
              {"MergedWithPrevious", WEIR_SPLIT_PREVIOUS},
              {"MergedWithNext", WEIR_SPLIT_NEXT},
              {"Contiguous", WEIR_SPLIT_CONTIGUOUS}};
  weir_str name;
  const weir_status st = weir_tok_json_text(step, "behavior", &name, e);
  if (st != WEIR_OK) return st;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    if (is(name, rows[i].name)) {
      *out = rows[i].is;
      return WEIR_OK;
    }
  return refuse(name, "Removed Isolated MergedWithPrevious MergedWithNext Contiguous", e);
}

static weir_status add_regex(weir_tok_spec *s, const char *regex, weir_split_behavior how, bool invert,
                             weir_err *e) {
  return weir_tok_spec_add_pre(s,
                               (weir_pre_step){.kind = WEIR_PRE_SPLIT,
                                               .pattern = weir_str_of(regex),
                                               .is_regex = true,
                                               .behavior = how,
                                               .invert = invert},
                               e);
}

static weir_status byte_level(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_status st = WEIR_OK;
  bool prefix, regex;
  for (int32_t i = 0; i < s->n_pre; i++)
    if (s->pre[i].kind == WEIR_PRE_SPELL)
      return weir_fail(e, WEIR_EUNSUP, "ByteLevel twice is not supported");
  WEIR_TRY(weir_json_flag(step, "add_prefix_space", true, &prefix, e));
  WEIR_TRY(weir_json_flag(step, "use_regex", true, &regex, e));
  if (prefix) WEIR_TRY(weir_tok_spec_add_pre(s, (weir_pre_step){.kind = WEIR_PRE_PREFIX_SPACE}, e));
  if (regex) WEIR_TRY(add_regex(s, weir_gpt2_pattern, WEIR_SPLIT_ISOLATED, false, e));
  s->byte_level = true;
out:
  return st;
}

/* always, first, never; add_prefix_space false says never */
static weir_status prepend_scheme(const json_t *step, weir_prepend_scheme *out, weir_err *e) {
  const json_t *scheme = json_object_get(step, "prepend_scheme");
  bool prefix;
  const weir_status st = weir_json_flag(step, "add_prefix_space", true, &prefix, e);
  if (st != WEIR_OK) return st;
  *out = WEIR_PREPEND_ALWAYS;
  if (scheme) {
    weir_str name;
    const weir_status got = weir_tok_json_text(step, "prepend_scheme", &name, e);
    if (got != WEIR_OK) return got;
    if (is(name, "first"))
      *out = WEIR_PREPEND_FIRST;
    else if (is(name, "never"))
      *out = WEIR_PREPEND_NEVER;
    else if (!is(name, "always"))
      return refuse(name, "always first never", e);
  }
  if (!prefix && scheme && *out != WEIR_PREPEND_NEVER)
    return weir_fail(e, WEIR_EFORMAT, "\"add_prefix_space\" does not match \"prepend_scheme\"");
  if (!prefix) *out = WEIR_PREPEND_NEVER;
  return WEIR_OK;
}

static weir_status metaspace(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pre_step p = {.kind = WEIR_PRE_METASPACE};
  WEIR_TRY(one_char(step, "replacement", &p.content, e));
  WEIR_TRY(prepend_scheme(step, &p.scheme, e));
  WEIR_TRY(weir_json_flag(step, "split", true, &p.split, e));
  WEIR_TRY(weir_tok_spec_add_pre(s, p, e));
out:
  return st;
}

static weir_status split(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pre_step p = {.kind = WEIR_PRE_SPLIT};
  WEIR_TRY(pattern(step, &p.pattern, &p.is_regex, e));
  WEIR_TRY(behavior(step, &p.behavior, e));
  WEIR_TRY(weir_json_flag(step, "invert", false, &p.invert, e));
  WEIR_TRY(weir_tok_spec_add_pre(s, p, e));
out:
  return st;
}

/* \w of the regex crate, which has the joiners U+200C and U+200D too */
#define RUST_WORD                                                                                            \
  "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}" \
  "-\\x{1f189}\\x{200c}\\x{200d}"

static weir_status punctuation(weir_tok_spec *s, weir_split_behavior how, weir_err *e) {
  weir_buf text = {0};
  weir_status st = weir_buf_printf(&text, e, "[%s]", weir_punctuation);
  if (st == WEIR_OK) st = add_regex(s, text.data, how, false, e);
  weir_buf_fini(&text);
  return st;
}

static weir_status read_pre(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str type;
  bool flag;
  WEIR_TRY(weir_json_type(step, &type, e));
  if (is(type, "Sequence")) return each(s, step, "pretokenizers", read_pre, e);
  if (s->byte_level) { /* what comes behind ByteLevel sees its alphabet */
    s->byte_level = false;
    WEIR_TRY(weir_tok_spec_add_pre(s, (weir_pre_step){.kind = WEIR_PRE_SPELL}, e));
  }
  if (is(type, "ByteLevel")) return byte_level(s, step, e);
  if (is(type, "Split")) return split(s, step, e);
  if (is(type, "Metaspace")) return metaspace(s, step, e);
  if (is(type, "WhitespaceSplit")) return add_regex(s, "\\s+", WEIR_SPLIT_REMOVED, false, e);
  if (is(type, "Whitespace"))
    return add_regex(s, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", WEIR_SPLIT_REMOVED, true, e);
  if (is(type, "Digits")) {
    WEIR_TRY(weir_json_flag(step, "individual_digits", false, &flag, e));
    return add_regex(s, "\\p{N}", flag ? WEIR_SPLIT_ISOLATED : WEIR_SPLIT_CONTIGUOUS, false, e);
  }
  if (is(type, "Punctuation")) {
    weir_split_behavior how = WEIR_SPLIT_ISOLATED;
    if (json_object_get(step, "behavior")) WEIR_TRY(behavior(step, &how, e));
    return punctuation(s, how, e);
  }
  if (is(type, "CharDelimiterSplit")) {
    weir_pre_step p = {.kind = WEIR_PRE_SPLIT, .behavior = WEIR_SPLIT_REMOVED};
    WEIR_TRY(one_char(step, "delimiter", &p.pattern, e));
    return weir_tok_spec_add_pre(s, p, e);
  }
  return refuse(type,
                "Sequence ByteLevel Split Metaspace Digits Whitespace WhitespaceSplit Punctuation "
                "CharDelimiterSplit",
                e);
out:
  return st;
}

weir_status weir_tok_json_pre_tokenizer(weir_tok_spec *s, const json_t *j, weir_err *e) {
  if (!j || json_is_null(j)) return WEIR_OK;
  const weir_status st = read_pre(s, j, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "pre_tokenizer");
}

/* ---- decoders ---- */

typedef struct decoding {
  bool fused;  /* what follows sees the whole text */
  bool marked; /* Metaspace, which must see spellings and whose result nothing may change */
} decoding;

static weir_status out_of_order(const char *name, weir_err *e) {
  return weir_fail(e, WEIR_EUNSUP, "%s is not supported at this place of a sequence", name);
}

static weir_status decode_strip(weir_tok_spec *s, const json_t *step, const decoding *d, weir_err *e) {
  weir_str content;
  const json_t *start = json_object_get(step, "start"), *stop = json_object_get(step, "stop");
  const weir_status st = one_char(step, "content", &content, e);
  if (st != WEIR_OK) return st;
  if (!json_is_integer(start) || !json_is_integer(stop))
    return weir_fail(e, WEIR_EFORMAT, "Strip: \"start\" and \"stop\": want integers");
  const json_int_t a = json_integer_value(start), b = json_integer_value(stop);
  if (a == 0 && b == 0) return WEIR_OK;
  if (!d->fused) return out_of_order("Strip", e);
  if (a != 1 || b != 0 || !is(content, " ") || s->first != WEIR_FIRST_WHOLE)
    return weir_fail(e, WEIR_EUNSUP, "Strip of anything but one space at the start is not supported");
  s->first = WEIR_FIRST_SPACE;
  return WEIR_OK;
}

static weir_status decode_metaspace(weir_tok_spec *s, const json_t *step, decoding *d, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_decode_step to = {.kind = WEIR_DECODE_REPLACE, .content = weir_str_of(" ")};
  weir_prepend_scheme scheme;
  if (d->fused) return out_of_order("Metaspace", e);
  for (int32_t i = 0; i < s->n_decode; i++)
    if (s->decode[i].kind != WEIR_DECODE_BYTE_FALLBACK) return out_of_order("Metaspace", e);
  WEIR_TRY(one_char(step, "replacement", &to.pattern, e));
  WEIR_TRY(prepend_scheme(step, &scheme, e));
  WEIR_TRY(weir_tok_spec_add_decode(s, to, e));
  if (scheme != WEIR_PREPEND_NEVER) {
    s->first = WEIR_FIRST_MARKS;
    s->first_mark = s->decode[s->n_decode - 1].pattern;
  }
  d->marked = true;
out:
  return st;
}

static weir_status read_decoder(weir_tok_spec *s, const json_t *step, decoding *d, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_decode_step to = {0};
  weir_str type;
  WEIR_TRY(weir_json_type(step, &type, e));
  if (is(type, "Sequence")) {
    const json_t *list = json_object_get(step, "decoders");
    if (!json_is_array(list)) return weir_fail(e, WEIR_EFORMAT, "\"decoders\": want a list");
    for (size_t i = 0; i < json_array_size(list); i++)
      WEIR_TRY(read_decoder(s, json_array_get(list, i), d, e));
    return WEIR_OK;
  }
  if (is(type, "Strip")) return decode_strip(s, step, d, e);
  if (is(type, "Metaspace"))
    return d->marked ? out_of_order("Metaspace", e) : decode_metaspace(s, step, d, e);
  if (is(type, "Fuse")) {
    d->fused = true;
    return WEIR_OK;
  }
  if (is(type, "ByteLevel")) {
    to.kind = WEIR_DECODE_BYTE_LEVEL;
  } else if (is(type, "ByteFallback")) {
    to.kind = WEIR_DECODE_BYTE_FALLBACK;
  } else if (is(type, "Replace")) {
    to.kind = WEIR_DECODE_REPLACE;
    WEIR_TRY(pattern(step, &to.pattern, &to.is_regex, e));
    WEIR_TRY(weir_tok_json_text(step, "content", &to.content, e));
  } else {
    return refuse(type, "Sequence ByteLevel ByteFallback Fuse Replace Strip Metaspace", e);
  }
  if (d->fused || d->marked) {
    char shown[WEIR_STR_SHOW_BYTES];
    return out_of_order(weir_str_show(type, shown), e);
  }
  if (to.kind == WEIR_DECODE_BYTE_LEVEL) d->fused = true; /* it joins the bytes of all */
  WEIR_TRY(weir_tok_spec_add_decode(s, to, e));
out:
  return st;
}

weir_status weir_tok_json_decoder(weir_tok_spec *s, const json_t *j, weir_err *e) {
  decoding d = {0};
  if (!j || json_is_null(j))
    return weir_fail(e, WEIR_EUNSUP, "decoder: none is not supported: the text of tokens would be guessed");
  const weir_status st = read_decoder(s, j, &d, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "decoder");
}

/* ---- post-processor ---- */

/* The one id of a special token that a template names. */
static weir_status template_id(const weir_tok_spec *s, const json_t *step, const json_t *item, int32_t *out,
                               weir_err *e) {
  weir_str name;
  const weir_status st = weir_tok_json_text(item, "id", &name, e);
  if (st != WEIR_OK) return st;
  const json_t *token = json_object_getn(json_object_get(step, "special_tokens"), name.data, name.len);
  const json_t *ids = json_object_get(token, "ids");
  const json_t *id = json_array_get(ids, 0);
  if (!json_is_integer(id)) return weir_fail(e, WEIR_EFORMAT, "\"special_tokens\": no ids for a token");
  if (json_array_size(ids) != 1)
    return weir_fail(e, WEIR_EUNSUP, "a special token of %zu ids is not supported", json_array_size(ids));
  const json_int_t v = json_integer_value(id);
  if (v < 0 || v >= s->n)
    return weir_fail(e, WEIR_EFORMAT, "\"special_tokens\": id %" PRId64 " of %" PRId32 " tokens", (int64_t)v,
                     s->n);
  *out = (int32_t)v;
  return WEIR_OK;
}

static weir_status template(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *list = json_object_get(step, "single");
  bool behind = false;
  if (!json_is_array(list)) return weir_fail(e, WEIR_EFORMAT, "\"single\": want a list");
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *item = json_array_get(list, i);
    const json_t *special = json_object_get(item, "SpecialToken");
    if (!special) {
      if (!json_object_get(item, "Sequence"))
        return weir_fail(e, WEIR_EFORMAT, "\"single\": what is this item?");
      if (behind) return weir_fail(e, WEIR_EUNSUP, "a template with the text twice is not supported");
      behind = true;
      continue;
    }
    int32_t id = -1;
    WEIR_TRY(template_id(s, step, special, &id, e));
    bool *adds = behind ? &s->adds_eos : &s->adds_bos;
    if (*adds) return weir_fail(e, WEIR_EUNSUP, "a template with two tokens at one side is not supported");
    *adds = true;
    if (behind)
      s->eos = id;
    else
      s->bos = id;
  }
  if (!behind) return weir_fail(e, WEIR_EUNSUP, "a template without the text is not supported");
out:
  return st;
}

static weir_status read_post(weir_tok_spec *s, const json_t *step, weir_err *e) {
  weir_str type;
  const weir_status st = weir_json_type(step, &type, e);
  if (st != WEIR_OK) return st;
  if (is(type, "Sequence")) return each(s, step, "processors", read_post, e);
  if (is(type, "ByteLevel")) return WEIR_OK; /* trims offsets, which nobody sees */
  if (is(type, "TemplateProcessing")) {
    if (s->adds_bos || s->adds_eos) return weir_fail(e, WEIR_EUNSUP, "two templates are not supported");
    return template(s, step, e);
  }
  return refuse(type, "Sequence ByteLevel TemplateProcessing", e);
}

weir_status weir_tok_json_post_processor(weir_tok_spec *s, const json_t *j, weir_err *e) {
  if (!j || json_is_null(j)) return WEIR_OK;
  const weir_status st = read_post(s, j, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "post_processor");
}
