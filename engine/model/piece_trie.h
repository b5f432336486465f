/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of SentencePiece vocabularies: a trie of them, walked a byte at a time, and the spelling of single
 * bytes. */
#ifndef WEIR_MODEL_PIECE_TRIE_H
#define WEIR_MODEL_PIECE_TRIE_H
#include "model/str.h"

enum {
  WEIR_MAX_PIECE_BYTES = 1024, /* of one piece; bounds the work at each position of a text */
  WEIR_MAX_TRIE_NODES = 1 << 28
};

typedef struct weir_trie_node {
  int32_t child; /* first of n_children nodes that lie side by side */
  int32_t n_children;
  int32_t value; /* -1: no key ends here */
} weir_trie_node;

typedef struct weir_trie {
  weir_trie_node *node; /* [n_nodes] owned, breadth first; node 0 is the root */
  unsigned char *label; /* [n_nodes] owned: the byte that leads to the node; of siblings ascending */
  int32_t n_nodes;
} weir_trie; /* zeroed: no keys */

/* Keys: piece[id] for id = which[0..n); their value is id. Of equal keys the highest id counts, as in
 * llama.cpp and the tokenizers library, which both overwrite; empty ones are left out. A piece of more than
 * WEIR_MAX_PIECE_BYTES is refused. Nothing is borrowed. */
weir_status weir_trie_init(weir_trie *, const weir_str *piece, const int32_t *which, int32_t n, weir_err *e);
void weir_trie_fini(weir_trie *);

/* The node behind `node` by the byte c, -1 when no key goes on so. At most 256 bytes are looked at. */
static inline int32_t weir_trie_step(const weir_trie *t, int32_t node, unsigned char c) {
  if (!t->node) return -1;
  const weir_trie_node *v = &t->node[node];
  if (v->n_children == 0) return -1;
  const unsigned char *first = t->label + v->child;
  const unsigned char *at = memchr(first, c, (size_t)v->n_children);
  return at ? v->child + (int32_t)(at - first) : -1;
}

/* The longest key that text[0..len) begins with: its value, and its bytes in *n; -1 and 0 for none. */
int32_t weir_trie_longest(const weir_trie *, const char *text, size_t len, size_t *n);
/* The value of exactly this key, or -1. */
int32_t weir_trie_find(const weir_trie *, weir_str key);

/* The byte that a piece <0x00> to <0xFF> (capital digits, as both libraries spell it) stands for, or -1. */
int32_t weir_piece_byte(weir_str piece);

#endif
