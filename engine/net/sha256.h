/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 (FIPS 180-4), for the hashes of a Content-Security-Policy. */
#ifndef WEIR_NET_SHA256_H
#define WEIR_NET_SHA256_H
#include <stddef.h>
#include <stdint.h>

void weir_sha256(const void *data, size_t n, uint8_t out[32]);

#endif
