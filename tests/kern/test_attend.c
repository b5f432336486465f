/* SPDX-License-Identifier: Apache-2.0 */
/* Attention against double precision, and its promise: a row's result depends on its position, its window and
 * on KV from there to there, to the bit, whatever the chunking, the paging, the company or the team. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

enum { MAX_PIECES = 32, MAX_LEN = 1100 };
/* Texts that are the last one of these but for a query, or for an element of K or V, that is no number. */
enum { NAN_QUERY = 8, NAN_KEY, NAN_VALUE, HUGE_KEY, HUGE_VALUE, SOUND, SPOILED_AT = 43, SPOILED_DIM = 5 };
static const weir_dev_limits LIMITS = {.max_tokens = 1200,
                                       .max_cols = 4096,
                                       .max_heads = 128,
                                       .max_head_dim = 256,
                                       .max_kv_len = MAX_LEN,
                                       .max_rows_out = 16,
                                       .max_vocab = 1024};

typedef struct shape {
  int32_t head_dim, n_kv, group, page_size;
  weir_dtype dtype;
} shape;

/* How rows look at KV. */
typedef struct look {
  int32_t window;
  float softcap;
  bool stale; /* what stands before every window of a piece is NaN, and its pages have no number */
} look;
static const look plain = {0};

/* Rows [begin, begin + n) of the text `content`, with all before them in KV. */
typedef struct piece {
  uint64_t content;
  int32_t begin, n;
} piece;

/* The contents of texts: a number in (-1, 1) of (text, position, what, dimension); the same for every paging.
 */
static float content_at(uint64_t content, int32_t pos, int32_t what, int32_t dim) {
  kern_rng r = {content * 0x9e3779b97f4a7c15ull + (uint64_t)pos * 0xd1342543de82ef95ull +
                (uint64_t)what * 0x2545f4914f6cdd1dull + (uint64_t)dim};
  return (float)(2 * kern_unit(&r) - 1);
}
static uint64_t sound(uint64_t content) { return content >= NAN_QUERY && content < SOUND ? SOUND : content; }
static float q_at(const piece *p, int32_t pos, int32_t head, int32_t dim) {
  if (p->content == NAN_QUERY && pos % 480 == 33 && head == 1 && dim == SPOILED_DIM) return NAN;
  return 6 * content_at(sound(p->content), pos, 1000 + head, dim);
}
/* Position 99 of text 7 is infinite: nobody before it may notice. */
static bool is_huge(uint64_t content, int32_t pos) { return content == 7 && pos == 99; }
static bool is_spoiled(uint64_t content, int32_t pos, int32_t is_v, int32_t head) {
  return pos == SPOILED_AT && head == 0 &&
         (is_v ? content == NAN_VALUE || content == HUGE_VALUE : content == NAN_KEY || content == HUGE_KEY);
}
static bool is_nan_text(uint64_t content) { return content == NAN_KEY || content == NAN_VALUE; }
static float plain_at(uint64_t content, int32_t pos, int32_t is_v, int32_t head, int32_t dim) {
  return content_at(sound(content), pos, 2 * head + is_v, dim);
}
/* What Q8_0 stores: a byte, and a scale of its block as a half. */
static int8_t byte_at(uint64_t content, int32_t pos, int32_t is_v, int32_t head, int32_t dim) {
  return (int8_t)lrintf(127 * plain_at(content, pos, is_v, head, dim));
}
static uint16_t scale_at(uint64_t content, int32_t pos, int32_t is_v, int32_t head, int32_t block) {
  if (is_huge(content, pos)) return 0x7c00;
  if (is_spoiled(content, pos, is_v, head) && block == SPOILED_DIM / 32)
    return is_nan_text(content) ? 0x7e00 : 0x7c00;
  return weir_f32_to_f16((0.2f + fabsf(plain_at(content, pos, is_v, head, 5000 + block))) / 127);
}
static float kv_at(const shape *s, uint64_t content, int32_t pos, int32_t is_v, int32_t head, int32_t dim) {
  if (s->dtype == WEIR_Q8_0)
    return byte_at(content, pos, is_v, head, dim) *
           weir_f16_to_f32(scale_at(content, pos, is_v, head, dim / 32));
  if (is_huge(content, pos)) return is_v ? INFINITY : 1e30f;
  if (is_spoiled(content, pos, is_v, head) && dim == SPOILED_DIM)
    return is_nan_text(content) ? NAN : INFINITY;
  const float x = plain_at(content, pos, is_v, head, dim);
  return s->dtype == WEIR_F16 ? weir_f16_to_f32(weir_f32_to_f16(x)) : x;
}

/* Bytes of a head's K or V of a position: elements, and behind them the scales of Q8_0. */
static size_t row_bytes(const shape *s) {
  const size_t d = (size_t)s->head_dim;
  return s->dtype == WEIR_Q8_0 ? d / 32 * 34 : d * (s->dtype == WEIR_F16 ? 2 : 4);
}
static void make_row(const shape *s, unsigned char *to, uint64_t content, int32_t pos, int32_t is_v,
                     int32_t head) {
  for (int32_t c = 0; c < s->head_dim; c++) {
    if (s->dtype == WEIR_Q8_0) {
      to[c] = (unsigned char)byte_at(content, pos, is_v, head, c);
      if (c % 32 != 0) continue;
      const uint16_t scale = scale_at(content, pos, is_v, head, c / 32);
      memcpy(to + s->head_dim + c / 32 * 2, &scale, 2);
      continue;
    }
    const float x = kv_at(s, content, pos, is_v, head, c);
    const uint16_t x16 = weir_f32_to_f16(x);
    if (s->dtype == WEIR_F32)
      memcpy(to + 4 * c, &x, 4);
    else
      memcpy(to + 2 * c, &x16, 2);
  }
}

/* The rows of the texts used last, [len][2][n_kv][row_bytes]: making them takes longer than attending. */
static struct text {
  shape s;
  uint64_t content;
  int32_t len;
  unsigned char *rows;
} texts[MAX_PIECES];

static const unsigned char *text_rows(const shape *s, uint64_t content, int32_t len) {
  struct text *t = &texts[content % MAX_PIECES];
  if (t->len >= len && t->content == content && t->s.head_dim == s->head_dim && t->s.n_kv == s->n_kv &&
      t->s.dtype == s->dtype)
    return t->rows;
  free(t->rows);
  *t = (struct text){*s, content, len, (unsigned char *)malloc((size_t)(len * 2 * s->n_kv) * row_bytes(s))};
  for (int32_t i = 0; i < len * 2 * s->n_kv; i++)
    make_row(s, t->rows + (size_t)i * row_bytes(s), content, i / (2 * s->n_kv), i / s->n_kv % 2, i % s->n_kv);
  return t->rows;
}
static int forget_texts(void **state) {
  (void)state;
  for (size_t i = 0; i < MAX_PIECES; i++) free(texts[i].rows);
  return 0;
}

/* Stores a head's K or V of a position as device.h says; `half` is where the page's K or V begins. */
static void put_row(const shape *s, unsigned char *half, const unsigned char *row, int32_t pos,
                    int32_t head) {
  const size_t d = (size_t)s->head_dim, size = (size_t)s->page_size, slot = (size_t)pos % size;
  unsigned char *of_head = half + (size_t)head * size * row_bytes(s);
  const size_t elements = s->dtype == WEIR_Q8_0 ? d : row_bytes(s);
  memcpy(of_head + slot * elements, row, elements);
  for (size_t b = 0; s->dtype == WEIR_Q8_0 && b < d / 32; b++)
    memcpy(of_head + size * d + (b * size + slot) * 2, row + d + 2 * b, 2);
}

/* The first position that a row at pos sees. */
static int32_t seen_from(look w, int32_t pos) {
  return w.window > 0 && pos >= w.window ? pos - w.window + 1 : 0;
}

/* One call of the op over each piece's rows that are `apart` positions from each other, n of them; dense
 * [rows][n_heads*head_dim], free(). Slots of KV that no piece has written are NaN.
 */
static float *step_apart(weir_dev *dev, const shape *s, look w, const piece *piece_of, int32_t n_pieces,
                         uint64_t seed, int32_t apart) {
  kern_rng rng = {seed};
  weir_err e = {0};
  const int32_t d = s->head_dim, n_heads = s->n_kv * s->group;
  int32_t q_indptr[MAX_PIECES + 1] = {0}, page_indptr[MAX_PIECES + 1] = {0}, kv_len[MAX_PIECES];
  int32_t max_q = 0, max_kv = 0;
  for (int32_t i = 0; i < n_pieces; i++) {
    kv_len[i] = piece_of[i].begin + (piece_of[i].n - 1) * apart + 1;
    q_indptr[i + 1] = q_indptr[i] + piece_of[i].n;
    page_indptr[i + 1] = page_indptr[i] + (kv_len[i] + s->page_size - 1) / s->page_size;
    if (piece_of[i].n > max_q) max_q = piece_of[i].n;
    if (kv_len[i] > max_kv) max_kv = kv_len[i];
  }
  const int32_t rows = q_indptr[n_pieces], n_pages = page_indptr[n_pieces] + 3;
  int32_t *page = (int32_t *)malloc(sizeof *page * (size_t)n_pages);
  int32_t *pos = (int32_t *)malloc(sizeof *pos * (size_t)rows),
          *seq = (int32_t *)malloc(sizeof *seq * (size_t)rows);
  for (int32_t i = 0; i < n_pages; i++) page[i] = i;
  kern_shuffle(&rng, page, n_pages);

  const size_t half = (size_t)s->n_kv * (size_t)s->page_size * row_bytes(s);
  const size_t kv_bytes = (size_t)n_pages * 2 * half;
  unsigned char *kv = (unsigned char *)malloc(kv_bytes);
  memset(kv, 0xff, kv_bytes); /* NaN in all types */
  float *q = (float *)malloc(sizeof *q * (size_t)rows * (size_t)n_heads * (size_t)d);
  for (int32_t i = 0; i < n_pieces; i++) {
    const piece *p = &piece_of[i];
    for (int32_t r = 0; r < p->n; r++) {
      const int32_t row = q_indptr[i] + r;
      pos[row] = p->begin + r * apart;
      seq[row] = i;
      for (int32_t h = 0; h < n_heads; h++)
        for (int32_t c = 0; c < d; c++)
          q[((size_t)row * (size_t)n_heads + (size_t)h) * (size_t)d + (size_t)c] = q_at(p, pos[row], h, c);
    }
    const unsigned char *stored = text_rows(s, p->content, kv_len[i]);
    for (int32_t t = w.stale ? seen_from(w, p->begin) : 0; t < kv_len[i]; t++)
      for (int32_t is_v = 0; is_v < 2; is_v++)
        for (int32_t h = 0; h < s->n_kv; h++) {
          const size_t pg = (size_t)page[page_indptr[i] + t / s->page_size];
          put_row(s, kv + (pg * 2 + (size_t)is_v) * half,
                  stored + (size_t)((t * 2 + is_v) * s->n_kv + h) * row_bytes(s), t, h);
        }
  }
  for (int32_t i = 0; w.stale && i < n_pieces; i++)
    for (int32_t k = 0; k < seen_from(w, piece_of[i].begin) / s->page_size; k++)
      page[page_indptr[i] + k] = k % 2 ? INT32_MAX : -1;
  void *dkv = kern_copy(dev, kv, kv_bytes);
  int32_t *ints[] = {(int32_t *)kern_copy(dev, pos, sizeof *pos * (size_t)rows),
                     (int32_t *)kern_copy(dev, seq, sizeof *seq * (size_t)rows),
                     (int32_t *)kern_copy(dev, q_indptr, sizeof q_indptr),
                     (int32_t *)kern_copy(dev, kv_len, sizeof kv_len),
                     (int32_t *)kern_copy(dev, page_indptr, sizeof page_indptr),
                     (int32_t *)kern_copy(dev, page, sizeof *page * (size_t)n_pages)};
  const weir_ragged g = {.n_tokens = rows,
                         .n_seqs = n_pieces,
                         .pos = ints[0],
                         .seq = ints[1],
                         .q_indptr = ints[2],
                         .kv_len = ints[3],
                         .page_indptr = ints[4],
                         .page = ints[5],
                         .max_q_len = max_q,
                         .max_kv_len = max_kv};
  weir_mat dq = kern_mat(dev, rows, n_heads * d, 6), out = kern_mat(dev, rows, n_heads * d, 10);
  kern_put(dev, dq, q);
  const weir_kv_layer layer = {dkv, s->dtype, n_pages, s->n_kv, s->page_size, d};
  const weir_attend_args args = {(float)(1 / sqrt((double)d)), w.window, w.softcap};
  kern_ok(weir_op_attend(dev, out, dq, &g, layer, &args, &e), &e, "attend");
  float *got = kern_get(dev, out);
  kern_mat_free(dev, dq);
  kern_mat_free(dev, out);
  weir_dev_release(dev, dkv);
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) weir_dev_release(dev, ints[i]);
  free(kv);
  free(q);
  free(pos);
  free(seq);
  free(page);
  return got;
}

static float *step(weir_dev *dev, const shape *s, look w, const piece *piece_of, int32_t n_pieces,
                   uint64_t seed) {
  return step_apart(dev, s, w, piece_of, n_pieces, seed, 1);
}

/* Double precision, one head after another; k and v of the head are made once. */
static double *reference(const shape *s, look view, const piece *p) {
  const int32_t d = s->head_dim, n_heads = s->n_kv * s->group, len = p->begin + p->n;
  double *out = (double *)calloc((size_t)p->n * (size_t)n_heads * (size_t)d, sizeof *out);
  double *k = (double *)malloc(sizeof *k * (size_t)len * (size_t)d),
         *v = (double *)malloc(sizeof *v * (size_t)len * (size_t)d);
  double *w = (double *)malloc(sizeof *w * (size_t)len);
  const double scale = (double)(float)(1 / sqrt((double)d));
  for (int32_t kh = 0; kh < s->n_kv; kh++) {
    for (int32_t t = 0; t < len; t++)
      for (int32_t c = 0; c < d; c++) {
        k[t * d + c] = (double)kv_at(s, p->content, t, 0, kh, c);
        v[t * d + c] = (double)kv_at(s, p->content, t, 1, kh, c);
      }
    for (int32_t r = 0; r < p->n; r++)
      for (int32_t h = kh * s->group; h < (kh + 1) * s->group; h++) {
        const int32_t last = p->begin + r, first = seen_from(view, last);
        double *o = out + ((size_t)r * (size_t)n_heads + (size_t)h) * (size_t)d, top = -INFINITY, sum = 0,
               q[256];
        for (int32_t c = 0; c < d; c++) q[c] = (double)q_at(p, last, h, c);
        for (int32_t t = first; t <= last; t++) {
          w[t] = 0;
          for (int32_t c = 0; c < d; c++) w[t] += q[c] * k[t * d + c];
          w[t] *= scale;
          if (view.softcap > 0) w[t] = (double)view.softcap * tanh(w[t] / (double)view.softcap);
          if (w[t] > top) top = w[t];
        }
        for (int32_t t = first; t <= last; t++) sum += w[t] = exp(w[t] - top);
        for (int32_t t = first; t <= last; t++)
          for (int32_t c = 0; c < d; c++) o[c] += w[t] / sum * v[t * d + c];
      }
  }
  free(k);
  free(v);
  free(w);
  return out;
}

/* Decode rows at every interesting length, chunks of every interesting length over every prefix: one batch.
 * Of wide rows, which take long, only some of these. */
static int32_t mixed_batch(piece *p, bool wide) {
  static const int32_t lengths[] = {1, 15, 16, 17, 33, 333, 1030}, q_len[] = {1, 5, 64, 130},
                       prefix[] = {0, 16, 37};
  int32_t n = 0;
  for (size_t i = 0; i < 7; i++, n++) p[n] = (piece){100 + (uint64_t)n, lengths[i] - 1, 1};
  for (size_t i = 0; i < 4; i++)
    for (size_t k = 0; k < 3; k++, n++) p[n] = (piece){100 + (uint64_t)n, prefix[k], q_len[i]};
  if (!wide) return n;
  static const int32_t some[] = {4, 6, 12, 14}; /* 1 of 33 and of 1030, 5 behind 37, 64 behind 16 */
  for (n = 0; n < 4; n++) p[n] = p[some[n]];
  return n;
}

/* Each instruction set with one thread, and a team of 2, 3 or 4, by turns. */
static bool one_team(const kern_devs *devs, int i, int32_t turn) {
  return devs->threads[i] == 1 || devs->threads[i] == 2 + turn % 3;
}

static void check_shape(const kern_devs *devs, const shape *s, look w, const piece *p, int32_t n_pieces,
                        double *worst) {
  const int32_t d = s->head_dim, n_heads = s->n_kv * s->group;
  double *want[MAX_PIECES];
  float *first = NULL;
  weir_isa first_isa = WEIR_ISA_BEST;
  int32_t rows = 0;
  for (int32_t i = 0; i < n_pieces; i++) want[i] = reference(s, w, &p[i]), rows += p[i].n;
  for (int i = 0; i < devs->n; i++) {
    if (!one_team(devs, i, s->head_dim / 8)) continue;
    float *got = step(devs->dev[i], s, w, p, n_pieces, (uint64_t)i + 5);
    if (devs->isa[i] == first_isa)
      kern_same(got, first, sizeof *got * (size_t)rows * (size_t)n_heads * (size_t)d,
                "another team, other pages");
    else
      for (int32_t k = 0, row = 0; k < n_pieces; k++)
        for (int32_t r = 0; r < p[k].n; r++, row++)
          for (int32_t h = 0; h < n_heads; h++) {
            const double err =
                kern_row_error(got + ((size_t)row * (size_t)n_heads + (size_t)h) * (size_t)d,
                               want[k] + ((size_t)r * (size_t)n_heads + (size_t)h) * (size_t)d, d);
            if (err > *worst) *worst = err;
            if (err > 1e-5)
              fail_msg(
                  "%s, head_dim %d, group %d, page %d, window %d, cap %g, piece %d (%d+%d), row %d, head %d: "
                  "%g",
                  weir_isa_name(devs->isa[i]), d, s->group, s->page_size, w.window, (double)w.softcap, k,
                  p[k].begin, p[k].n, r, h, err);
          }
    free(first);
    first = got;
    first_isa = devs->isa[i];
  }
  free(first);
  for (int32_t i = 0; i < n_pieces; i++) free(want[i]);
}

/* Every type with every head size and every group, and every head size that AMX takes with whole and broken
 * octs; pages of other sizes and several KV heads here and there, one shape with as many octs as an item of
 * work can have. */
static void test_against_reference(void **state) {
  static const shape shapes[] = {
      {8, 2, 1, 16, WEIR_F16},    {10, 1, 3, 16, WEIR_F16},   {32, 2, 2, 24, WEIR_F16},
      {32, 1, 16, 16, WEIR_F16},  {32, 14, 9, 16, WEIR_F16},  {64, 3, 1, 16, WEIR_F16},
      {64, 1, 2, 4, WEIR_F16},    {64, 6, 2, 16, WEIR_F16},   {64, 1, 4, 32, WEIR_F16},
      {64, 1, 8, 16, WEIR_F16},   {80, 1, 7, 16, WEIR_F16},   {96, 2, 9, 4, WEIR_F16},
      {128, 1, 4, 16, WEIR_F16},  {128, 1, 16, 16, WEIR_F16}, {256, 1, 1, 16, WEIR_F16},
      {256, 1, 8, 16, WEIR_F16},  {8, 2, 2, 16, WEIR_F32},    {10, 1, 16, 16, WEIR_F32},
      {32, 20, 1, 16, WEIR_F32},  {64, 1, 3, 24, WEIR_F32},   {80, 1, 8, 16, WEIR_F32},
      {96, 1, 9, 16, WEIR_F32},   {128, 1, 4, 16, WEIR_F32},  {256, 1, 7, 16, WEIR_F32},
      {32, 2, 2, 24, WEIR_Q8_0},  {32, 1, 16, 16, WEIR_Q8_0}, {64, 5, 1, 16, WEIR_Q8_0},
      {64, 1, 3, 32, WEIR_Q8_0},  {64, 1, 8, 4, WEIR_Q8_0},   {96, 1, 7, 16, WEIR_Q8_0},
      {96, 2, 9, 24, WEIR_Q8_0},  {128, 1, 1, 16, WEIR_Q8_0}, {128, 1, 8, 16, WEIR_Q8_0},
      {256, 1, 4, 16, WEIR_Q8_0}, {256, 1, 8, 16, WEIR_Q8_0}};
  kern_devs devs;
  double worst[WEIR_Q8_0 + 1] = {0};
  piece p[MAX_PIECES];
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const int32_t n = mixed_batch(p, shapes[i].head_dim * shapes[i].n_kv * shapes[i].group >= 1024);
    check_shape(&devs, &shapes[i], plain, p, n, &worst[shapes[i].dtype]);
  }
  kern_devs_close(&devs);
  print_message("worst row error %.2g with F16, %.2g with F32, %.2g with Q8_0 KV (bound 1e-5)\n",
                worst[WEIR_F16], worst[WEIR_F32], worst[WEIR_Q8_0]);
}

/* Windows that begin at, before and behind the seams of pages, blocks and spans, and soft caps. */
static void test_windows_and_caps(void **state) {
  static const struct {
    shape s;
    look w;
  } cases[] = {{{64, 1, 2, 16, WEIR_F16}, {1, 0, false}},     {{64, 1, 4, 16, WEIR_F32}, {2, 0, true}},
               {{32, 2, 1, 16, WEIR_F32}, {15, 0, false}},    {{80, 1, 7, 16, WEIR_F16}, {16, 0, true}},
               {{64, 1, 1, 16, WEIR_F16}, {17, 0, false}},    {{64, 1, 3, 16, WEIR_F16}, {31, 3, true}},
               {{128, 1, 2, 16, WEIR_F16}, {32, 0, false}},   {{64, 1, 8, 32, WEIR_F32}, {33, 0, true}},
               {{256, 1, 2, 16, WEIR_F16}, {100, 50, false}}, {{64, 1, 2, 16, WEIR_F16}, {511, 0, false}},
               {{10, 1, 3, 24, WEIR_F16}, {512, 0, true}},    {{32, 1, 2, 16, WEIR_F32}, {513, 30, true}},
               {{256, 1, 1, 16, WEIR_F32}, {0, 50, false}},   {{96, 1, 4, 16, WEIR_F16}, {0, 0.5f, false}},
               {{64, 1, 2, 16, WEIR_F16}, {2000, 0, true}},   {{64, 1, 8, 16, WEIR_Q8_0}, {17, 0, true}},
               {{128, 1, 1, 16, WEIR_Q8_0}, {33, 30, true}},  {{32, 2, 4, 16, WEIR_Q8_0}, {500, 0, true}},
               {{64, 1, 7, 24, WEIR_Q8_0}, {63, 0, true}},    {{64, 1, 8, 16, WEIR_F16}, {33, 30, true}},
               {{64, 1, 4, 16, WEIR_F16}, {63, 0, true}}};
  static const piece p[] = {{200, 1029, 1}, {201, 0, 1},    {202, 600, 130}, {203, 0, 70}, {204, 511, 1},
                            {205, 512, 1},  {206, 543, 40}, {207, 37, 64},   {208, 15, 2}};
  /* Few rows far out: a team shares their spans, which do not begin at the first. */
  static const piece few[] = {{300, 1060, 1}, {301, 1050, 3}, {302, 700, 1}};
  static const look few_looks[] = {{560, 0, true}, {520, 30, true}, {0, 0, false}};
  const shape wide = {64, 2, 4, 16, WEIR_F16};
  kern_devs devs;
  double worst[2] = {0};
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t i = 0; i < 3; i++)
    check_shape(&devs, &wide, few_looks[i], few + i % 2, 2, &worst[few_looks[i].softcap > 0]);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    check_shape(&devs, &cases[i].s, cases[i].w, p, sizeof p / sizeof *p, &worst[cases[i].w.softcap > 0]);
  kern_devs_close(&devs);
  print_message("worst row error %.2g without, %.2g with a soft cap (bound 1e-5)\n", worst[0], worst[1]);
}

/* A window changes rows that it cuts off from something, and no bit of others. */
static void test_window_of_everything(void **state) {
  static const shape shapes[] = {
      {64, 1, 2, 16, WEIR_F16}, {32, 2, 3, 16, WEIR_F32}, {32, 2, 3, 16, WEIR_Q8_0}};
  static const look looks[] = {{0, 0, false}, {0, 8, false}};
  enum { N = 4 };
  static const piece p[N] = {{31, 470, 60}, {32, 1000, 20}, {33, 499, 1}, {34, 0, 30}};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < 2 * sizeof shapes / sizeof *shapes; k++)
    for (int i = 0; i < devs.n; i++) {
      const shape *s = &shapes[k / 2];
      if (!one_team(&devs, i, (int32_t)k)) continue;
      const size_t width = (size_t)s->head_dim * (size_t)s->n_kv * (size_t)s->group;
      look w = looks[k % 2];
      float *whole = step(devs.dev[i], s, w, p, N, 1);
      static const int32_t windows[] = {1020, INT32_MAX, 500, 20};
      for (size_t v = 0; v < sizeof windows / sizeof *windows; v++) {
        w.window = windows[v];
        float *got = step(devs.dev[i], s, w, p, N, 2);
        for (int32_t q = 0, row = 0; q < N; q++)
          for (int32_t r = 0; r < p[q].n; r++, row++) {
            const size_t at = (size_t)row * width;
            const bool same = memcmp(got + at, whole + at, sizeof *got * width) == 0;
            if (same != (p[q].begin + r < w.window))
              fail_msg("position %d, window %d: %s", p[q].begin + r, w.window, same ? "same" : "other bits");
          }
        free(got);
      }
      free(whole);
    }
  kern_devs_close(&devs);
}

/* What a number that is none does to an element of a row: nothing, to be no number either, or no matter what.
 */
typedef enum { SAME, IS_NAN, NOT_FINITE, ANY } harm;
static harm harm_at(const shape *s, look w, uint64_t content, int32_t pos, int32_t head, int32_t dim) {
  const bool in_block =
      s->dtype == WEIR_Q8_0 ? dim / 32 == SPOILED_DIM / 32 : dim == SPOILED_DIM; /* of V: as far as it goes */
  if (content == NAN_QUERY) return pos % 480 == 33 && head == 1 ? IS_NAN : SAME;
  if (head >= s->group || pos < SPOILED_AT || seen_from(w, pos) > SPOILED_AT) return SAME;
  switch (content) {
    case NAN_KEY: return IS_NAN;
    case HUGE_KEY: return ANY; /* a score of -infinity is a weight of 0 */
    case NAN_VALUE: return in_block ? IS_NAN : SAME;
    default: return in_block ? NOT_FINITE : SAME;
  }
}

static void check_harm(const shape *s, look w, const piece *p, const float *sound_row, const float *row,
                       int32_t *n_bad) {
  const int32_t d = s->head_dim;
  for (int32_t at = 0; at < p->n * s->n_kv * s->group * d; at++) {
    const int32_t dim = at % d, head = at / d % (s->n_kv * s->group), r = at / d / (s->n_kv * s->group);
    const harm h = harm_at(s, w, p->content, p->begin + r, head, dim);
    const float x = sound_row[at], y = row[at];
    *n_bad += !isfinite(y);
    if ((h == SAME && memcmp(&x, &y, sizeof x) != 0) || (h == IS_NAN && !isnan(y)) ||
        (h == NOT_FINITE && isfinite(y)))
      fail_msg("text %d, type %d, group %d, window %d, position %d, head %d, dim %d: %g, sound %g",
               (int)p->content, (int)s->dtype, s->group, w.window, p->begin + r, head, dim, (double)y,
               (double)x);
  }
}

/* A query that is no number spoils its own row only, a key or value those rows that see it, in company of
 * others that do not in the same tile, or behind the seam of a span; and nothing waits for them. */
static void test_not_a_number(void **state) {
  static const look looks[] = {{0, 0, false}, {40, 30, false}, {7, 0, false}, {0, 30, false}};
  static const shape shapes[] = {{64, 2, 2, 16, WEIR_F16},  {64, 1, 4, 16, WEIR_Q8_0},
                                 {10, 1, 3, 16, WEIR_F32},  {32, 2, 8, 16, WEIR_F16},
                                 {64, 2, 8, 16, WEIR_Q8_0}, {64, 1, 16, 16, WEIR_F16},
                                 {32, 1, 16, 8, WEIR_Q8_0}, {80, 1, 7, 16, WEIR_F16}};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < 2 * sizeof shapes / sizeof *shapes; k++)
    for (int i = 0; i < devs.n; i++) {
      const shape *s = &shapes[k / 2];
      const look w = looks[k % 2 * 2 + k / 2 % 2]; /* two of them each */
      if (!one_team(&devs, i, (int32_t)k)) continue;
      const size_t width = (size_t)s->head_dim * (size_t)s->n_kv * (size_t)s->group;
      piece p[] = {{SOUND, 505, 12}, {SOUND, 0, 90}};
      float *want = step(devs.dev[i], s, w, p, 2, 1);
      for (uint64_t content = NAN_QUERY; content < SOUND; content++) {
        int32_t n_bad = 0;
        p[0].content = p[1].content = content;
        float *got = step(devs.dev[i], s, w, p, 2, 2);
        check_harm(s, w, &p[0], want, got, &n_bad);
        check_harm(s, w, &p[1], want + 12 * width, got + 12 * width, &n_bad);
        if (n_bad == 0 && (content != HUGE_KEY || w.softcap <= 0))
          fail_msg("text %d shows nowhere", (int)content);
        free(got);
      }
      free(want);
    }
  kern_devs_close(&devs);
}

/* Rows [begin, begin+n) of the whole must come out of `got`. */
static void same_rows(const float *got, const float *whole, int32_t begin, int32_t n, size_t width,
                      const char *what) {
  kern_same(got, whole + (size_t)begin * width, sizeof *got * (size_t)n * width, what);
}

static void test_chunking(void **state) {
  static const shape shapes[] = {
      {64, 2, 2, 16, WEIR_F16},  {32, 1, 2, 16, WEIR_F32},  {80, 1, 7, 16, WEIR_F16},
      {64, 1, 2, 16, WEIR_F16},  {64, 1, 1, 16, WEIR_F32},  {32, 2, 4, 16, WEIR_F16},
      {32, 1, 3, 24, WEIR_F16},  {64, 1, 2, 8, WEIR_F16},   {32, 1, 2, 16, WEIR_F32},
      {64, 2, 8, 16, WEIR_Q8_0}, {32, 1, 3, 16, WEIR_Q8_0}, {64, 1, 4, 16, WEIR_Q8_0},
      {64, 3, 1, 16, WEIR_Q8_0}, {64, 2, 8, 16, WEIR_F16},  {32, 1, 9, 16, WEIR_Q8_0}};
  static const look looks[] = {{0},
                               {0},
                               {0},
                               {1, 0, true},
                               {20, 0, true},
                               {32, 0, true},
                               {100, 30, true},
                               {513, 0, true},
                               {0, 20, false},
                               {0},
                               {20, 0, true},
                               {513, 0, true},
                               {0},
                               {100, 30, true},
                               {0}};
  enum { LEN = 600 };
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
    const shape *s = &shapes[k];
    const size_t width = (size_t)s->head_dim * (size_t)s->n_kv * (size_t)s->group;
    for (int i = 0; i < devs.n; i++) {
      weir_dev *dev = devs.dev[i];
      kern_rng rng = {k + 11};
      const look w = looks[k];
      if (!one_team(&devs, i, (int32_t)k)) continue;
      if (devs.isa[i] == WEIR_ISA_SCALAR && width >= 1024) continue; /* for octs, which it has none of */
      const piece all = {3, 0, LEN};
      float *whole = step(dev, s, w, &all, 1, 1);
      for (int32_t at = 0; at < LEN;) { /* random chunks, each beside other texts */
        int32_t n = 1 + kern_below(&rng, 150);
        if (n > LEN - at) n = LEN - at;
        const int32_t o1 = kern_below(&rng, 60), o2 = kern_below(&rng, 560);
        const piece p[] = {{21, o1, 1 + kern_below(&rng, 40)}, {3, at, n}, {22, o2, 1}};
        float *got = step(dev, s, w, p, 3, kern_u64(&rng));
        same_rows(got + (size_t)p[0].n * width, whole, at, n, width, "a chunk beside others");
        free(got);
        at += n;
      }
      static const int32_t gap[][3] = {{5, 79, 7}, {0, 2, 590}, {30, 12, 33}}; /* begin, rows, apart */
      for (size_t a = 0; a < sizeof gap / sizeof *gap; a++) { /* as when a step asks for some rows only */
        const piece p[] = {{21, 5, 2}, {3, gap[a][0], gap[a][1]}};
        float *got = step_apart(dev, s, w, p, 2, kern_u64(&rng), gap[a][2]);
        for (int32_t r = 0; r < p[1].n; r++)
          kern_same(got + (size_t)(2 + r) * width, whole + (size_t)(p[1].begin + r * gap[a][2]) * width,
                    sizeof *got * width, "rows with gaps");
        free(got);
      }
      static const int32_t alone[] = {0, 1, 14, 15, 16, 17, 31, 32, 100, 510, 511, 512, 513, 530, 599};
      for (size_t a = 0; a < sizeof alone / sizeof *alone; a++) {
        const piece p = {3, alone[a], 1};
        float *got = step(dev, s, w, &p, 1, kern_u64(&rng));
        same_rows(got, whole, alone[a], 1, width, "a single token");
        free(got);
      }
      free(whole);
    }
  }
  kern_devs_close(&devs);
}

/* What stands behind a row, in its own page and tile, is not looked at, be it infinite. */
static void test_future_is_not_seen(void **state) {
  static const shape shapes[] = {{64, 1, 4, 16, WEIR_F16},
                                 {32, 1, 1, 16, WEIR_F32},
                                 {64, 1, 4, 16, WEIR_Q8_0},
                                 {64, 1, 8, 16, WEIR_F16},
                                 {64, 1, 8, 16, WEIR_Q8_0}};
  kern_devs devs;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
    for (int i = 0; i < devs.n; i++) {
      const shape *s = &shapes[k];
      const size_t width = (size_t)s->head_dim * (size_t)s->n_kv * (size_t)s->group;
      const piece with = {7, 60, 50}, without = {7, 60, 39}; /* positions 60..109; 60..98 */
      float *a = step(devs.dev[i], s, plain, &with, 1, 1), *b = step(devs.dev[i], s, plain, &without, 1, 1);
      for (size_t j = 0; j < 39 * width; j++)
        if (!isfinite(b[j])) fail_msg("row %zu is not finite", j / width);
      kern_same(a, b, sizeof *a * 39 * width, "rows before an infinite position");
      int bad = 0;
      for (size_t j = 39 * width; j < 50 * width; j++) bad += !isfinite(a[j]);
      assert_true(bad > 0); /* and those behind it do */
      free(a);
      free(b);
    }
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_reference),
                                     cmocka_unit_test(test_windows_and_caps),
                                     cmocka_unit_test(test_window_of_everything),
                                     cmocka_unit_test(test_not_a_number),
                                     cmocka_unit_test(test_chunking),
                                     cmocka_unit_test(test_future_is_not_seen)};
  return cmocka_run_group_tests(tests, NULL, forget_texts);
}
