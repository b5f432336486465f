/* SPDX-License-Identifier: Apache-2.0 */
/* The table of weir-gateway's options. Data only. A row's columns: name, letter, type, commands, group, value's
 * name, default, least, most, choices, variable, not in a file, help. */
#include "programs/gateway_options.h"

#define GW      WEIR_GATEWAY_COMMAND
#define INT     WEIR_OPT_INT
#define FLOAT   WEIR_OPT_FLOAT
#define BOOL    WEIR_OPT_BOOL
#define STRING  WEIR_OPT_STRING
#define STRINGS WEIR_OPT_STRINGS
#define ENUM    WEIR_OPT_ENUM
#define ANY     0, 0, NULL /* no bounds, no choices */

/* clang-format off */
const weir_option weir_gateway_options[] = {
  {"listen", 'l', STRING, GW, "Addresses", "HOST:PORT", "127.0.0.1:8000", ANY, NULL, false,
   "Where HTTP is spoken. [::1]:8000 for IPv6; port 0: the system chooses, and the log says which."},
  {"engine", 'e', STRINGS, GW, "Addresses", "URL", NULL, ANY, NULL, false,
   "An engine (weir serve): ipc:///run/weir.ipc, tcp://127.0.0.1:5600. Several: requests go to the one that is likeliest "
   "to have the beginning of the prompt in its cache, unless it has much more to do than another."},
  {"token", 0, STRING, GW, "Addresses", "TEXT", NULL, ANY, NULL, false,
   "What the engines ask for. Better in WEIR_TOKEN or the file: a command line can be read by others."},

  {"token-file", 0, STRING, GW, "Addresses", "FILE", NULL, ANY, NULL, false,
   "A file whose first line is the token."},

  {"api-key", 'k', STRINGS, GW, "Access", "KEY", NULL, ANY, NULL, false,
   "Clients must show one of the keys, as `Authorization: Bearer KEY`, for all but /health, /ready and the page at /."},
  {"api-key-file", 0, STRING, GW, "Access", "FILE", NULL, ANY, NULL, false,
   "Keys, one a line; empty lines and lines that begin with # are left out."},
  {"insecure", 0, BOOL, GW, "Access", NULL, "false", ANY, NULL, false,
   "Listen without a key on an address that other machines reach."},
  {"allow-host", 0, STRINGS, GW, "Access", "NAME", NULL, ANY, NULL, false,
   "Without keys on an address of this machine, Host must say localhost, an IP address, the name in --listen, or one of these."},
  {"cors", 0, STRING, GW, "Access", "ORIGIN", NULL, ANY, NULL, false,
   "Pages of this origin, or * for any, may read answers in a browser. Without: none may but the gateway's own."},

  {"max-body", 0, INT, GW, "Limits", "BYTES", "4194304", 1024, 268435456, NULL, NULL, false,
   "Of a request; longer ones are refused with 413."},
  {"max-connections", 0, INT, GW, "Limits", "N", "512", 1, 65536, NULL, NULL, false,
   "At once; one more takes the place of one that is silent, or is refused with 503. /health and /ready are answered."},
  {"max-n", 0, INT, GW, "Limits", "N", "8", 1, 128, NULL, NULL, false, "Answers to one prompt that a request may ask for."},
  {"max-prompts", 0, INT, GW, "Limits", "N", "64", 1, 1024, NULL, NULL, false, "Prompts in one request."},
  {"max-unsent", 0, INT, GW, "Limits", "BYTES", "8388608", 65536, 1073741824, NULL, NULL, false,
   "Of a stream that its client has not read yet; more: it is cut."},

  {"header-timeout", 0, FLOAT, GW, "Times", "S", "10", 0.1, 3600, NULL, NULL, false, "For the head of a request."},
  {"body-timeout", 0, FLOAT, GW, "Times", "S", "60", 0.1, 3600, NULL, NULL, false, "For its body."},
  {"idle-timeout", 0, FLOAT, GW, "Times", "S", "75", 0.1, 86400, NULL, NULL, false, "Of a connection between two requests."},
  {"stall-timeout", 0, FLOAT, GW, "Times", "S", "30", 0.1, 3600, NULL, NULL, false,
   "A client that reads nothing of its answer for so long is cut."},
  {"engine-timeout", 0, FLOAT, GW, "Times", "S", "10", 0.1, 3600, NULL, NULL, false,
   "An engine that says nothing for so long has lost its requests."},
  {"drain-timeout", 0, FLOAT, GW, "Times", "S", "30", 0, 86400, NULL, NULL, false,
   "After SIGTERM, for what is under way. A second signal cuts it."},

  {"access-log", 0, BOOL, GW, "Log", NULL, "true", ANY, NULL, false, "A line for every request, on standard error."},
  {"log-level", 0, ENUM, GW, "Log", NULL, "info", 0, 0, "error|warning|info|debug", NULL, false, "What is logged."},
  {"log-format", 0, ENUM, GW, "Log", NULL, "text", 0, 0, "text|json", NULL, false, "json: one object a line."},

  {"config", 0, STRING, GW, "Other", "FILE", NULL, ANY, NULL, true,
   "Options from a YAML file, `name: value` a line; variables of the environment and the command line go before it."},
  {"version", 0, BOOL, GW, "Other", NULL, "false", ANY, "", true, "The version."},
  {"help", 'h', BOOL, GW, "Other", NULL, "false", ANY, "", true, "This text."},
};
/* clang-format on */
const int32_t weir_n_gateway_options = sizeof weir_gateway_options / sizeof *weir_gateway_options;
