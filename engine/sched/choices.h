/* SPDX-License-Identifier: Apache-2.0 */
/* An answer that is one of a list of texts: which tokens may follow those written so far.
 *
 * The texts are token sequences in ascending order; a node of their trie is then a range of them and a depth,
 * and a function of the tokens written, so that taking tokens back needs no bookkeeping. Where a text ends
 * that begins another one, the ids that end a text are ways on beside the other's next token. */
#ifndef WEIR_SCHED_CHOICES_H
#define WEIR_SCHED_CHOICES_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_MAX_CHOICES = 256, WEIR_MAX_CHOICE_BYTES = 4096 /* of one text */ };

typedef struct weir_choice {
  int32_t *tok; /* [n] */
  int32_t n;
} weir_choice;

typedef struct weir_choices {
  weir_choice *one;   /* [n], owned with what they hold; ascending, each once, none empty */
  const int32_t *end; /* [n_end] ids that end a text, ascending; borrowed */
  int32_t n, n_end, longest;
} weir_choices; /* zeroed: none, anything may be written */

/* Where the tokens written so far lead: the texts one[lo, hi) begin with them. */
typedef struct weir_choice_node {
  int32_t lo, hi, depth;
  bool ended; /* an id that ends a text was written */
} weir_choice_node;

/* Copies tok[n]; WEIR_EINVAL for an empty one. Any order, until weir_choices_seal. */
weir_status weir_choices_add(weir_choices *, const int32_t *tok, int32_t n, weir_err *e);
/* Sorts them and drops those that are there twice. WEIR_EINVAL when one begins another one and no id ends a
 * text. end[n_end] is borrowed; of more than WEIR_MAX_CHOICES the first are used. */
weir_status weir_choices_seal(weir_choices *, const int32_t *end, int32_t n_end, weir_err *e);
void weir_choices_fini(weir_choices *);

/* The node after one token more; hi == lo: what was written begins none of the texts. */
weir_choice_node weir_choices_step(const weir_choices *, weir_choice_node, int32_t id);
/* The node after tok[0..n) of the answer. */
weir_choice_node weir_choices_at(const weir_choices *, const int32_t *tok, int32_t n);
/* One of the texts is written and nothing may follow. */
bool weir_choices_complete(const weir_choices *, weir_choice_node);
/* The id that must follow; -1: several may, or none. */
int32_t weir_choices_forced(const weir_choices *, weir_choice_node);
/* The most ids that may follow anywhere, never more than 2 WEIR_MAX_CHOICES. */
int32_t weir_choices_most(const weir_choices *);
/* The ids that may follow, ascending, into out[weir_choices_most]; returns how many. */
int32_t weir_choices_next(const weir_choices *, weir_choice_node, int32_t *out);

#endif
