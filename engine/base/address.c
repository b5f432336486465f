/* SPDX-License-Identifier: Apache-2.0 */
/* What an address says about who can reach it. Owns nothing; any thread. */
#include "base/address.h"

#include <stddef.h>
#include <string.h>

bool weir_address_is_loopback(const char *address) {
  static const char *const names[] = {"[::1]:", "localhost:", "lo:"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strncmp(address, names[i], strlen(names[i]))) return true;
  return !strncmp(address, "127.", 4) && address[strspn(address, "0123456789.")] == ':';
}
