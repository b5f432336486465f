/* SPDX-License-Identifier: Apache-2.0 */
/* Strict JSON over jansson. Owns nothing; any thread. */
#include "model/json.h"

#include <stdint.h>
#include <string.h>

#include "base/buf.h"

/* jansson recurses as deep as the text does; so the depth is bounded before it begins. What brackets inside
 * of a malformed text mean does not matter: the parser refuses it afterwards. */
static bool too_deep(weir_str text) {
  bool in_string = false;
  int depth = 0;
  for (size_t i = 0; i < text.len; i++) {
    const char c = text.data[i];
    if (in_string) {
      if (c == '\\')
        i++;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > WEIR_JSON_MAX_DEPTH) return true;
    } else if ((c == '}' || c == ']') && depth > 0) {
      depth--;
    }
  }
  return false;
}

/* Whether an integer of so many digits is none of an int64_t's. */
static bool is_wide(const char *digit, size_t n, bool negative) {
  static const char largest[] = "9223372036854775807", lowest[] = "9223372036854775808";
  const size_t most = sizeof largest - 1;
  return n > most || (n == most && memcmp(digit, negative ? lowest : largest, most) > 0);
}

/* Python writes 10^30 in full, and tokenizer_config.json holds it ("model_max_length"); jansson's integers
 * are int64_t. Wider ones get a ".0" behind them; `out` stays empty when there is none. */
static weir_status widen(weir_str text, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  bool in_string = false, in_word = false; /* a word: what digits may be a part of */
  size_t digits = 0, copied = 0;
  for (size_t i = 0; i < text.len; i++) {
    const char c = text.data[i];
    const bool digit = c >= '0' && c <= '9', word = digit || c == '.' ||
                                                    (in_word && (c == '+' || c == '-')) ||
                                                    (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (digits > 0 && !word &&
        is_wide(text.data + i - digits, digits, i > digits && text.data[i - digits - 1] == '-')) {
      WEIR_TRY(weir_buf_put(out, text.data + copied, i - copied, e));
      WEIR_TRY(weir_buf_puts(out, ".0", e));
      copied = i;
    }
    digits = !in_string && digit && (digits > 0 || !in_word) ? digits + 1 : 0;
    in_word = word;
    if (in_string && c == '\\')
      i++;
    else if (c == '"')
      in_string = !in_string;
  }
  if (copied > 0) WEIR_TRY(weir_buf_put(out, text.data + copied, text.len - copied, e));
out:
  return st;
}

weir_status weir_json_parse_object(weir_str text, json_t **out, weir_err *e) {
  json_error_t error;
  weir_buf wide = {0};
  *out = NULL;
  if (too_deep(text)) return weir_fail(e, WEIR_EFORMAT, "JSON nested deeper than %d", WEIR_JSON_MAX_DEPTH);
  const weir_status st = widen(text, &wide, e);
  if (st != WEIR_OK) {
    weir_buf_fini(&wide);
    return st;
  }
  if (wide.data) text = (weir_str){wide.data, wide.len};
  json_t *j = json_loadb(text.len ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &error);
  weir_buf_fini(&wide);
  if (!j) {
    char shown[JSON_ERROR_TEXT_LENGTH * 2];
    if (json_error_code(&error) == json_error_out_of_memory)
      return weir_fail(e, WEIR_ENOMEM, "no memory for %zu bytes of JSON", text.len);
    weir_str_escape(weir_str_of(error.text), shown, sizeof shown); /* it quotes the text */
    return weir_fail(e, WEIR_EFORMAT, "JSON, line %d, column %d: %s", error.line, error.column, shown);
  }
  if (!json_is_object(j)) {
    json_decref(j);
    return weir_fail(e, WEIR_EFORMAT, "JSON that is not an object");
  }
  *out = j;
  return WEIR_OK;
}
