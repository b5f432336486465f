/* SPDX-License-Identifier: Apache-2.0 */
/* Attention's plan: the units of a list laid end to end and cut into one run a CTA. Called once a step on the
 * device's thread; calls nothing.
 *
 * The cut is greedy for a given share (the load no CTA should pass): CTAs are filled one after another, a
 * unit that does not fit goes on in the next CTA. The least share with which the CTAs suffice is searched
 * for; it lies within a few pieces' cost of the mean, since a cut adds one piece. A pass costs a step per
 * unit and per CTA: 256 sequences of 8 KV heads over 264 CTAs take five or six passes of some 2300 steps,
 * tens of microseconds beside a step of ten milliseconds. */
#include "kernels/attn_plan.h"

#include <stdbool.h>
#include <stddef.h>

/* A walk over the list's units, and the CTA being filled. */
typedef struct filling {
  const weir_attn_batch *b;
  const weir_attn_shape *s;
  int64_t share;
  int64_t load; /* of the CTA being filled */
  int64_t most;
  int32_t cta;
  int32_t n_items, n_merges, n_slots;
  weir_attn_list_out *out; /* NULL: counting only */
} filling;

int64_t weir_attn_max_units(int64_t n_rows, int32_t min_rows) { return n_rows / min_rows; }

static int64_t packed_rows(const weir_attn_batch *b, int32_t seq) {
  return (int64_t)(b->q_indptr[seq + 1] - b->q_indptr[seq]) * b->group;
}
static bool is_listed(const weir_attn_shape *s, int64_t rows) {
  return rows >= s->min_rows && rows <= s->max_rows;
}

/* Blocks of a tile that ends with packed row `last`, as if the sequence's rows were its last positions: of
 * rows picked out of a step that is too many, which costs balance and nothing else. */
static int32_t blocks_of(const weir_attn_batch *b, const weir_attn_shape *s, int32_t seq, int64_t last) {
  const int32_t n = b->q_indptr[seq + 1] - b->q_indptr[seq];
  const int32_t end = b->kv_len[seq] - (n - 1 - (int32_t)(last / b->group));
  return (end - 1) / s->block + 1;
}

static void next_cta(filling *f) {
  if (f->load > f->most) f->most = f->load;
  f->load = 0;
  f->cta++;
  if (f->out && f->cta <= f->s->n_ctas) f->out->cta[f->cta] = f->out->first_item + f->n_items;
}

/* How many of the `left` blocks of a unit the CTA being filled takes; 0: none, it is full. */
static int32_t take(const filling *f, int32_t left) {
  const int32_t least = f->s->min_blocks;
  const int64_t room = f->share - f->load - f->s->piece_cost;
  if (f->load > 0 && room < (left < least ? left : least)) return 0;
  if (left <= room) return left;
  int32_t n = room < 1 ? 1 : (int32_t)room;
  if (left - n >= least) return n;
  /* The rest would be too short: it comes along, or some of this stays behind with it. */
  return left - least >= least ? left - least : left;
}

static void place(filling *f, weir_attn_item it) {
  int32_t n_pieces = 0;
  const int32_t first_slot = f->n_slots;
  for (int32_t at = 0; at < it.n_blocks;) {
    const int32_t n = take(f, it.n_blocks - at);
    if (n == 0) {
      next_cta(f);
      continue;
    }
    it.block0 = at;
    it.block1 = at += n;
    it.slot = n == it.n_blocks ? -1 : f->n_slots++;
    if (f->out && f->cta < f->s->n_ctas) f->out->item[f->out->first_item + f->n_items] = it;
    f->n_items++;
    n_pieces++;
    f->load += n + f->s->piece_cost;
  }
  if (n_pieces < 2) return;
  if (f->out)
    f->out->merge[f->n_merges] = (weir_attn_merge){.seq = it.seq,
                                                   .kv_head = it.kv_head,
                                                   .row = it.row,
                                                   .n_rows = it.n_rows,
                                                   .slot = first_slot,
                                                   .n_slots = n_pieces};
  f->n_merges++;
}

/* False: the CTAs do not suffice (then nothing was written beyond what they hold). */
static bool fill(filling *f, int64_t share, weir_attn_list_out *out) {
  const weir_attn_batch *b = f->b;
  const weir_attn_shape *s = f->s;
  *f = (filling){.b = b, .s = s, .share = share, .out = out};
  if (out) out->cta[0] = out->first_item;
  for (int32_t seq = 0; seq < b->n_seqs; seq++) {
    const int64_t rows = packed_rows(b, seq);
    if (!is_listed(s, rows)) continue;
    for (int32_t head = 0; head < b->n_kv_heads; head++) {
      for (int64_t row = 0; row < rows; row += s->tile_rows) {
        const int64_t n = rows - row < s->tile_rows ? rows - row : s->tile_rows;
        place(f, (weir_attn_item){.seq = seq,
                                  .kv_head = head,
                                  .row = (int32_t)row,
                                  .n_rows = (int32_t)n,
                                  .n_blocks = blocks_of(b, s, seq, row + n - 1)});
        if (f->cta >= s->n_ctas) return false;
      }
    }
  }
  if (f->load > f->most) f->most = f->load;
  return true;
}

/* Also counts units and blocks. */
static weir_status check(const weir_attn_batch *b, const weir_attn_shape *s, int64_t *n_units,
                         int64_t *n_blocks, weir_err *e) {
  *n_units = *n_blocks = 0;
  if (b->n_kv_heads < 1 || b->group < 1 || s->min_rows < 1 || s->tile_rows < 1 || s->block < 1 ||
      s->n_ctas < 1 || s->piece_cost < 0 || s->min_blocks < 1)
    return weir_fail(e, WEIR_EINVAL, "plan of attention: bad shape");
  if (b->q_indptr[0] < 0)
    return weir_fail(e, WEIR_EINVAL, "plan of attention: q_indptr begins with %d", b->q_indptr[0]);
  for (int32_t seq = 0; seq < b->n_seqs; seq++) {
    const int32_t begin = b->q_indptr[seq], end = b->q_indptr[seq + 1];
    if (end < begin || end > b->n_tokens)
      return weir_fail(e, WEIR_EINVAL, "plan of attention: rows of sequence %d are %d .. %d of %d", seq,
                       begin, end, b->n_tokens);
    if (end == begin) continue;
    if (b->kv_len[seq] < end - begin)
      return weir_fail(e, WEIR_EINVAL, "plan of attention: sequence %d has %d rows and %d tokens in KV", seq,
                       end - begin, b->kv_len[seq]);
    const int64_t rows = packed_rows(b, seq);
    if (rows > INT32_MAX)
      return weir_fail(e, WEIR_EINVAL, "plan of attention: %lld packed rows of sequence %d", (long long)rows,
                       seq);
    if (!is_listed(s, rows)) continue;
    const int64_t n_tiles = (rows + s->tile_rows - 1) / s->tile_rows;
    *n_units += n_tiles * b->n_kv_heads;
    for (int64_t t = 1; t <= n_tiles; t++) {
      const int64_t last = t * s->tile_rows < rows ? t * s->tile_rows - 1 : rows - 1;
      *n_blocks += (int64_t)blocks_of(b, s, seq, last) * b->n_kv_heads;
    }
  }
  return WEIR_OK;
}

weir_status weir_attn_plan_list(const weir_attn_batch *b, const weir_attn_shape *s, weir_attn_list_out *out,
                                weir_err *e) {
  int64_t n_units, n_blocks;
  filling f = {.b = b, .s = s};
  weir_status st = WEIR_OK;
  WEIR_TRY(check(b, s, &n_units, &n_blocks, e));
  out->n_items = out->n_merges = out->n_slots = out->most = 0;
  if (out->first_item + n_units + s->n_ctas > out->max_items)
    return weir_fail(e, WEIR_EINVAL, "plan of attention: %lld units, room for %d items", (long long)n_units,
                     out->max_items - out->first_item);
  int64_t low = (n_blocks + n_units * s->piece_cost) / s->n_ctas, step = 1, high;
  if (low < s->piece_cost + s->min_blocks) low = s->piece_cost + s->min_blocks;
  for (high = low; !fill(&f, high, NULL); step *= 2) low = high + 1, high += step;
  while (low < high) {
    const int64_t mid = low + (high - low) / 2;
    if (fill(&f, mid, NULL))
      high = mid;
    else
      low = mid + 1;
  }
  fill(&f, high, out);
  for (int32_t c = f.cta + 1; c <= s->n_ctas; c++) out->cta[c] = out->first_item + f.n_items;
  out->n_items = f.n_items;
  out->n_merges = f.n_merges;
  out->n_slots = f.n_slots;
  out->most = f.most < INT32_MAX ? (int32_t)f.most : INT32_MAX;
out:
  return st;
}
