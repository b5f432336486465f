/* SPDX-License-Identifier: Apache-2.0 */
/* Pinned staging. Uploads fill a ring of segments one after the other; a segment that is full gets an event,
 * which is waited for before the segment is filled again. Downloads fill a buffer from its beginning and are
 * handed out when the stream has been waited for. The thread that owns the device. */
#include "kernels/cuda/ring.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct {
  cudaEvent_t event;
  bool under_way; /* the event was recorded behind its last copy and has not been waited for */
} segment;

typedef struct {
  void *dst;
  size_t at, bytes;
} delivery;

struct weir_cuda_ring {
  weir_cuda_ring_sizes size;
  char *up, *down;  /* owned, pinned */
  segment *segment; /* [size.n_segments] owned */
  int32_t now;      /* the segment being filled, */
  size_t filled;    /* so far */
  delivery *wait;   /* [n_wait], room for max_wait; owned */
  int32_t n_wait, max_wait;
  size_t arriving; /* bytes of `down` taken */
};

/* Pieces start on 16 bytes: what a copy engine likes best. */
static size_t rounded(size_t bytes) { return (bytes + 15) / 16 * 16; }

weir_status weir_cuda_ring_create(weir_dev *dev, weir_cuda_ring_sizes size, weir_cuda_ring **out,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  size_t up_bytes;
  *out = NULL;
  if (size.n_segments < 2 || size.segment_bytes < 16 || size.segment_bytes % 16 != 0 ||
      size.download_bytes < 16 || !weir_mul_size(size.segment_bytes, (size_t)size.n_segments, &up_bytes))
    return weir_fail(e, WEIR_EINVAL, "staging of %d segments of %zu bytes, %zu for downloads",
                     size.n_segments, size.segment_bytes, size.download_bytes);
  weir_cuda_ring *r = calloc(1, sizeof *r);
  if (!r) return weir_fail(e, WEIR_ENOMEM, "memory for staging");
  r->size = size;
  r->segment = calloc((size_t)size.n_segments, sizeof *r->segment);
  if (!r->segment) {
    st = weir_fail(e, WEIR_ENOMEM, "memory for staging");
    goto out;
  }
  void *p = NULL;
  WEIR_TRY(weir_cuda_check(dev, cudaHostAlloc(&p, up_bytes, cudaHostAllocDefault), "pin staging memory", e));
  r->up = p;
  p = NULL;
  WEIR_TRY(weir_cuda_check(dev, cudaHostAlloc(&p, size.download_bytes, cudaHostAllocDefault),
                           "pin staging memory", e));
  r->down = p;
  for (int32_t i = 0; i < size.n_segments; i++)
    WEIR_TRY(weir_cuda_check(dev, cudaEventCreateWithFlags(&r->segment[i].event, cudaEventDisableTiming),
                             "create an event", e));
  *out = r;
out:
  if (st != WEIR_OK) weir_cuda_ring_destroy(r);
  return st;
}

void weir_cuda_ring_destroy(weir_cuda_ring *r) {
  if (!r) return;
  for (int32_t i = 0; r->segment && i < r->size.n_segments; i++)
    if (r->segment[i].event) (void)cudaEventDestroy(r->segment[i].event);
  if (r->down) (void)cudaFreeHost(r->down);
  if (r->up) (void)cudaFreeHost(r->up);
  free(r->wait);
  free(r->segment);
  free(r);
}

/* ---- up ---- */

static weir_status next_segment(weir_dev *dev, weir_cuda_ring *r, weir_err *e) {
  weir_status st = WEIR_OK;
  segment *s = &r->segment[r->now];
  WEIR_TRY(weir_cuda_check(dev, cudaEventRecord(s->event, weir_cuda_of(dev)->stream), "record an event", e));
  s->under_way = true;
  r->now = (r->now + 1) % r->size.n_segments;
  r->filled = 0;
  s = &r->segment[r->now];
  if (s->under_way) WEIR_TRY(weir_cuda_check(dev, cudaEventSynchronize(s->event), "wait for an upload", e));
  s->under_way = false;
out:
  return st;
}

weir_status weir_cuda_ring_upload(weir_dev *dev, weir_cuda_ring *r, void *dst, const void *src, size_t bytes,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  char *to = dst;
  const char *from = src;
  while (bytes > 0) {
    size_t room = r->size.segment_bytes - r->filled;
    /* A piece that fits into a segment is not cut: small ones are one copy each. */
    if (room == 0 || (room < bytes && bytes <= r->size.segment_bytes)) {
      WEIR_TRY(next_segment(dev, r, e));
      room = r->size.segment_bytes;
    }
    const size_t n = bytes < room ? bytes : room;
    char *stage = r->up + (size_t)r->now * r->size.segment_bytes + r->filled;
    memcpy(stage, from, n);
    WEIR_TRY(weir_cuda_check(
        dev, cudaMemcpyAsync(to, stage, n, cudaMemcpyHostToDevice, weir_cuda_of(dev)->stream), "upload", e));
    r->filled += rounded(n);
    to += n;
    from += n;
    bytes -= n;
  }
out:
  return st;
}

/* ---- down ---- */

static weir_status remember(weir_cuda_ring *r, void *dst, size_t at, size_t bytes, weir_err *e) {
  if (r->n_wait == r->max_wait) {
    const int32_t max =
        r->max_wait ? 2 * r->max_wait : 16; /* a piece is 16 bytes or more: bounded by `down` */
    delivery *more = realloc(r->wait, sizeof *more * (size_t)max);
    if (!more) return weir_fail(e, WEIR_ENOMEM, "memory for %d downloads", max);
    r->wait = more;
    r->max_wait = max;
  }
  r->wait[r->n_wait++] = (delivery){dst, at, bytes};
  return WEIR_OK;
}

weir_status weir_cuda_ring_download(weir_dev *dev, weir_cuda_ring *r, void *dst, const void *src,
                                    size_t bytes, weir_err *e) {
  weir_status st = WEIR_OK;
  const cudaStream_t stream = weir_cuda_of(dev)->stream;
  char *to = dst;
  const char *from = src;
  int32_t first = r->n_wait; /* of this download's pieces */
  while (bytes > 0) {
    if (r->arriving >= r->size.download_bytes) {
      WEIR_TRY(weir_cuda_check(dev, cudaStreamSynchronize(stream), "wait for downloads", e));
      weir_cuda_ring_deliver(r);
      first = 0;
    }
    const size_t room = r->size.download_bytes - r->arriving, n = bytes < room ? bytes : room;
    WEIR_TRY(remember(r, to, r->arriving, n, e));
    WEIR_TRY(weir_cuda_check(
        dev, cudaMemcpyAsync(r->down + r->arriving, from, n, cudaMemcpyDeviceToHost, stream), "download", e));
    r->arriving += rounded(n);
    to += n;
    from += n;
    bytes -= n;
  }
out:
  if (st != WEIR_OK) r->n_wait = first; /* dst is lent no longer */
  return st;
}

void weir_cuda_ring_deliver(weir_cuda_ring *r) {
  for (int32_t i = 0; i < r->n_wait; i++) memcpy(r->wait[i].dst, r->down + r->wait[i].at, r->wait[i].bytes);
  for (int32_t i = 0; i < r->size.n_segments; i++) r->segment[i].under_way = false;
  r->now = 0; /* everything has arrived: the pages used last are used again */
  r->filled = 0;
  weir_cuda_ring_abandon(r);
}

void weir_cuda_ring_abandon(weir_cuda_ring *r) {
  r->n_wait = 0;
  r->arriving = 0;
}
