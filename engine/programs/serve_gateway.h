/* SPDX-License-Identifier: Apache-2.0 */
/* weir-gateway as a child of the engine: started, watched, started again when it dies, stopped. */
#ifndef WEIR_PROGRAMS_SERVE_GATEWAY_H
#define WEIR_PROGRAMS_SERVE_GATEWAY_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "programs/serve_address.h"

typedef struct weir_gateway weir_gateway;

/* Strings are copied. Secrets reach the child through its environment and a file without a name, never on its
 * command line. */
typedef struct weir_gateway_cfg {
  const char *program;
  weir_address listen;
  const char *engine_url, *token; /* token: NULL: none */
  const char *const *api_key;     /* [n_api_keys] */
  int32_t n_api_keys;
  const char *api_key_file; /* NULL: none; given on as it is when there are no others */
  const char *log_level, *log_format;
  bool insecure;           /* it may do without keys on any address */
  const char *const *more; /* [n_more] arguments behind the others */
  int32_t n_more;
  int64_t start_ns;                    /* it must listen within so long; 0: 10 s */
  int64_t backoff_ns, backoff_most_ns; /* before it is started again, doubled each time; 0: 0.5 s, 30 s */
} weir_gateway_cfg;

/* The program of that name beside this one, as `out`; WEIR_EIO when there is none. */
weir_status weir_gateway_find(const char *name, char *out, size_t bytes, weir_err *e);

/* Starts it. */
weir_status weir_gateway_create(const weir_gateway_cfg *, weir_gateway **out, weir_err *e);
/* Looks after it; *next_ns: from now, when to look again at the latest (sooner after SIGCHLD). An error only
 * when it has never listened and will not: then the address, or the program, is wrong. */
weir_status weir_gateway_tend(weir_gateway *, int64_t now_ns, int64_t *next_ns, weir_err *e);
bool weir_gateway_up(const weir_gateway *);    /* it listens */
bool weir_gateway_ready(const weir_gateway *); /* it answers /ready with 200; asked now, within a moment */
pid_t weir_gateway_pid(const weir_gateway *);  /* 0: not running */
/* Asks it to end: it sends what it has first. Not started again from here on. */
void weir_gateway_ask(weir_gateway *);
/* Whether it has ended. */
bool weir_gateway_gone(weir_gateway *);
/* It ended by itself and said that everything was answered, or was not running when it was asked to. */
bool weir_gateway_clean(const weir_gateway *);
/* Asks it to end and waits, at most wait_ns; then ends it. */
void weir_gateway_stop(weir_gateway *, int64_t wait_ns);
void weir_gateway_destroy(weir_gateway *); /* stopped or killed; NULL is fine */

#endif
