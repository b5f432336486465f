/* SPDX-License-Identifier: Apache-2.0 */
/* The page at /. Thread of the event base. */
#define _GNU_SOURCE /* memmem */
#include "net/gateway_page.h"

#include <stdio.h>
#include <string.h>

#include "net/gateway_in.h"
#include "net/sha256.h"

enum { MAX_SCRIPTS = 8, POLICY_BYTES = 1024 };

static void base64(const uint8_t *p, size_t n, char *out) {
  static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < n; i += 3) {
    const uint32_t three = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
                           (i + 2 < n ? (uint32_t)p[i + 2] : 0);
    *out++ = digit[three >> 18 & 63];
    *out++ = digit[three >> 12 & 63];
    *out++ = i + 1 < n ? digit[three >> 6 & 63] : '=';
    *out++ = i + 2 < n ? digit[three & 63] : '=';
  }
  *out = 0;
}

void weir_page_policy(const char *html, size_t n, char *out, size_t bytes) {
  static const char open[] = "<script>", close[] = "</script>";
  char hashes[MAX_SCRIPTS * 64] = "";
  size_t used = 0;
  const char *p = html, *end = html + n;
  for (int i = 0; i < MAX_SCRIPTS; i++) {
    const char *begin = memmem(p, (size_t)(end - p), open, sizeof open - 1);
    const char *stop = begin ? memmem(begin, (size_t)(end - begin), close, sizeof close - 1) : NULL;
    if (!stop) break;
    begin += sizeof open - 1;
    uint8_t digest[32];
    char text[48];
    weir_sha256(begin, (size_t)(stop - begin), digest);
    base64(digest, sizeof digest, text);
    used += (size_t)snprintf(hashes + used, sizeof hashes - used, " 'sha256-%s'", text);
    p = stop;
  }
  snprintf(out, bytes,
           "default-src 'none'; script-src%s; style-src 'unsafe-inline'; connect-src 'self'; img-src 'self' "
           "data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
           used ? hashes : " 'none'");
}

void weir_gw_page(weir_http_request *r) {
  static char policy[POLICY_BYTES], tag[40];
  if (!tag[0]) {
    uint8_t digest[32];
    weir_sha256(weir_page, weir_page_bytes, digest);
    int n = snprintf(tag, sizeof tag, "\"");
    for (int i = 0; i < 12; i++) n += snprintf(tag + n, sizeof tag - (size_t)n, "%02x", digest[i]);
    snprintf(tag + n, sizeof tag - (size_t)n, "\"");
    weir_page_policy((const char *)weir_page, weir_page_bytes, policy, sizeof policy);
  }
  const char *have = weir_http_header(r, "If-None-Match");
  weir_http_set_header(r, "ETag", tag);
  weir_http_set_header(r, "Cache-Control", "no-cache");
  weir_http_set_header(r, "Content-Security-Policy", policy);
  weir_http_set_header(r, "Referrer-Policy", "no-referrer");
  weir_http_set_header(r, "Cross-Origin-Opener-Policy", "same-origin");
  if (have && (!strcmp(have, "*") || strstr(have, tag)))
    weir_http_reply(r, 304, NULL, NULL, 0);
  else
    weir_http_reply(r, 200, "text/html; charset=utf-8", (const char *)weir_page, weir_page_bytes);
}
