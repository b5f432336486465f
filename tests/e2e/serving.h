/* SPDX-License-Identifier: Apache-2.0 */
/* `weir serve` as a child of the test, in a folder of its own, and its two kinds of clients: the client
 * library and plain HTTP. Every wait ends. */
#ifndef WEIR_TESTS_SERVING_H
#define WEIR_TESTS_SERVING_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/client.h"

typedef struct serving {
  pid_t pid;
  char folder[32], log[64], ready[64];
  char rpc[160]; /* URL of its first RPC socket */
  int port;      /* of HTTP; 0: none */
} serving;

/* Starts `weir serve OPTIONS` with --runtime-dir and --ready-file in its folder, and waits until it is ready.
 * A server that does not come up fails the test with its log. */
serving serving_start(const char *options, const char *const *env);
/* The same without the wait. */
serving serving_begin(const char *options, const char *const *env);
void serving_wait_ready(serving *);
/* Waits until its log has the words. */
void serving_wait_log(const serving *, const char *words);
char *serving_log(const serving *); /* owned */
/* Waits for its end, at most a minute: its exit status, 128 + signal when it was killed. */
int serving_wait(serving *);
/* The process that it started, 0: none. */
pid_t serving_child(const serving *);
/* A test's teardown: what still runs is ended, folders go. */
int serving_cleanup(void **state);

/* ---- the client library ---- */

enum { SERVING_TEXT = 8192 };
typedef struct asked {
  int n_tokens, n_ends;
  bool taken; /* the engine has it: what comes is its doing */
  char text[SERVING_TEXT];
  size_t len;
  char reason[16];
  weir_client_error error;
} asked;

weir_client *serving_client(const serving *, const char *token);
/* Sends a request; its events fill `into`. */
void serving_ask(weir_client *, const weir_client_request *, asked *into);
/* Runs the client until `done(ctx)`, at most two minutes. */
void serving_run(weir_client *, bool (*done)(void *ctx), void *ctx);

/* ---- HTTP ---- */

typedef struct http_answer {
  int status;
  char *head, *body; /* owned; chunks put together */
} http_answer;

/* Opens a connection and sends a request; body NULL: GET. key NULL: none. Returns the socket. */
int http_send(int port, const char *path, const char *key, const char *body);
/* Reads to the end and closes. A connection that was cut has what came; status 0: nothing did. */
http_answer http_receive(int fd);
http_answer http_ask(int port, const char *path, const char *key, const char *body);
void http_free(http_answer *);

#endif
