/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens, and numbers nobody can guess. */
#ifndef WEIR_BASE_SECRET_H
#define WEIR_BASE_SECRET_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Compares in a time that tells nothing of how much of it is right: it depends on the secret's length alone.
 */
bool weir_secret_equal(const void *secret, size_t n, const void *given, size_t n_given);
/* Random bytes of the system. */
weir_status weir_secret_draw(void *out, size_t n, weir_err *e);

#endif
