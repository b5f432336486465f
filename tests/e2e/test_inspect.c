/* SPDX-License-Identifier: Apache-2.0 */
/* weir inspect: a Hugging Face directory shows what its GGUF file shows, its config's keys are flattened, and
 * errors begin with the path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "e2e.h"

static void lines(void **state) {
  (void)state;
  static const struct {
    const char *model, *says[4];
  } c[] = {
      {"hf-gemma3",
       {"hf-gemma3: hf-gemma3, Hugging Face, ", "architecture  gemma3, 7 layers, dim 64",
        "(10000 in windows)", "windows       8 positions in 6 of 7 layers\n"}},
      {"hf-qwen3moe",
       {"experts       2 of 6 a token, feed-forward 32\n", "Hugging Face", "tied", "BF16 1.000"}},
      {"hf-llama3", {", llama3 x8\n", "288 rows, 288 tokens", "21 tensors", "dim 64"}},
      {"llama3-BF16.gguf",
       {"GGUF v3", "288 rows, 288 tokens", "22 tensors", ", factors of its own, interleaved\n"}},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    e2e_result r = e2e("inspect tests/vectors/models/%s", c[i].model);
    e2e_want_status(&r, 0, c[i].model);
    for (int k = 0; k < 4; k++) e2e_want_in(r.out, c[i].says[k], c[i].model);
    e2e_free(&r);
  }
}

/* The same weights in both forms; their bytes differ, norms are F32 in GGUF files. */
static void same_as_gguf(void **state) {
  (void)state;
  static const char *const keys[] = {"layers", "dim",     "heads",        "kv_heads",          "head_dim",
                                     "ff",     "vocab",   "tokens",       "parameters",        "context",
                                     "window", "experts", "experts_used", "kv_bytes_per_token"};
  json_t *hf = e2e_json_of("inspect --json tests/vectors/models/hf-mixtral"),
         *gguf = e2e_json_of("inspect --json tests/vectors/models/mixtral-BF16.gguf");
  const json_t *a = json_array_get(hf, 0), *b = json_array_get(gguf, 0);
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const json_t *x = json_object_get(a, keys[i]), *y = json_object_get(b, keys[i]);
    if (!json_is_integer(x) || !json_equal(x, y))
      fail_msg("%s: %lld in the directory, %lld in the file", keys[i], (long long)json_integer_value(x),
               (long long)json_integer_value(y));
  }
  assert_string_equal(json_string_value(json_object_get(a, "arch")), "llama");
  json_decref(hf);
  json_decref(gguf);
}

static void keys_and_tensors(void **state) {
  (void)state;
  static const char *const says[] = {"model_type = \"llama\"\n", "rope_scaling.factor = 8.0\n",
                                     "token_embd.weight\n",      "blk.1.ffn_down.weight\n",
                                     "BF16  64 x 288",           "BF16  64  "};
  e2e_result r = e2e("inspect --keys --tensors tests/vectors/models/hf-llama3");
  e2e_want_status(&r, 0, "inspect --keys --tensors");
  for (size_t i = 0; i < sizeof says / sizeof *says; i++)
    e2e_want_in(r.out, says[i], "inspect --keys --tensors");
  e2e_free(&r);
}

static void errors(void **state) {
  (void)state;
  static const struct {
    const char *path, *says;
  } c[] = {{"tests/vectors/models/absent", "tests/vectors/models/absent: No such file"},
           {"tests/vectors/logits", "tests/vectors/logits: neither config.json nor a GGUF file there"},
           {"tests/e2e/e2e.h", "tests/e2e/e2e.h: not a GGUF file"}};
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    e2e_result r = e2e("inspect %s", c[i].path);
    e2e_want_status(&r, 1, c[i].path);
    e2e_want_in(r.err, c[i].says, c[i].path);
    e2e_free(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(lines), cmocka_unit_test(same_as_gguf),
                                     cmocka_unit_test(keys_and_tensors), cmocka_unit_test(errors)};
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
