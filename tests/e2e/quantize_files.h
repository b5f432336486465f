/* SPDX-License-Identifier: Apache-2.0 */
/* A folder for the files that tests of `weir quantize` write, and the program run on models of tests/vectors.
 */
#ifndef WEIR_TESTS_QUANTIZE_FILES_H
#define WEIR_TESTS_QUANTIZE_FILES_H
#include "model/gguf.h"

#define MODELS "tests/vectors/models/"

int quantize_setup(void **state); /* of the group */
int quantize_teardown(void **state);
/* A path in the folder; eight at a time are good. */
const char *quantize_path(const char *name);
/* Removes the folder's files; returns how many there were. */
int quantize_sweep(void);

weir_gguf *quantize_open(const char *path);
void quantize_must_run(const char *line);
/* Quantises MODELS<of>.gguf into the folder; returns the path. */
const char *quantized(const char *of, const char *options, const char *name);

#endif
