/* SPDX-License-Identifier: Apache-2.0 */
/* page.html, as it was when this was built. */
#ifndef WEIR_NET_GATEWAY_PAGE_H
#define WEIR_NET_GATEWAY_PAGE_H
#include <stddef.h>

extern const unsigned char weir_page[]; /* [weir_page_bytes], a NUL behind */
extern const size_t weir_page_bytes;

/* The page's Content-Security-Policy: nothing from elsewhere, and of scripts those that stand in it, named by
 * their hashes. */
void weir_page_policy(const char *html, size_t n, char *out, size_t bytes);

#endif
