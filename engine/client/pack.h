/* SPDX-License-Identifier: Apache-2.0 */
/* weir_client_request as a SubmitRequest. */
#ifndef WEIR_CLIENT_PACK_H
#define WEIR_CLIENT_PACK_H
#include "client/client.h"
#include "proto/frame.h"

/* The message and what it points to; the strings are the caller's. */
typedef struct client_submit_pack {
  Weir__V1__SubmitRequest m;
  Weir__V1__Sampling sampling;
  Weir__V1__Cascade cascade;
  Weir__V1__ChatMessage *chat, **chat_at;   /* owned */
  Weir__V1__Bias *bias, **bias_at;          /* owned */
  Weir__V1__Setting *setting, **setting_at; /* owned */
  Weir__V1__Span *span, **span_at;          /* owned */
} client_submit_pack;

/* `p` is zeroed. 0, or -1 with *e: a text that is not UTF-8, memory. To be ended with _fini in any case. */
int client_submit_fill(client_submit_pack *p, const weir_client_request *, weir_client_error *e);
void client_submit_pack_fini(client_submit_pack *);

/* chat[n] as messages, in two arrays to be freed by the caller. */
int client_chat_pack(const weir_client_message *chat, size_t n, Weir__V1__ChatMessage **messages,
                     Weir__V1__ChatMessage ***at, weir_client_error *e);
/* s, "" for NULL; -1 and *e when it is not UTF-8. */
int client_text(const char *s, const char *param, char **out, weir_client_error *e);

#endif
