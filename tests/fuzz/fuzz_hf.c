/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a Hugging Face directory. The input is a row of files, each
 *
 *   one byte: which name of the table below;  three bytes: length, little endian;  the bytes
 *
 * where a length past the end takes what is left. Documents, hyper-parameters, names, conversion plans and
 * conversions must give an answer or one line that says why not. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/quant.h"
#include "model/hf.h"
#include "model/hparams.h"
#include "model/mfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "config.json",   "model.safetensors",      "model.safetensors.index.json", "a.safetensors",
    "b.safetensors", "generation_config.json", "tokenizer_config.json",        "tokenizer.json",
};
enum { N_NAMES = sizeof names / sizeof *names, MAX_PARTS = 8, MAX_CONVERTED = 1 << 20 };

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_hf: %s\n", what);
  abort();
}

static void check_status(weir_status st, const weir_err *e) {
  if (st == WEIR_OK) return;
  require(e->code == st && e->msg[0] != '\0', "a failure without a message");
  for (const char *p = e->msg; *p; p++)
    require((unsigned char)*p >= 0x20, "a control character in a message");
}

static int32_t split(const uint8_t *data, size_t size, weir_hf_part part[MAX_PARTS]) {
  int32_t n = 0;
  while (size >= 4 && n < MAX_PARTS) {
    size_t len = (size_t)data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
    if (len > size - 4) len = size - 4;
    char *own = malloc(len ? len : 1); /* of its size: a sanitizer sees a read past the end */
    require(own != NULL, "memory");
    memcpy(own, data + 4, len);
    part[n++] = (weir_hf_part){names[data[0] % N_NAMES], {own, len}};
    data += 4 + len;
    size -= 4 + len;
  }
  return n;
}

static void check_hparams(const weir_mfile *m) {
  weir_hparams h;
  weir_err e = {0};
  float inv_freq[WEIR_MAX_ROPE_DIMS / 2], mscale;
  check_status(weir_hparams_read(m, &h, &e), &e);
  require(h.n_layers >= 1 && h.n_layers <= WEIR_MAX_LAYERS && h.n_vocab >= 1 && h.dim >= 1,
          "sizes out of range");
  require(h.n_heads % h.n_kv_heads == 0 && h.head_dim % 2 == 0 && h.rope_dims <= h.head_dim &&
              h.rope_dims % 2 == 0 && h.n_experts_used <= h.n_experts,
          "hyper-parameters that contradict each other");
  require(weir_rope_frequencies(&h.rope, h.rope_dims, h.n_ctx, inv_freq, &mscale, &e) == WEIR_OK, "bad RoPE");
  require(weir_rope_frequencies(&h.rope_local, h.rope_dims, h.n_ctx, inv_freq, &mscale, &e) == WEIR_OK,
          "bad local RoPE");
}

/* A tensor is what it was said to be, and every row can be read. */
static void check_tensor(const weir_mfile *m, const char *name, const weir_tensor_info *info) {
  weir_tensor t;
  weir_err e = {0};
  size_t row;
  require(info->dim[0] > 0 && info->dim[1] > 0 && info->dim[2] > 0 && info->dim[3] == 1, "dimensions");
  if (weir_dtype_row_bytes(info->dtype, info->dim[0], &row, &e) != WEIR_OK)
    return; /* a K type it cannot be */
  if (row > MAX_CONVERTED || (size_t)info->dim[1] > MAX_CONVERTED / row) return;
  const weir_status st = weir_mfile_read(m, name, &t, &e);
  check_status(st, &e);
  require(st == WEIR_OK && t.info.dtype == info->dtype && t.data,
          "a tensor that is listed but cannot be read");
  float *f = malloc((size_t)info->dim[0] * sizeof *f);
  require(f != NULL, "memory");
  for (int64_t r = 0; r < info->dim[1] * info->dim[2]; r++)
    require(weir_dequantize_row(info->dtype, (const uint8_t *)t.data + (size_t)r * row, f, info->dim[0],
                                &e) == WEIR_OK,
            "a row that cannot be read");
  free(f);
  weir_tensor_release(&t);
}

static void run(const weir_hf_part *part, int32_t n_parts) {
  weir_mfile *m = NULL;
  weir_err e = {0};
  const weir_status st = weir_mfile_parse_hf(part, n_parts, &m, &e);
  check_status(st, &e);
  if (st != WEIR_OK) {
    require(!m, "a model that failed to open");
    return;
  }
  check_hparams(m);
  for (int64_t i = 0; i < weir_mfile_n_tensors(m); i++) {
    weir_tensor_info info, found;
    char name[128];
    weir_mfile_tensor_at(m, i, &info);
    require(info.name.len < sizeof name, "a long name");
    memcpy(name, info.name.data, info.name.len);
    name[info.name.len] = '\0';
    require(weir_mfile_find(m, name, &found) && !memcmp(found.dim, info.dim, sizeof info.dim),
            "not found again");
    check_tensor(m, name, &info);
  }
  static const char *const experts[] = {"blk.0.ffn_gate.0.weight", "blk.0.ffn_up.1.weight",
                                        "blk.0.ffn_down.2.weight"};
  for (size_t i = 0; i < sizeof experts / sizeof *experts; i++) {
    weir_tensor_info info;
    if (weir_mfile_find(m, experts[i], &info)) check_tensor(m, experts[i], &info);
  }
  weir_mfile_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_hf_part part[MAX_PARTS];
  weir_log_set_level(WEIR_LOG_ERROR);
  const int32_t n = split(data, size, part);
  run(part, n);
  for (int32_t i = 0; i < n; i++) free((void *)(uintptr_t)part[i].bytes.data);
  return 0;
}
