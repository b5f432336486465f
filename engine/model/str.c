/* SPDX-License-Identifier: Apache-2.0 */
/* Borrowed strings: printing them safely, and a seeded open-addressing map. Owns the slots of its maps; may
 * call base and xxHash; any thread, one at a time per map (look-ups may run side by side). */
#include "model/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <xxhash.h>

#include "base/mem.h"

void weir_str_escape(weir_str s, char *buf, size_t buf_bytes) {
  enum { TAIL = 4 }; /* "..." and the NUL */
  size_t out = 0, in = 0;
  for (; in < s.len; in++) {
    const unsigned char c = (unsigned char)s.data[in];
    const bool plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
    const size_t need = plain ? 1 : (c == '"' || c == '\\' || c == '\n') ? 2 : 4;
    if (out + need + TAIL > buf_bytes) break;
    if (plain)
      buf[out] = (char)c;
    else if (c == '\n')
      memcpy(buf + out, "\\n", 2);
    else if (need == 2)
      buf[out] = '\\', buf[out + 1] = (char)c;
    else {
      static const char hex[] = "0123456789abcdef";
      buf[out] = '\\', buf[out + 1] = 'x', buf[out + 2] = hex[c >> 4], buf[out + 3] = hex[c & 15];
    }
    out += need;
  }
  if (in < s.len) {
    memcpy(buf + out, "...", 3);
    out += 3;
  }
  buf[out] = '\0';
}

const char *weir_str_show(weir_str s, char buf[WEIR_STR_SHOW_BYTES]) {
  buf[0] = '"';
  weir_str_escape(s, buf + 1, WEIR_STR_SHOW_BYTES - 2);
  const size_t n = strlen(buf);
  buf[n] = '"';
  buf[n + 1] = '\0';
  return buf;
}

uint64_t weir_hash_seed(void) {
  uint64_t seed = 0;
  if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
    /* Early boot or a sandbox without the call: the clock and an address are still not the file's to choose.
     */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    seed = ((uint64_t)t.tv_nsec << 32) ^ (uint64_t)t.tv_sec ^ (uint64_t)(uintptr_t)&seed;
  }
  return seed;
}

static uint64_t hash_of(const weir_strmap *m, weir_str key) {
  return XXH3_64bits_withSeed(key.len ? key.data : "", key.len, m->seed);
}

weir_status weir_strmap_init(weir_strmap *m, size_t n, weir_err *e) {
  size_t want, slots = 8;
  if (!weir_mul_size(n, 2, &want)) return weir_fail(e, WEIR_ENOMEM, "a map of %zu strings overflows", n);
  while (slots < want)
    if (!weir_mul_size(slots, 2, &slots))
      return weir_fail(e, WEIR_ENOMEM, "a map of %zu strings overflows", n);
  const weir_status st = WEIR_NEW(slots, &m->slot, e);
  if (st != WEIR_OK) return st;
  for (size_t i = 0; i < slots; i++) m->slot[i].value = -1;
  m->mask = slots - 1;
  m->seed = weir_hash_seed();
  return WEIR_OK;
}

void weir_strmap_fini(weir_strmap *m) {
  free(m->slot);
  *m = (weir_strmap){0};
}

/* The slot that holds the key, or the free one where it would go. */
static weir_strmap_slot *find_slot(const weir_strmap *m, weir_str key, uint32_t *tag) {
  const uint64_t h = hash_of(m, key);
  *tag = (uint32_t)(h >> 32);
  size_t i = (size_t)h & m->mask;
  while (m->slot[i].value >= 0 && (m->slot[i].tag != *tag || !weir_str_eq(m->slot[i].key, key)))
    i = (i + 1) & m->mask;
  return &m->slot[i];
}

int32_t weir_strmap_add(weir_strmap *m, weir_str key, int32_t value) {
  uint32_t tag;
  weir_strmap_slot *s = find_slot(m, key, &tag);
  if (s->value < 0) *s = (weir_strmap_slot){.key = key, .value = value, .tag = tag};
  return s->value;
}

int32_t weir_strmap_get(const weir_strmap *m, weir_str key) {
  if (!m->slot) return -1;
  uint32_t tag;
  return find_slot(m, key, &tag)->value;
}
