/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses where something listens. */
#ifndef WEIR_BASE_ADDRESS_H
#define WEIR_BASE_ADDRESS_H
#include <stdbool.h>

/* Of "ADDRESS:PORT": whether nobody but this machine can reach it. Names are not looked up, but for localhost
 * and the interface lo. */
bool weir_address_is_loopback(const char *address);

#endif
