/* SPDX-License-Identifier: Apache-2.0 */
/* The client library without an engine: what client.h declares, answered from what the prompt says.
 *
 *   write N        takes the request, writes N tokens of a fixed text, ends with "length"
 *   stop S         writes two tokens and ends with the stop string S; "stop" alone: with a stop token, which
 *                  the engine tells as "eos"
 *   hold queued | accepted | decode    stays in that state until it is cancelled
 *   lose N         is taken, writes N tokens, and is lost with its engine
 *   lose-on URL N  the same at that engine alone; elsewhere as "write 3"
 *   refuse CODE    ends with the error before it was begun
 *   refuse-on URL CODE   the same at that engine alone; elsewhere as "write 1"
 *   late CODE      writes two tokens, then ends with the error
 *   deadline       ends with the reason "deadline"
 *
 * Every request but one that is refused is told as started when it is queued, as the library does it. Chats
 * answer by their last message. Everything is counted by engine. */
#ifndef WEIR_TESTS_FAKE_CLIENT_H
#define WEIR_TESTS_FAKE_CLIENT_H
#include <stdatomic.h>
#include <stdbool.h>

#include "client/client.h"

enum { FAKE_ENGINES = 8 };
typedef struct fake_engine {
  char url[64];
  atomic_bool live, ready, silent; /* silent: calls are never answered */
  atomic_bool no_large;            /* its large tier is down */
  atomic_int submits, cancels, open;
  weir_client_request last; /* without its pointers but the modes' */
  char last_mode[16], last_user[64], last_model[64], last_prompt[256];
} fake_engine;

/* The engine of that URL, made at the first mention: live and ready. */
fake_engine *fake_engine_of(const char *url);
void fake_reset(void);

#endif
