/* SPDX-License-Identifier: Apache-2.0 */
/* What `weir quantize` prints: the plan by pairs of types, single tensors, the result; as text and as JSON.
 * Main thread. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "programs/inspect.h"
#include "programs/quantize.h"

enum { NOTES = 6 }; /* lines about tensors of a kind before "and N more" */

static const char *type_name(weir_dtype t) { return weir_dtype_get(t)->name; }

static double bits_per_weight(uint64_t bytes, int64_t elems) {
  return elems > 0 ? 8.0 * (double)bytes / (double)elems : 0;
}

static uint64_t bytes_in(const weir_quantize_tensor *t) {
  return (uint64_t)t->in_row_bytes * (uint64_t)t->rows;
}

static void print_name(const weir_quantize_tensor *t, weir_out *o) {
  weir_out_text(o, t->in.name.data, t->in.name.len);
}

/* Why, in a few words. */
static void why_text(const weir_quantize_plan *p, const weir_quantize_tensor *t, char *buf, size_t n) {
  switch (t->why) {
    case WEIR_BY_TYPE: buf[0] = '\0'; break;
    case WEIR_BY_HEAD: snprintf(buf, n, p->tied ? "head, tied" : "head"); break;
    case WEIR_BY_EMBED: snprintf(buf, n, "--embed"); break;
    case WEIR_BY_RULE: snprintf(buf, n, "rule %s", p->rule[t->rule].text); break;
    case WEIR_BY_VECTOR: snprintf(buf, n, "vector"); break;
    case WEIR_BY_KIND: snprintf(buf, n, "left alone"); break;
  }
}

/* ---- text ---- */

void weir_quantize_show_tensor(const weir_quantize_plan *p, int64_t i, bool done, weir_out *o) {
  const weir_quantize_tensor *t = &p->tensor[i];
  char shape[96] = "", in[32], out[32], why[160];
  size_t n = 0;
  for (int d = 0; d < t->in.n_dims && n < sizeof shape; d++)
    n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld", d ? " x " : "", (long long)t->in.dim[d]);
  weir_bytes_text((double)bytes_in(t), in, sizeof in);
  weir_bytes_text((double)t->out_bytes, out, sizeof out);
  weir_out_printf(o, "%-5s%-5s  %-20s %10s %10s", type_name(t->in.dtype),
                  t->to == t->in.dtype ? "" : type_name(t->to), shape, in, out);
  if (!done || t->to == t->in.dtype)
    weir_out_printf(o, "  %8s  ", "");
  else
    weir_out_printf(o, "  %6.3f %%  ", 100 * t->rms);
  print_name(t, o);
  why_text(p, t, why, sizeof why);
  if (why[0]) weir_out_printf(o, "  (%s)", why);
  if (t->to != t->wanted) weir_out_printf(o, "  (instead of %s)", type_name(t->wanted));
  weir_out_printf(o, "\n");
}

static void show_groups(const weir_quantize_plan *p, weir_out *o) {
  for (int from = 0; from < WEIR_DTYPE_COUNT; from++)
    for (int to = 0; to < WEIR_DTYPE_COUNT; to++) {
      int64_t n = 0, elems = 0;
      uint64_t in_bytes = 0, out_bytes = 0;
      char in[32], out[32];
      for (int64_t i = 0; i < p->n; i++) {
        const weir_quantize_tensor *t = &p->tensor[i];
        if ((int)t->in.dtype != from || (int)t->to != to) continue;
        n++;
        elems += t->elems;
        in_bytes += bytes_in(t);
        out_bytes += t->out_bytes;
      }
      if (n == 0) continue;
      weir_bytes_text((double)in_bytes, in, sizeof in);
      weir_bytes_text((double)out_bytes, out, sizeof out);
      weir_out_printf(o, "%-5s%-5s  %6lld %s %14lld weights %12s %12s\n", type_name((weir_dtype)from),
                      from == to ? "" : type_name((weir_dtype)to), (long long)n,
                      n == 1 ? "tensor " : "tensors", (long long)elems, in, out);
    }
}

static void show_notes(const weir_quantize_plan *p, bool every, weir_out *o) {
  for (int32_t r = 0; r < p->n_rules; r++)
    weir_out_printf(o, "rule %s: %lld %s\n", p->rule[r].text, (long long)p->rule[r].n_tensors,
                    p->rule[r].n_tensors == 1 ? "tensor" : "tensors");
  int64_t told = 0;
  for (int64_t i = 0; i < p->n; i++) {
    const weir_quantize_tensor *t = &p->tensor[i];
    if (t->why != WEIR_BY_HEAD || t->to != t->wanted) continue;
    weir_out_printf(o, "%s", "");
    print_name(t, o);
    weir_out_printf(o, ": %s%s\n", type_name(t->to), p->tied ? ", being the head too" : ", being the head");
  }
  for (int64_t i = 0; i < p->n; i++) {
    const weir_quantize_tensor *t = &p->tensor[i];
    if (t->to == t->wanted || (++told > NOTES && !every)) continue;
    print_name(t, o);
    weir_out_printf(o, ": %s instead of %s, whose blocks are %d wide and its rows %lld\n", type_name(t->to),
                    type_name(t->wanted), weir_dtype_get(t->wanted)->block_elems, (long long)t->in.dim[0]);
  }
  if (told > NOTES && !every) weir_out_printf(o, "... and %lld more like this\n", (long long)(told - NOTES));
  if (p->n_twice)
    weir_out_printf(
        o,
        "%lld %s quantised before: the new rounding comes on top of the old one, which errors printed here "
        "do not contain\n",
        (long long)p->n_twice, p->n_twice == 1 ? "tensor was" : "tensors were");
}

void weir_quantize_show_plan(const weir_quantize_plan *p, const weir_quantize_total *s, bool every,
                             weir_out *o) {
  char in[32], out[32];
  show_groups(p, o);
  show_notes(p, every, o);
  weir_bytes_text((double)s->file_in, in, sizeof in);
  weir_bytes_text((double)s->file_out, out, sizeof out);
  weir_out_printf(o, "%s (%.2f bits a weight) become %s (%.2f), %.1f %% of it\n", in,
                  bits_per_weight(p->bytes_in, p->elems), out, bits_per_weight(p->bytes_out, p->elems),
                  s->file_in ? 100.0 * (double)s->file_out / (double)s->file_in : 0.0);
}

typedef struct errors {
  double rms;    /* of all tensors that were converted, together */
  int64_t worst; /* the tensor with the largest; -1: none was */
} errors;

static errors errors_of(const weir_quantize_plan *p) {
  errors r = {0, -1};
  double err2 = 0, sum2 = 0;
  for (int64_t i = 0; i < p->n; i++) {
    const weir_quantize_tensor *t = &p->tensor[i];
    if (t->to == t->in.dtype || t->err2 == 0) continue;
    err2 += t->err2;
    sum2 += t->sum2;
    if (r.worst < 0 || t->rms > p->tensor[r.worst].rms) r.worst = i;
  }
  r.rms = sum2 > 0 ? sqrt(err2 / sum2) : 0;
  return r;
}

void weir_quantize_show_total(const weir_quantize_plan *p, const weir_quantize_total *s, weir_out *o) {
  const errors r = errors_of(p);
  if (r.worst >= 0) {
    const weir_quantize_tensor *t = &p->tensor[r.worst];
    weir_out_printf(o, "error of the weights, rms: %.3f %%; most: %.3f %%, ", 100 * r.rms, 100 * t->rms);
    print_name(t, o);
    weir_out_printf(o, " as %s\n", type_name(t->to));
  }
  weir_out_printf(o, "%s written in %.1f s (%.0f MB/s of %s)\n", s->out, s->seconds,
                  s->seconds > 0 ? (double)p->bytes_in / 1e6 / s->seconds : 0.0, s->in);
  if (s->n_scored > 0)
    weir_out_printf(
        o,
        "perplexity: %.4f before (+- %.4f, %lld tokens), %.4f after: x %.5f; the same likeliest token at "
        "%.1f %%\n",
        s->ppl_in, s->ppl_error, (long long)s->n_scored, s->ppl_out, s->ppl_out / s->ppl_in,
        100 * s->same_top1);
  else
    weir_out_printf(o, "perplexity: not measured; --text FILE compares the two on a text\n");
}

/* ---- JSON ---- */

void weir_quantize_json_tensor(const weir_quantize_plan *p, int64_t i, bool done, weir_out *o) {
  static const char *const why[] = {"type", "head", "embed", "rule", "vector", "kind"};
  const weir_quantize_tensor *t = &p->tensor[i];
  json_t *shape = json_array();
  for (int d = 0; d < t->in.n_dims; d++) json_array_append_new(shape, json_integer(t->in.dim[d]));
  weir_out_json(o, json_pack("{s:s, s:o, s:o, s:s, s:s, s:s, s:s, s:s?, s:I, s:I, s:o}", "schema",
                             "weir.quantize.tensor.v1", "name",
                             weir_json_text(t->in.name.data, t->in.name.len), "shape", shape, "from",
                             type_name(t->in.dtype), "to", type_name(t->to), "wanted", type_name(t->wanted),
                             "by", why[t->why], "rule", t->why == WEIR_BY_RULE ? p->rule[t->rule].text : NULL,
                             "bytes_in", (json_int_t)bytes_in(t), "bytes_out", (json_int_t)t->out_bytes,
                             "rms", done ? weir_json_real(t->rms) : json_null()));
}

void weir_quantize_json_total(const weir_quantize_plan *p, const weir_quantize_total *s, weir_out *o) {
  const bool done = s->seconds > 0;
  json_t *all =
      json_pack("{s:s, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I}", "schema", "weir.quantize.v1",
                "in", weir_json_text(s->in, strlen(s->in)), "out",
                s->out ? weir_json_text(s->out, strlen(s->out)) : json_null(), "type", type_name(p->type),
                "tensors", (json_int_t)p->n, "weights", (json_int_t)p->elems, "bytes_in",
                (json_int_t)s->file_in, "bytes_out", (json_int_t)s->file_out, "bits_in",
                bits_per_weight(p->bytes_in, p->elems), "bits_out", bits_per_weight(p->bytes_out, p->elems),
                "fallbacks", (json_int_t)p->n_fallbacks, "requantized", (json_int_t)p->n_twice);
  if (all) {
    json_object_set_new(all, "written", json_boolean(done));
    json_object_set_new(all, "rms", done ? weir_json_real(errors_of(p).rms) : json_null());
    json_object_set_new(all, "seconds", done ? json_real(s->seconds) : json_null());
    const bool measured = s->n_scored > 0;
    json_object_set_new(all, "scored", json_integer((json_int_t)s->n_scored));
    json_object_set_new(all, "perplexity_in", measured ? weir_json_real(s->ppl_in) : json_null());
    json_object_set_new(all, "perplexity_out", measured ? weir_json_real(s->ppl_out) : json_null());
    json_object_set_new(all, "same_top1", measured ? weir_json_real(s->same_top1) : json_null());
  }
  weir_out_json(o, all);
}
