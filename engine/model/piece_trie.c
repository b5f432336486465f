/* SPDX-License-Identifier: Apache-2.0 */
/* Tries of vocabulary pieces. Owns the nodes of each; may call base; read-only after init, any thread.
 *
 * Nodes are laid out breadth first from the sorted keys, so that the children of a node lie side by side and
 * their labels are one memchr away: thirteen bytes a node, no hashing, and no key that a file could
 * choose makes a step dearer than 256 bytes. */
#include "model/piece_trie.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"

typedef struct sort_key {
  weir_str text;
  int32_t id;
} sort_key;

static int by_text(const void *a, const void *b) {
  const sort_key *x = a, *y = b;
  const size_t n = x->text.len < y->text.len ? x->text.len : y->text.len;
  const int c = memcmp(x->text.data, y->text.data, n);
  if (c) return c;
  if (x->text.len != y->text.len) return x->text.len < y->text.len ? -1 : 1;
  return x->id < y->id ? -1 : x->id > y->id;
}

static size_t shared_prefix(weir_str a, weir_str b) {
  size_t n = 0;
  while (n < a.len && n < b.len && a.data[n] == b.data[n]) n++;
  return n;
}

static weir_status collect(const weir_str *piece, const int32_t *which, int32_t n, sort_key *key,
                           int32_t *n_keys, weir_err *e) {
  int32_t kept = 0;
  for (int32_t i = 0; i < n; i++) {
    const weir_str s = piece[which[i]];
    if (s.len > WEIR_MAX_PIECE_BYTES)
      return weir_fail(e, WEIR_EFORMAT, "token %" PRId32 " has %zu bytes (limit %d)", which[i], s.len,
                       WEIR_MAX_PIECE_BYTES);
    if (s.len) key[kept++] = (sort_key){s, which[i]};
  }
  qsort(key, (size_t)kept, sizeof *key, by_text);
  *n_keys = 0;
  for (int32_t i = 0; i < kept; i++) /* of equal ones the last */
    if (i + 1 == kept || !weir_str_eq(key[i].text, key[i + 1].text)) key[(*n_keys)++] = key[i];
  return WEIR_OK;
}

/* The keys below a node, all of which share its path of `depth` bytes; kept for the nodes not yet expanded.
 */
typedef struct range {
  int32_t lo, hi;
  int32_t depth;
} range;

/* Breadth first: node i is expanded after all before it, so its children come next in the array. */
static void lay_out(weir_trie *t, const sort_key *key, int32_t n_keys, range *below) {
  int32_t n = 1;
  below[0] = (range){0, n_keys, 0};
  for (int32_t i = 0; i < n; i++) {
    const range r = below[i];
    int32_t at = r.lo;
    t->node[i] = (weir_trie_node){.child = n, .value = -1};
    if (at < r.hi && key[at].text.len == (size_t)r.depth) t->node[i].value = key[at++].id;
    while (at < r.hi) {
      const char c = key[at].text.data[r.depth];
      int32_t hi = at + 1;
      while (hi < r.hi && key[hi].text.data[r.depth] == c) hi++;
      below[n] = (range){at, hi, r.depth + 1};
      t->label[n++] = (unsigned char)c;
      t->node[i].n_children++;
      at = hi;
    }
  }
}

weir_status weir_trie_init(weir_trie *t, const weir_str *piece, const int32_t *which, int32_t n,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  sort_key *key = NULL;
  range *below = NULL;
  int32_t n_keys = 0;
  *t = (weir_trie){0};
  WEIR_TRY(WEIR_NEW((size_t)n, &key, e));
  WEIR_TRY(collect(piece, which, n, key, &n_keys, e));
  size_t n_nodes = 1; /* a key adds a node for each byte that it does not share with the one before */
  for (int32_t i = 0; i < n_keys; i++)
    n_nodes += key[i].text.len - (i ? shared_prefix(key[i - 1].text, key[i].text) : 0);
  if (n_nodes > WEIR_MAX_TRIE_NODES) {
    st =
        weir_fail(e, WEIR_EFORMAT, "the vocabulary needs %zu nodes (limit %d)", n_nodes, WEIR_MAX_TRIE_NODES);
    goto out;
  }
  WEIR_TRY(WEIR_NEW(n_nodes, &below, e));
  WEIR_TRY(WEIR_NEW(n_nodes, &t->node, e));
  WEIR_TRY(WEIR_NEW(n_nodes, &t->label, e));
  t->n_nodes = (int32_t)n_nodes;
  lay_out(t, key, n_keys, below);
out:
  free(key);
  free(below);
  if (st != WEIR_OK) weir_trie_fini(t);
  return st;
}

void weir_trie_fini(weir_trie *t) {
  free(t->node);
  free(t->label);
  *t = (weir_trie){0};
}

int32_t weir_trie_longest(const weir_trie *t, const char *text, size_t len, size_t *n) {
  int32_t found = -1, node = 0;
  *n = 0;
  for (size_t i = 0; i < len; i++) {
    node = weir_trie_step(t, node, (unsigned char)text[i]);
    if (node < 0) break;
    if (t->node[node].value < 0) continue;
    found = t->node[node].value;
    *n = i + 1;
  }
  return found;
}

int32_t weir_trie_find(const weir_trie *t, weir_str key) {
  int32_t node = 0;
  if (!t->node) return -1;
  for (size_t i = 0; i < key.len; i++) {
    node = weir_trie_step(t, node, (unsigned char)key.data[i]);
    if (node < 0) return -1;
  }
  return t->node[node].value;
}

static int32_t hex_digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int32_t weir_piece_byte(weir_str s) {
  if (s.len != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>') return -1;
  const int32_t hi = hex_digit(s.data[3]), lo = hex_digit(s.data[4]);
  return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}
