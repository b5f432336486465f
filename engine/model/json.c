/* SPDX-License-Identifier: Apache-2.0 */
/* Strict JSON over jansson. Owns nothing; any thread. */
#include "model/json.h"

#include <stdint.h>

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

weir_status weir_json_parse_object(weir_str text, json_t **out, weir_err *e) {
  json_error_t error;
  *out = NULL;
  if (too_deep(text)) return weir_fail(e, WEIR_EFORMAT, "JSON nested deeper than %d", WEIR_JSON_MAX_DEPTH);
  json_t *j = json_loadb(text.len ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &error);
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
