/* SPDX-License-Identifier: Apache-2.0 */
/* What the head is asked for one position, and the row it answers. Everything above the devices sees a
 * vocabulary distribution only through these two; logits stay on the device. */
#ifndef WEIR_KERNELS_ROW_H
#define WEIR_KERNELS_ROW_H
#include <stdbool.h>
#include <stdint.h>

/* Which proposed ("probe") tokens a tier lets stand when it judges them. Each rule is a case of the sample
 * op and of nothing else: whoever reads the row only compares row.token with the probe. */
typedef enum {
  WEIR_KEEP_ALL, /* measure only: the probe stands, its statistics are wanted */
  WEIR_KEEP_OWN, /* lossless: the probe stands when it equals this tier's own draw, else that draw replaces it
                  */
  /* The others let the probe v stand by p, this tier's distribution at temperature 1 (a = keep_a, b = keep_b,
   * max = the highest probability, H = the entropy, nats), and else replace it by a draw with noise of its
   * own, independent of the one refused (the arg-max at temperature 0). With q what the lower tier draws
   * from, m(v) whether v stands and d what this tier draws from, a token follows q m + (1 - sum q m) d. */
  WEIR_KEEP_NLL,     /* -log p(v) <= a; BiLD, arXiv 2302.07863 */
  WEIR_KEEP_V1,      /* exp(probe_q) >= max - a; V1 to V3 are the token-specific rules of speculative */
  WEIR_KEEP_V2,      /* p(v) >= max - a          cascades, arXiv 2405.19261 */
  WEIR_KEEP_V3,      /* p(v) >= (1 - a) max */
  WEIR_KEEP_TYPICAL, /* p(v) > min(a, b exp(-H)); typical acceptance, arXiv 2401.10774 */
  /* Lossless, and refuses as seldom as a lossless rule can (arXiv 2211.17192): with P what this tier draws
   * from and Q what the probe was drawn from (`draft`), both with temperature, edits and truncation applied,
   * v stands with probability min(1, P(v)/Q(v)), else a draw from max(0, P - Q) replaces it, each with noise
   * of its own: a token follows P. As OWN at temperature 0 and where the draft is not known. */
  WEIR_KEEP_RATIO
} weir_keep;
enum { WEIR_N_KEEPS = WEIR_KEEP_RATIO + 1 };

/* What penalties, biases and bans make of one id's logit l before a draw (never before the statistics):
 *   l' = (l > 0 ? l / scale : l * scale) + add
 * scale is a repetition penalty (arXiv 1909.05858; > 1 makes the id less likely), add holds presence and
 * frequency penalties, a logit bias, or WEIR_LOGIT_BAN. */
typedef struct weir_logit_edit {
  int32_t id;
  float scale; /* > 0, finite; 1: off */
  float add;   /* finite; 0: off */
} weir_logit_edit;
#define WEIR_LOGIT_BAN (-1e30f) /* an id with this never wins against one without */

/* One of the likeliest tokens of a row: by the raw softmax at temperature 1, or of what is drawn from where
 * that is said. */
typedef struct weir_top {
  int32_t id;
  float logprob;
} weir_top;
enum { WEIR_TOP_MAX = 20 };

/* One question: a pure function of (logits, ask) is the answer. */
typedef struct weir_ask {
  float temperature; /* 0: greedy, ties to the lowest id */
  int32_t top_k;     /* 0: off. Of the distribution at `temperature`, as are top_p and min_p; all three cut */
  float top_p;       /* 1: off */
  float min_p;       /* 0: off */
  uint64_t seed;     /* the noise of a draw is keyed by (seed, pos, purpose, token id): the same on every */
  int32_t pos;       /* tier, device, batch and shard. pos: index of the token being decided */
  int32_t probe;     /* -1: draw; else judge this token by `keep` */
  weir_keep keep;
  float keep_a, keep_b; /* what the rule wants, see there */
  float probe_q;        /* V1: log q(probe) at temperature 1, by the tier that proposed it */
  const weir_logit_edit
      *edit;       /* [n_edits], ids ascending, each once; borrowed until the step was waited for. */
  int32_t n_edits; /* They shape every draw (temperature 0, a replacement too) and nothing else: */
                   /* statistics and rules of judgement are those of the raw row */
  int32_t n_top;   /* 0 .. WEIR_TOP_MAX likeliest ids wanted besides, ties to the lowest id */
  bool only_edits; /* every draw is from the ids of `edit` alone (scale 1, add 0 leaves one as it is), of
                      which one at least is in the vocabulary; the others behave as if banned */
  bool tell_law;   /* what a draw of this ask takes from is wanted, exactly: top_k must be 1 .. WEIR_TOP_MAX.
                      A later judge by RATIO is given it */
  weir_top *law;   /* [WEIR_TOP_MAX] of the caller, filled when the step was waited for: the ids that race
                      and the logarithms of their shares, likeliest first, id -1 behind the last. NULL: not
                      told here. Of a vocabulary in shards, rank 0 tells */
  const weir_top
      *draft;      /* [n_draft] RATIO: the law that the probe was drawn from, the probe among it, ids in */
  int32_t n_draft; /* any order, each once; borrowed as `edit`. 0: not known */
} weir_ask;

/* All statistics are those of the raw softmax at temperature 1 over the real vocabulary (padding ids
 * masked), in nats; only the draw is scaled and cut. */
typedef struct weir_row {
  int32_t token;       /* drawn; or the verdict on the probe: equal to it = kept, else its replacement */
  float logprob;       /* log p(token) */
  float entropy;       /* -sum p log p */
  float p_max;         /* probability of the arg-max */
  float margin;        /* p_max minus the second highest probability */
  float probe_logprob; /* log p(probe); equal to logprob when nothing was probed */
  float gate;          /* score of the model's gate head, a probability of error; 0 where it has none */
} weir_row;

#endif
