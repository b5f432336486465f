/* SPDX-License-Identifier: Apache-2.0 */
/* Prometheus' text form (version 0.0.4) of the families of several engines: each family once, with the series
 * of all of them. Pure. */
#ifndef WEIR_NET_GATEWAY_FAMILIES_H
#define WEIR_NET_GATEWAY_FAMILIES_H
#include "base/buf.h"
#include "client/client.h"

typedef struct weir_gw_family {
  char *name, *help;
  int type;
  weir_buf lines;
} weir_gw_family;
typedef struct weir_gw_families {
  weir_gw_family *family; /* owned */
  size_t n, cap;
} weir_gw_families;

/* `engine`: the value of a label of that name on each series; NULL: none. A family that differs in type from
 * one of its name, and names that are none, are left out. */
weir_status weir_gw_families_add(weir_gw_families *, const weir_client_family *, size_t n, const char *engine,
                                 weir_err *e);
weir_status weir_gw_families_put(const weir_gw_families *, weir_buf *out, weir_err *e);
void weir_gw_families_fini(weir_gw_families *);

/* Lines of one series, shared with the gateway's own. `labels`: "a=\"b\"" without braces, or "". */
weir_status weir_gw_put_help(weir_buf *, const char *name, const char *help, int type, weir_err *e);
weir_status weir_gw_put_label(weir_buf *, const char *name, const char *value, weir_err *e);
weir_status weir_gw_put_value(weir_buf *, const char *name, const char *labels, double value, weir_err *e);
weir_status weir_gw_put_histogram(weir_buf *, const char *name, const char *labels, const double *le,
                                  const uint64_t *count, size_t n, double sum, uint64_t total, weir_err *e);

#endif
