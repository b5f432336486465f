/* SPDX-License-Identifier: Apache-2.0 */
/* The table of all options, and what `weir COMMAND --help` says around it. Data only. A row's columns: name,
 * letter, type, commands, group, value's name, default, least, most, choices, variable, not in a file, help.
 */
#include "programs/options.h"

#define RUN      WEIR_CMD_RUN
#define EVAL     WEIR_CMD_EVAL
#define INSPECT  WEIR_CMD_INSPECT
#define TOKENIZE WEIR_CMD_TOKENIZE
#define QUANTIZE WEIR_CMD_QUANTIZE
#define PPL      WEIR_CMD_PERPLEXITY
#define CHAT     WEIR_CMD_CHAT
#define SERVE    WEIR_CMD_SERVE
#define WORKER   WEIR_CMD_WORKER
#define CAL      WEIR_CMD_CALIBRATE
#define MODELS   (RUN | EVAL | INSPECT | PPL | CHAT | SERVE | CAL)
#define ALL      (RUN | EVAL | INSPECT | TOKENIZE | PPL | QUANTIZE | CHAT | CAL)
#define INT      WEIR_OPT_INT
#define FLOAT    WEIR_OPT_FLOAT
#define FLOATS   WEIR_OPT_FLOATS
#define BOOL     WEIR_OPT_BOOL
#define STRING   WEIR_OPT_STRING
#define STRINGS  WEIR_OPT_STRINGS
#define ENUM     WEIR_OPT_ENUM
#define ANY      0, 0, NULL /* no bounds, no choices */

/* clang-format off */
const weir_option weir_options[] = {
  {"prompt", 'p', STRINGS, RUN | TOKENIZE, "Input", "TEXT", NULL, ANY, "", true,
   "The prompt. Several are run side by side."},
  {"prompts", 'f', STRING, RUN, "Input", "FILE", NULL, ANY, "", true,
   "A file of prompts, one a line, with \\n for a line break inside one. \"-\" is standard input."},
  {"escape", 0, BOOL, RUN | TOKENIZE, "Input", NULL, "true", ANY, NULL, false,
   "\\n, \\t, \\r and \\\\ in --prompt stand for what they do in C."},
  {"special", 0, BOOL, RUN | EVAL | TOKENIZE | PPL | CAL, "Input", NULL, "false", ANY, NULL, false,
   "The names of special tokens (<|im_end|>) in the text become those tokens, and are shown when a model writes them."},
  {"special", 0, BOOL, CHAT, "Input", NULL, "false", ANY, NULL, false,
   "Special tokens are shown when a model writes them; the text of one that somebody types stays ordinary text."},
  {"limit", 0, INT, EVAL | CAL, "Input", "N", "0", 0, 1000000, NULL, NULL, false,
   "Only the first N tasks; 0: all."},
  {"text", 0, STRING, QUANTIZE, "Input", "FILE", NULL, ANY, "", true,
   "A text on which the perplexity of both models is measured when the new one is written."},
  {"limit", 0, INT, PPL | QUANTIZE, "Input", "N", "0", 0, 2147483647, NULL, NULL, false,
   "Only the first N tokens of the text; 0: all."},
  {"ids", 0, BOOL, TOKENIZE, "Input", NULL, "false", ANY, "", true,
   "The input is token ids, the output their text."},
  {"bos", 0, BOOL, TOKENIZE, "Input", NULL, "false", ANY, "", true,
   "Put the begin-of-text token first, as `weir run` does for models that want it."},

  {"listen", 0, STRING, SERVE, "Interfaces", "HOST:PORT", "127.0.0.1:8000", ANY, NULL, false,
   "Where HTTP is answered: the OpenAI API, the page, metrics. With port 0 one that is free is chosen and told."},
  {"http", 0, BOOL, SERVE, "Interfaces", NULL, "true", ANY, NULL, false,
   "Start weir-gateway, which answers HTTP, as a child and keep it running."},
  {"gateway", 0, STRING, SERVE, "Interfaces", "FILE", NULL, ANY, NULL, false,
   "The program weir-gateway. Default: the one beside weir."},
  {"gateway-arg", 0, STRINGS, SERVE, "Interfaces", "ARG", NULL, ANY, NULL, false,
   "An argument more for weir-gateway, such as --cors=https://example.org; `weir-gateway --help` tells them."},
  {"insecure", 0, BOOL, SERVE, "Interfaces", NULL, "false", ANY, NULL, false,
   "Answer HTTP without keys on an address that other machines reach."},
  {"rpc", 0, STRINGS, SERVE, "Interfaces", "URL", NULL, ANY, NULL, false,
   "Where frontends are answered over nanomsg: ipc:///PATH or tcp://ADDRESS:PORT. Default: a socket in a folder of this "
   "user alone, under --runtime-dir."},
  {"runtime-dir", 0, STRING, SERVE, "Interfaces", "DIR", NULL, ANY, "XDG_RUNTIME_DIR", false,
   "Where the folder `weir` of the default socket is made. Default: /tmp/weir-UID instead."},
  {"api-key", 0, STRINGS, SERVE, "Interfaces", "KEY", NULL, ANY, NULL, false,
   "HTTP clients must bring one of the keys (Authorization: Bearer KEY). Other users see the command line: a file or the "
   "environment is the better place."},
  {"api-key-file", 0, STRING, SERVE, "Interfaces", "FILE", NULL, ANY, NULL, false,
   "A file of keys, one a line."},
  {"token", 0, STRING, SERVE, "Interfaces", "TOKEN", NULL, ANY, NULL, false,
   "RPC clients must bring it; asked for where --rpc can be reached from other machines. Better in a file or the "
   "environment."},
  {"token-file", 0, STRING, SERVE, "Interfaces", "FILE", NULL, ANY, NULL, false,
   "The token is the first line of the file."},
  {"session-ttl", 0, INT, SERVE, "Interfaces", "S", "30", 1, 86400, NULL, NULL, false,
   "An RPC client that has not asked for news for so many seconds is gone, and its requests are cancelled."},

  {"small", 's', STRING, RUN | EVAL | INSPECT | PPL | CHAT | SERVE | CAL, "Models", "FILE", NULL, ANY, NULL, false,
   "The small model: a GGUF file or a Hugging Face directory. Without --small and --large: the pair that comes with weir."},
  {"large", 'l', STRING, MODELS | WORKER, "Models", "FILE", NULL, ANY, NULL, false,
   "The large model, likewise. One of the two alone is run alone."},
  {"model", 0, STRING, TOKENIZE, "Models", "FILE", NULL, ANY, NULL, false,
   "The model whose tokenizer is used. Default: the small one that comes with weir."},
  {"models", 0, STRING, (ALL & ~(uint32_t)QUANTIZE) | SERVE | WORKER, "Models", "DIR", NULL, ANY, NULL, false,
   "Where the pair that comes with weir lies. Default: `models` beside or above the program, then in the current "
   "directory."},
  {"model-name", 0, STRING, SERVE, "Models", "NAME", NULL, ANY, NULL, false,
   "What clients call the model. Default: weir-demo for the pair that comes with weir, else the large model's file or "
   "directory without its ending."},
  {"template", 0, STRING, SERVE, "Models", "NAME", NULL, ANY, NULL, false,
   "How a conversation is written for the model: chatml, llama3, gemma, mistral-v3, plain ..., or a file of Jinja to "
   "recognise. Default: what the model's own template is recognised as; one that is not known is refused for chats alone."},
  {"pair", 0, BOOL, INSPECT, "Models", NULL, "false", ANY, "", true,
   "Two models as a cascade: vocabulary, memory by tier, measured steps, predicted speed-up."},

  {"template", 0, STRING, CHAT, "Chat", "NAME", NULL, ANY, NULL, false,
   "How a conversation is written for the model: chatml, llama3, gemma, mistral-v3, plain ..., or a file of Jinja to "
   "recognise. Default: what the model's own template is recognised as; /template lists the names."},
  {"system", 0, STRING, CHAT, "Chat", "TEXT", NULL, ANY, NULL, false, "The system message."},

  {"mode", 'm', ENUM, RUN | CHAT | SERVE, "Cascade", NULL, "defer", 0, 0, "small|large|defer|rollback|exact|speculate|auto|route", NULL, false,
   "small, large: that model alone. defer: the small model writes, and tokens the gate stops are written by the large "
   "one. rollback: the same, and the large model takes back small tokens it finds unlikely. exact: the text of the "
   "large model, seed for seed, drafted by the small one. speculate: the same drafts, kept by the rule --accept. "
   "auto: whichever of large, exact, defer and small is fastest at the moment's load and allowed by --quality. route: "
   "either model writes the whole answer, by --route-share."},
  {"mode", 'm', STRINGS, EVAL, "Cascade", "MODE,MODE..", "defer", ANY, NULL, false,
   "The modes that are set beside the small and the large model alone: defer, rollback, exact, speculate and the others "
   "of `weir run`, each with all values of the options below that mean something in it."},
  {"quality", 0, ENUM, RUN | EVAL | CHAT | SERVE, "Cascade", NULL, "near", 0, 0, "any|near|exact", NULL, false,
   "Mode auto: the floor it never goes below. exact: the large model's text, seed for seed. near: that or the cascade of "
   "--entropy and the like. any: the small model alone as well."},
  {"modes", 0, STRINGS, SERVE, "Cascade", "MODE", NULL, ANY, NULL, false,
   "The modes that requests may ask for. Default: all that the models allow."},
  {"entropy", 'e', FLOAT, RUN | CHAT | SERVE, "Cascade", "TAU", NULL, ANY, NULL, false,
   "The gate: a token whose distribution in the small model has more entropy than TAU nats goes to the large one. inf: "
   "never; -1: always. Default 0.45. In exact and speculate it ends a draft before --window does, default 1."},
  {"entropy-min", 0, FLOAT, SERVE, "Cascade", "TAU", "0", ANY, NULL, false,
   "The lowest threshold that requests may ask for, nats."},
  {"entropy-max", 0, FLOAT, SERVE, "Cascade", "TAU", "inf", ANY, NULL, false,
   "The highest threshold that requests may ask for, nats."},
  {"entropy", 'e', FLOATS, EVAL, "Cascade", "TAU,TAU..", "0.1,0.3,0.5,0.7,1,1.5", ANY, NULL, false,
   "The thresholds to measure, nats, in the modes that have one without being told (defer, rollback). In exact and "
   "speculate it ends drafts early, and is taken when it is given and no mode of --mode has one of its own."},
  {"entropy", 'e', FLOAT, PPL, "Cascade", "TAU", "0.45", ANY, NULL, false,
   "The threshold, nats, of the shares that are told of tokens above and below it, and of the cascade."},
  {"gate", 0, ENUM, RUN | EVAL | CHAT | SERVE, "Cascade", NULL, NULL, 0, 0, "entropy|top-prob|margin|isotonic|head", NULL, false,
   "What the gate looks at: the entropy, the highest probability, or its distance to the second; or how likely the token "
   "is to be wrong, by a map of one of these (isotonic) or by a head on the small model's hidden state, both fitted to "
   "the pair (--gate-file). Default entropy, or the file's."},
  {"gate", 0, ENUM, CAL, "Cascade", NULL, NULL, 0, 0, "entropy|top-prob|margin|isotonic|head", NULL, false,
   "What the gate looks at: the entropy, the highest probability, or its distance to the second; or how likely the token "
   "is to be wrong, by a map of that distance (isotonic) or a head on the small model's hidden state, fitted on a third "
   "of the data of its own. Default entropy."},
  {"gate-file", 0, STRING, RUN | EVAL | CHAT | SERVE, "Cascade", "FILE", NULL, ANY, NULL, false,
   "A gate that was fitted to the pair by weir calibrate. A file of another small model is refused."},
  {"threshold", 0, FLOAT, RUN | CHAT | SERVE, "Cascade", "X", NULL, ANY, NULL, false,
   "The gate's threshold, whatever the gate: top-prob and margin stop tokens below it; isotonic and head those whose "
   "probability of error is above it, 0.1 unless their file says else. Instead of --entropy."},
  {"threshold", 0, FLOATS, EVAL, "Cascade", "X,X..", NULL, ANY, NULL, false,
   "The thresholds to measure for another gate than entropy."},
  {"defer-rate", 0, FLOAT, RUN | CHAT | SERVE, "Cascade", "R", NULL, 0, 1, NULL, NULL, false,
   "Instead of a threshold, modes defer, rollback and auto: the share of tokens that the gate is to defer, by which the "
   "threshold moves from token to token; in weir serve for each user apart. Not with --entropy or --threshold. In mode "
   "route: the share of requests for the large model, by which --route-share moves."},
  {"defer-rate", 0, FLOATS, EVAL, "Cascade", "R,R..", NULL, 0, 1, NULL, NULL, false,
   "The rates to measure, instead of thresholds."},
  {"defer-burst", 0, INT, RUN | EVAL | CHAT | SERVE, "Cascade", "N", NULL, 0, 1048576, NULL, NULL, false,
   "With --defer-rate: tokens that one request may defer at once; each token it writes refills R of one. 0, the "
   "default: no limit."},
  {"load-price", 0, FLOAT, RUN | EVAL | CHAT | SERVE, "Cascade", "X", NULL, 0, 100, NULL, NULL, false,
   "Modes defer, rollback and auto: what the threshold rises by at most while others wait for the large model, in nats (of "
   "probability with the other gates). 0, the default: off."},
  {"defer-wait", 0, INT, RUN | EVAL | CHAT | SERVE, "Cascade", "MS", NULL, 0, 3600000, NULL, NULL, false,
   "Modes defer, rollback and auto: a token that has waited so long for the large model is written by the small one, and told as "
   "wanted from the large; a step that has begun with it by then is waited for, MS at most. 0, the default: no limit."},
  {"accept-nll", 0, FLOAT, RUN | EVAL | CHAT | SERVE, "Cascade", "NATS", NULL, 0, 1000, NULL, NULL, false,
   "Mode rollback, and --accept nll: the large model lets a token stand while -log p is at most this. Default 3."},
  {"accept", 0, ENUM, RUN | CHAT | SERVE, "Cascade", NULL, NULL, 0, 0, "own|nll|v1|v2|v3|typical|ratio", NULL, false,
   "Mode speculate: which drafted tokens stand, by the probability p of the large model and q of the small one at "
   "temperature 1. own: the large model's own draw, as in exact. nll: -log p <= --accept-nll. v1: q >= max p - ALPHA. "
   "v2: p >= max p - ALPHA. v3: p >= (1 - ALPHA) max p. typical: p > min(EPSILON, DELTA exp(-entropy)). Others are "
   "replaced by a draw of the large model. ratio: with probability p/q, 1 at most, of what the two draw from, the small one "
   "from its likeliest 20; others by a draw of what p has above q: the text follows the large model's law, as with own, "
   "and more drafts stand, but not seed for seed. Default v3."},
  {"accept", 0, STRINGS, EVAL, "Cascade", "RULE,RULE..", NULL, 0, 0, NULL, NULL, false,
   "Mode speculate: the rules to measure, as in `weir run`: own, nll, v1, v2, v3, typical .. Default v3."},
  {"accept-alpha", 0, FLOAT, RUN | CHAT | SERVE, "Cascade", "ALPHA", NULL, 0, 1, NULL, NULL, false,
   "--accept v1, v2, v3: 1 keeps all. Default 0.1."},
  {"accept-alpha", 0, FLOATS, EVAL, "Cascade", "ALPHA,ALPHA..", NULL, 0, 1, NULL, NULL, false,
   "--accept v1, v2, v3: the values to measure. Default 0.1."},
  {"accept-epsilon", 0, FLOAT, RUN | EVAL | CHAT | SERVE, "Cascade", "EPSILON", NULL, 0, 1, NULL, NULL, false,
   "--accept typical: 0 keeps all. Default 0.09."},
  {"accept-delta", 0, FLOAT, RUN | EVAL | CHAT | SERVE, "Cascade", "DELTA", NULL, 0, 1000, NULL, NULL, false,
   "--accept typical: 0 keeps all. Default 0.3."},
  {"window", 0, INT, RUN | CHAT | SERVE, "Cascade", "N", NULL, 1, 4096, NULL, NULL, false,
   "Tokens the small model may write before the large one must look. Default: rollback 10, exact and speculate 16."},
  {"window", 0, FLOATS, EVAL, "Cascade", "N,N..", NULL, 1, 4096, NULL, NULL, false,
   "Modes rollback, exact, speculate: the windows to measure, tokens. Default: rollback 10, exact and speculate 16."},
  {"hold", 0, INT, RUN | EVAL | CHAT | SERVE, "Cascade", "N", NULL, 1, 4096, NULL, NULL, false,
   "Tokens the large model writes once it was asked. Default 1."},
  {"horizon", 0, INT, RUN | EVAL | CHAT | SERVE, "Cascade", "N", NULL, 0, 1048576, NULL, NULL, false,
   "Modes rollback and speculate: tokens held back for judgement at most; older ones are shown unjudged. Default: no limit."},
  {"route-prompt", 0, INT, RUN | EVAL | CHAT | SERVE, "Cascade", "N", NULL, 0, 4096, NULL, NULL, false,
   "Mode route: the rows of the small model behind the last N tokens of the prompt are looked at. Default 64, or 0 with "
   "--route-after."},
  {"route-after", 0, STRING, RUN | EVAL | CHAT | SERVE, "Cascade", "N|end", NULL, ANY, NULL, false,
   "Mode route: so are those of the first N tokens that the small model writes, which are held back until it is decided; "
   "end: of its whole answer, of which nothing is shown, in a chat neither, before it has ended. Default 0."},
  {"route-share", 0, FLOAT, RUN | CHAT | SERVE, "Cascade", "S", NULL, 0, 1, NULL, NULL, false,
   "Mode route: where the gate stops more than this share of the rows looked at, the large model writes the whole answer, "
   "else the small one does. Default 0.5."},
  {"route-share", 0, FLOATS, EVAL, "Cascade", "S,S..", NULL, 0, 1, NULL, NULL, false,
   "The shares to measure, in mode route."},
  {"span", 0, STRINGS, RUN | EVAL | CHAT, "Cascade", "X START END", NULL, ANY, NULL, false,
   "Between the texts START and END in what is written the gate's threshold is X; without END to the end of the answer. "
   "A text with blanks stands in double quotes; \\n is a line break. 16 at most. Not with --defer-rate or --load-price."},
  {"fusion-weight", 0, FLOAT, RUN | EVAL | CHAT | SERVE, "Cascade", "G", NULL, -4, 4, NULL, NULL, false,
   "Modes defer, rollback and auto: a deferred token is drawn from p (q / q20)^G, p of the large model, q of the small one, q20 of "
   "its 20th likeliest token, over its 20 likeliest. Below 0 the small model's own favourites are held back. 0, the default: "
   "from p alone."},
  {"random", 0, BOOL, EVAL, "Cascade", NULL, "false", ANY, NULL, false,
   "Beside each threshold, the control: as many tokens deferred, but by chance."},

  {"level", 0, FLOAT, CAL, "Calibration", "ALPHA", "0.01", 1e-6, 1, NULL, NULL, false,
   "The mean loss of a request that the chosen threshold may have, over the choice of the data and a fresh request."},
  {"loss", 0, ENUM, CAL, "Calibration", NULL, "auto", 0, 0, "auto|tokens|wrong", NULL, false,
   "What a request loses. tokens: the share of the large model's text at whose positions the small model would have "
   "written another token unchecked. wrong: 1 where the large model's answer is right and the cascade's is not. auto: "
   "wrong for tasks, tokens for prompts."},
  {"confirm", 0, BOOL, CAL, "Calibration", NULL, "true", ANY, NULL, false,
   "Run the chosen setting end to end on the half of the data that had no part in the choice."},
  {"curves", 0, BOOL, CAL, "Calibration", NULL, "true", ANY, NULL, false,
   "Replay every gate and rule at many settings."},
  {"out", 'o', STRING, CAL, "Calibration", "FILE", NULL, ANY, "", true,
   "Write the choice as a file of YAML for --config of run, chat and serve."},
  {"gate-out", 0, STRING, CAL, "Calibration", "FILE", NULL, ANY, "", true,
   "Write the gate that was fitted, for --gate-file of run, eval, chat and serve."},
  {"calibration", 0, STRING, CAL, "Calibration", "FILE", NULL, ANY, "", true,
   "Write what the small model looked like here, JSON: `weir serve --calibration` compares its traffic with it."},
  {"report", 0, STRING, CAL, "Calibration", "FILE", NULL, ANY, "", true, "Write a report, one page of HTML."},
  {"trace", 0, STRING, CAL, "Calibration", "FILE", NULL, ANY, "", true,
   "Keep what both models said at every position, for --from-trace."},
  {"from-trace", 0, STRING, CAL, "Calibration", "FILE", NULL, ANY, "", true,
   "Replay from such a file; no model is loaded and nothing is confirmed."},

  {"type", 0, STRING, QUANTIZE, "Types", "TYPE", "Q8_0", ANY, NULL, false,
   "What matrices become: F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_0, Q4_K or Q4_0. Vectors become F32. Rows that are no "
   "whole number of the type's blocks get the next type that fits them."},
  {"head", 0, STRING, QUANTIZE, "Types", "TYPE", NULL, ANY, NULL, false,
   "The matrix that gives the logits (output.weight, or the embedding where that is the head too). Default: --type, but "
   "Q6_K or Q8_0 where that has fewer than 6 bits."},
  {"embed", 0, STRING, QUANTIZE, "Types", "TYPE", NULL, ANY, NULL, false,
   "The embedding (token_embd.weight). Default: --type."},
  {"rule", 0, STRINGS, QUANTIZE, "Types", "REGEX=TYPE", NULL, ANY, NULL, false,
   "Matrices whose name contains a match of the expression (PCRE2) get this type, whatever the others say. The first "
   "rule that matches counts."},
  {"requantize", 0, BOOL, QUANTIZE, "Types", NULL, "false", ANY, NULL, false,
   "Take matrices that are quantised already: their rounding stays in the result, and the new one comes on top."},

  {"temperature", 't', FLOAT, RUN | EVAL | CHAT | CAL, "Sampling", "T", "0", 0, 100, NULL, NULL, false,
   "0: the likeliest token, always."},
  {"temperature", 't', FLOAT, SERVE, "Sampling", "T", "1", 0, 100, NULL, NULL, false,
   "Of requests that name none. 0: the likeliest token, always."},
  {"top-k", 0, INT, RUN | EVAL | CHAT | SERVE | CAL, "Sampling", "N", "0", 0, 1000000, NULL, NULL, false, "The N likeliest only; 0: off."},
  {"top-p", 0, FLOAT, RUN | EVAL | CHAT | SERVE | CAL, "Sampling", "P", "1", 1e-6, 1, NULL, NULL, false,
   "The likeliest that sum to P; 1: off."},
  {"min-p", 0, FLOAT, RUN | EVAL | CHAT | SERVE | CAL, "Sampling", "P", "0", 0, 1, NULL, NULL, false,
   "None below P times the likeliest; 0: off."},
  {"seed", 0, INT, RUN | EVAL | CHAT | CAL, "Sampling", "N", "1", 0, 4294967295.0, NULL, NULL, false,
   "The same seed gives the same text, whatever runs beside it."},

  {"max-tokens", 'n', INT, RUN | EVAL | CAL, "Length", "N", "256", 1, 1048576, NULL, NULL, false,
   "Tokens to write at most; the context may end the text before."},
  {"max-tokens", 'n', INT, CHAT, "Length", "N", "1024", 1, 1048576, NULL, NULL, false,
   "Tokens of an answer at most; the context may end it before."},
  {"max-tokens", 'n', INT, SERVE, "Length", "N", "0", 0, 1048576, NULL, NULL, false,
   "Tokens to write for a request that says no number; 0: what the context leaves."},
  {"max-tokens-limit", 0, INT, SERVE, "Length", "N", "0", 0, 1048576, NULL, NULL, false,
   "Tokens that a request may ask for at most; 0: the context."},
  {"choices", 0, STRINGS, RUN, "Length", "TEXT", NULL, ANY, NULL, false,
   "The answer is one of these texts; escapes as in --prompt. 256 at most. What can only go on in one way costs no step."},
  {"stop", 0, STRINGS, RUN, "Length", "TEXT", NULL, ANY, NULL, false,
   "Ends the text before this; escapes as in --prompt."},
  {"ignore-eos", 0, BOOL, RUN | CHAT, "Length", NULL, "false", ANY, NULL, false, "Write on after an end-of-text token."},

  {"max-requests", 0, INT, SERVE, "Load", "N", "256", 1, 65536, NULL, NULL, false,
   "Requests that were taken and have not ended, waiting ones included; one more is refused with 429."},
  {"max-active", 0, INT, SERVE, "Load", "N", "16", 1, 256, NULL, NULL, false,
   "Requests under way at once; the others wait in order."},
  {"step-tokens", 0, INT, SERVE, "Load", "N", "512", 16, 65536, NULL, NULL, false,
   "Tokens of one step of a model at most: long prompts are read in chunks of it, between the tokens of others."},
  {"kv-tokens", 0, INT, SERVE, "Load", "N", "0", 0, 268435456, NULL, NULL, false,
   "Tokens whose keys and values each model keeps, of all requests together. 0: full contexts for --max-active "
   "requests, on the CPU at most 65536 tokens, on a GPU what its memory has room for. Where that is too little, requests "
   "wait and the last to come make room."},
  {"prefix-cache", 0, FLOAT, SERVE, "Load", "SHARE", "0.5", 0, 1, NULL, NULL, false,
   "The share of the KV pages that may hold prompts of the past for requests that begin alike; 0: off."},
  {"drain-timeout", 0, INT, SERVE, "Load", "S", "30", 0, 86400, NULL, NULL, false,
   "Asked to end (SIGTERM, SIGINT), requests that were taken have so many seconds to finish; new ones get 503."},
  {"stall-timeout", 0, INT, SERVE, "Load", "S", "120", 1, 86400, NULL, NULL, false,
   "A step of the models that takes longer counts as stuck: /health says 503. Longer than the slowest step there can be: "
   "--step-tokens tokens of a prompt through the large model."},
  {"calibration", 0, STRING, SERVE, "Load", "FILE", NULL, ANY, NULL, false,
   "What `weir calibrate --calibration` wrote for this pair: the entropies of the last 256 requests are held against it, "
   "and an alarm is told (weir:calibration_drift_alarm, a line of log) while they are unlike. Another pair is refused."},

  {"device", 0, STRING, MODELS | WORKER, "Machine", "DEV", "cpu", ANY, NULL, false,
   "Where the models run: cpu, cuda (the first GPU) or cuda:N. Not yet run on a GPU."},
  {"small-device", 0, STRING, RUN | EVAL | INSPECT | PPL | CHAT | SERVE | CAL, "Machine", "DEV", NULL, ANY, NULL, false,
   "Where the small model runs, if not on --device. Models on devices of their own work at the same time."},
  {"large-device", 0, STRING, MODELS | WORKER, "Machine", "DEV", NULL, ANY, NULL, false,
   "Where the large model runs, if not on --device. With --large-tp N on a machine: cuda is the first N GPUs, "
   "\"cuda:2,cuda:3\" names them; one GPU may stand there twice."},
  {"gpu-memory", 0, FLOAT, MODELS | WORKER, "Machine", "SHARE", "0.9", 0.05, 1, NULL, NULL, false,
   "The share of a GPU's memory that weir may take: weights, and of the rest KV. Models on one GPU get KV for as many "
   "tokens each."},
  {"cuda-graphs", 0, BOOL, MODELS | WORKER, "Machine", NULL, "true", ANY, NULL, false,
   "Record steps of one token a sequence as CUDA graphs, one for each number of sequences."},
  {"cuda-library", 0, STRING, MODELS | WORKER, "Machine", "FILE", NULL, ANY, NULL, false,
   "The CUDA device, weir-cuda.so. Default: beside the program, or in ../lib/weir from there."},
  {"nccl-library", 0, STRING, MODELS | WORKER, "Machine", "FILE", NULL, ANY, NULL, false,
   "NCCL, over which GPUs talk. Default: libnccl.so.2, where the loader looks."},
  {"threads", 0, INT, MODELS | QUANTIZE | WORKER, "Machine", "N", "0", 0, 1024, NULL, NULL, false,
   "Threads of a model on the CPU, of each rank when it is cut over several. 0: one a core; ranks share the cores out."},
  {"isa", 0, ENUM, MODELS | WORKER, "Machine", NULL, "auto", 0, 0, "auto|scalar|avx2|avx512-vnni|amx", NULL, false,
   "Instructions of the CPU to use; auto: the best it has."},
  {"ctx", 'c', INT, RUN | EVAL | INSPECT | CHAT | CAL, "Machine", "N", "0", 0, 1048576, NULL, NULL, false,
   "Context, tokens; 0: what both models have, at most 8192."},
  {"ctx", 0, INT, SERVE, "Machine", "N", "0", 0, 1048576, NULL, NULL, false,
   "Context, tokens; 0: what both models have, at most 8192."},
  {"ctx", 'c', INT, PPL, "Machine", "N", "512", 0, 1048576, NULL, NULL, false,
   "Tokens of a window, at most the context of the models; 0: 512."},
  {"stride", 0, INT, PPL, "Machine", "N", "0", 0, 1048576, NULL, NULL, false,
   "0: windows one behind the other, of which the second half is scored, as llama-perplexity of llama.cpp does it. "
   "Else windows N tokens apart that score what is new in them, but for the first token of a window when N is --ctx."},
  {"kv", 0, ENUM, RUN | EVAL | INSPECT | PPL | CHAT | SERVE | CAL, "Machine", NULL, "f16", 0, 0, "f16|f32|q8_0", NULL, false,
   "How keys and values are stored. q8_0 takes little more than half the bytes of f16, on the CPU, for heads of whole "
   "blocks of 32."},
  {"batch", 'b', INT, RUN | EVAL | CAL, "Machine", "N", "8", 1, 256, NULL, NULL, false,
   "Prompts under way at once. 1 measures what a single user sees."},
  {"large-batch", 0, INT, RUN | EVAL | SERVE | CAL, "Machine", "N", "4", 1, 256, NULL, NULL, false,
   "A step of the large model runs when so many requests wait for it ..."},
  {"large-wait", 0, INT, RUN | EVAL | SERVE | CAL, "Machine", "MS", "5", 0, 60000, NULL, NULL, false,
   "... or one has waited so long, or nothing else can be done."},

  {"large-tp", 0, INT, MODELS | WORKER, "Tensor parallelism", "N", "1", 1, 64, NULL, NULL, false,
   "The large model is cut over N ranks, on the GPUs or the cores of one machine or, with --nnodes, of several."},
  {"small-tp", 0, INT, MODELS, "Tensor parallelism", "N", "1", 1, 64, NULL, NULL, false,
   "The same for the small model, on this machine."},
  {"comm", 0, ENUM, MODELS, "Tensor parallelism", NULL, "auto", 0, 0, "auto|shm|tcp|nccl|local", NULL, false,
   "What the large model's ranks talk over. auto: GPUs over nccl, several ranks on one GPU by local, cores of one machine "
   "over shm, of several over tcp."},
  {"nnodes", 0, INT, MODELS | WORKER, "Tensor parallelism", "N", "1", 1, 64, NULL, NULL, false,
   "Processes that the large model is cut over, --large-tp / N ranks each: one a machine, or one a GPU."},
  {"node-rank", 0, INT, MODELS | WORKER, "Tensor parallelism", "K", "0", 0, 63, NULL, NULL, false,
   "Which of them this is. 0 leads and does what the command says; any other is a worker, as by `weir worker`."},
  {"dist-init-addr", 0, STRING, MODELS | WORKER, "Tensor parallelism", "HOST:PORT", NULL, ANY, NULL, false,
   "Where the process with --node-rank 0 listens and the others find it."},
  {"dist-host", 0, STRING, MODELS | WORKER, "Tensor parallelism", "HOST", NULL, ANY, NULL, false,
   "The name or address under which the others reach this machine's ranks (tcp). Default: node 0 is at the host of "
   "--dist-init-addr, others at the address from which they reach that."},
  {"dist-token-file", 0, STRING, MODELS | WORKER, "Tensor parallelism", "FILE", NULL, ANY, NULL, false,
   "A secret that all processes share, the first line of the file; asked for where --dist-init-addr is reached from other "
   "machines."},
  {"dist-timeout", 0, INT, MODELS, "Tensor parallelism", "S", "600", 1, 86400, NULL, NULL, false,
   "Node 0 waits so long at the start for the others to come and to load their weights."},
  {"rank-timeout", 0, INT, MODELS | WORKER, "Tensor parallelism", "S", "10", 1, 3600, NULL, NULL, false,
   "A rank that is silent or late for so long is given up: the step ends with an error, and all ranks are gathered again."},
  {"recovery-wait", 0, INT, RUN | EVAL | CHAT | SERVE | CAL, "Tensor parallelism", "S", "30", 0, 86400, NULL, NULL, false,
   "Requests that cannot do without a model whose ranks are being gathered again wait so long for it; others go on with "
   "the small model."},
  {"launcher", 0, ENUM, MODELS | WORKER, "Tensor parallelism", NULL, "none", 0, 0, "none|auto|slurm|openmpi|pmi|torchrun|lws", NULL, false,
   "Take --nnodes, --node-rank and --dist-init-addr, where they are not given, from what srun, mpirun, torchrun or "
   "LeaderWorkerSet say in the environment, and the GPU from the rank on this machine. none: look at no such variable."},

  {"log-level", 0, ENUM, SERVE | WORKER, "Log", NULL, "info", 0, 0, "error|warning|info|debug", NULL, false, "What is logged."},
  {"log-format", 0, ENUM, SERVE | WORKER, "Log", NULL, "text", 0, 0, "text|json", NULL, false,
   "Lines of text, or one JSON object a line: ts, level, component, msg, and numbers as members of their own."},
  {"status-interval", 0, INT, SERVE, "Log", "S", "5", 0, 86400, NULL, NULL, false,
   "While there is work, a line every so many seconds: tokens a second, requests, KV in use; 0: none."},
  {"ready-file", 0, STRING, SERVE, "Log", "FILE", NULL, ANY, NULL, false,
   "Written when requests are taken, removed at the end: one JSON object with pid, http, rpc and model."},

  {"show", 0, ENUM, RUN | CHAT, "Output", NULL, "auto", 0, 0, "auto|origin|entropy|none", NULL, false,
   "origin: the large model's tokens in colour, between \xc2\xab \xc2\xbb where there are no colours. entropy: all "
   "tokens shaded by it. auto: origin on a terminal with colours, else none."},
  {"color", 0, ENUM, ALL | WEIR_CMD_REPLAY, "Output", NULL, "auto", 0, 0, "auto|always|never", NULL, false,
   "auto: on a terminal, unless NO_COLOR is set."},
  {"no-color", 0, BOOL, ALL | WEIR_CMD_REPLAY, "Output", NULL, "false", ANY, "NO_COLOR", true, "The same as --color never."},
  {"receipts", 0, STRING, RUN, "Output", "FILE", NULL, ANY, NULL, false,
   "A line of JSON for every token: request, i, id, tier, H, tau, reason, wait_us; and, with a `schema`, one for how each "
   "request began, each decision with what it went by, and its end: `weir replay FILE` derives them again."},
  {"json", 0, BOOL, ALL | WEIR_CMD_REPLAY, "Output", NULL, "false", ANY, NULL, false,
   "One JSON object a line, each with a `schema`; rates are fractions."},
  {"stats", 0, BOOL, RUN, "Output", NULL, "false", ANY, NULL, false, "What the engine counted, by tier."},
  {"quiet", 'q', BOOL, RUN | EVAL | PPL | QUANTIZE | CHAT | CAL, "Output", NULL, "false", ANY, NULL, false, "No progress and no summary."},
  {"svg", 0, STRING, EVAL, "Output", "FILE", NULL, ANY, "", true,
   "Draws exact match against deferral rate."},
  {"svg-speed", 0, STRING, EVAL, "Output", "FILE", NULL, ANY, "", true,
   "Draws exact match against the speed-up over the large model, all settings."},
  {"answers", 0, STRING, EVAL, "Output", "FILE", NULL, ANY, "", true,
   "A line of JSON for every task and setting: the text and whether it was right."},
  {"summary", 0, BOOL, EVAL, "Output", NULL, "false", ANY, "", true,
   "One JSON object on standard output that sets the chosen cascade beside the two models; all else goes to standard "
   "error."},
  {"repeat", 0, INT, EVAL, "Output", "N", "1", 1, 100, NULL, NULL, false,
   "Time every setting N times and report the fastest; the text is the same."},
  {"tensors", 0, BOOL, INSPECT, "Output", NULL, "false", ANY, "", true, "List the tensors."},
  {"keys", 0, BOOL, INSPECT, "Output", NULL, "false", ANY, "", true, "List the metadata."},
  {"table", 0, BOOL, TOKENIZE, "Output", NULL, "false", ANY, "", true, "A line for every token: id, bytes, text."},
  {"force", 0, BOOL, QUANTIZE, "Output", NULL, "false", ANY, "", true, "Replace a file that is there."},
  {"dry-run", 0, BOOL, QUANTIZE, "Output", NULL, "false", ANY, "", true,
   "Only say what would become what; no file is written, OUT may be missing."},
  {"verbose", 'v', BOOL, QUANTIZE, "Output", NULL, "false", ANY, "", true,
   "A line for every tensor, with the rms of its rounding errors over that of its elements."},

  {"config", 'c', STRING, SERVE, "Other", "FILE", NULL, ANY, NULL, true,
   "Options from a YAML file, `name: value` a line; variables of the environment and the command line go before it."},
  {"print-config", 0, BOOL, SERVE, "Other", NULL, "false", ANY, "", true,
   "Print all options as such a file, with the values in force and where they came from, and do nothing else."},
  {"config", 0, STRING, ALL | WORKER | WEIR_CMD_REPLAY, "Other", "FILE", NULL, ANY, NULL, true,
   "Options from a YAML file, `name: value` a line; variables of the environment and the command line go before it."},
  {"help", 'h', BOOL, ALL | SERVE | WORKER | WEIR_CMD_REPLAY, "Other", NULL, "false", ANY, "", true, "This text."},
};
/* clang-format on */
const int32_t weir_n_options = sizeof weir_options / sizeof *weir_options;

const weir_command weir_commands[] = {
    {"run", WEIR_CMD_RUN, "write text", "weir run [options] [FILE]",
     "Writes on from a prompt: --prompt, the lines of --prompts, the whole of FILE, or standard input.\n"
     "Standard output gets the text and nothing else.",
     "  weir run -p 'Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:'\n"
     "  weir run -f models/prompts.txt --entropy 0.3 --receipts receipts.jsonl\n"
     "  weir run -m exact -t 0.8 --seed 7 --small S.gguf --large L.gguf < prompt.txt\n",
     weir_main_run},
    {"eval", WEIR_CMD_EVAL, "measure quality and speed against the threshold", "weir eval [options] TASKS",
     "Runs a file of tasks through the small model, the large model, and the cascade in every mode and setting\n"
     "asked for, and sets exact match, deferral rate and tokens a second beside each other. A task is a line of JSON with "
     "`prompt`,\n"
     "`answer` and `match`, a regular expression (PCRE2): the last group of its last match in what was "
     "written\n"
     "must be the answer.",
     "  weir eval models/tasks-test.jsonl --limit 100\n"
     "  weir eval models/tasks-valid.jsonl --entropy 0.2,0.4,0.8 --random --svg curve.svg\n"
     "  weir eval models/tasks-test.jsonl --batch 1 --mode defer,rollback,exact,speculate --accept v3,typical \\\n"
     "      --accept-alpha 0.1,0.3 --window 4,8 --entropy 0.3,0.5,1 --svg-speed modes.svg\n",
     weir_main_eval},
    {"calibrate", WEIR_CMD_CALIBRATE, "choose a gate's threshold for a quality", "weir calibrate [options] FILE",
     "Lets the large model answer FILE, logs what both models say along its answers, replays every gate and rule on "
     "that,\n"
     "and chooses the threshold that loses no more than --level; confirms it end to end on the other half of the data.\n"
     "FILE has tasks as for `weir eval`, or prompts, one a line, with \\n for a line break inside one.",
     "  weir calibrate models/tasks-valid.jsonl\n"
     "  weir calibrate models/tasks-valid.jsonl --level 0.02 --out weir.yaml --report report.html\n"
     "  weir calibrate --trace pair.trace prompts.txt && weir calibrate --from-trace pair.trace --gate margin\n",
     weir_main_calibrate},
    {"replay", WEIR_CMD_REPLAY, "derive every decision of a file of receipts again", "weir replay [options] FILE",
     "Reads what `weir run --receipts FILE` wrote, lets the policy decide again about the rows in it, and compares:\n"
     "whose turn it was, what came of it, every token and its receipt. The first line that differs is told, and the\n"
     "exit status is 1 then. No model is needed.",
     "  weir run -p 'Once upon a time' --receipts receipts.jsonl && weir replay receipts.jsonl\n"
     "  weir replay --json receipts.jsonl\n",
     weir_main_replay},
    {"inspect", WEIR_CMD_INSPECT, "look into a model or a pair",
     "weir inspect [options] FILE | weir inspect --pair [SMALL LARGE]",
     "Prints what a model file or directory holds, or what two of them make as a cascade on this machine.",
     "  weir inspect models/weir-demo-large-Q8_0.gguf --tensors\n"
     "  weir inspect --pair\n",
     weir_main_inspect},
    {"tokenize", WEIR_CMD_TOKENIZE, "text to token ids and back", "weir tokenize [options] [FILE]",
     "Prints the token ids of --prompt, FILE or standard input on one line; with --ids the way back.",
     "  weir tokenize -p 'Hello, world'\n"
     "  weir tokenize -p 'Hello, world' | weir tokenize --ids\n",
     weir_main_tokenize},
    {"chat", WEIR_CMD_CHAT, "talk to a model or a pair", "weir chat [options]",
     "A conversation: each line of standard input is a message, and the answers go to standard output. Lines "
     "that begin\n"
     "with a slash are commands; /help lists them. The keys and values of earlier turns are kept, not computed "
     "again.",
     "  weir chat --entropy 0.3\n"
     "  weir chat --large model.gguf --template chatml --system 'You are terse.'\n"
     "  weir chat --json < questions.txt\n",
     weir_main_chat},
    {"serve", WEIR_CMD_SERVE, "answer requests over HTTP and RPC", "weir serve [-c FILE] [options]",
     "Serves a model or a pair: an OpenAI-compatible API and a page over HTTP, and nanomsg RPC for frontends.\n"
     "Without options: the pair that comes with weir, on http://127.0.0.1:8000.\n"
     "SIGTERM and SIGINT let requests finish first (--drain-timeout); a second one ends them. SIGHUP is ignored.",
     "  weir serve\n"
     "  weir serve -c configs/demo.yaml --listen 127.0.0.1:8080\n"
     "  weir serve --small S.gguf --large L.gguf --entropy 0.3 --api-key-file keys.txt --listen 0.0.0.0:8000\n"
     "  weir serve --no-http --rpc tcp://0.0.0.0:5600 --token-file token\n",
     weir_main_serve},
    {"worker", WEIR_CMD_WORKER, "compute a part of a large model for `weir serve`",
     "weir worker --nnodes N --node-rank K --dist-init-addr HOST:PORT [options]",
     "Holds ranks of a large model that is cut over several processes, and computes what the one with node rank 0\n"
     "says; when that goes, or another rank does, it waits to be gathered again, with its weights kept. It ends at\n"
     "SIGTERM or SIGINT. Any other command that is given a --node-rank above 0 does the same: srun and mpirun need\n"
     "one command line for all. Without --large: the pair that comes with weir.",
     "  weir serve  --large L.gguf --large-tp 2 --nnodes 2 --node-rank 0 --dist-init-addr 127.0.0.1:5610\n"
     "  weir worker --large L.gguf --large-tp 2 --nnodes 2 --node-rank 1 --dist-init-addr 127.0.0.1:5610\n"
     "  srun --ntasks-per-node 1 weir serve --large L.gguf --large-device cuda --large-tp 16 --launcher slurm\n",
     weir_main_worker},
    {"perplexity", WEIR_CMD_PERPLEXITY, "how well models foretell a text", "weir perplexity [options] [FILE]",
     "Prints perplexity, bits a byte and entropy of one model or of two side by side on FILE or standard "
     "input, and how\n"
     "often the two have the same likeliest token.",
     "  weir perplexity text.txt --limit 20000\n"
     "  weir perplexity --large model.gguf --ctx 1024 --stride 512 --json < text.txt\n",
     weir_main_perplexity},
    {"quantize", WEIR_CMD_QUANTIZE, "make a model smaller", "weir quantize [options] IN OUT",
     "Writes a GGUF file whose matrices have another type, of a GGUF file or a Hugging Face directory. Everything is\n"
     "decided and checked before anything is written, and OUT gets its name when it is whole: an interrupted run\n"
     "leaves nothing.",
     "  weir quantize model-BF16.gguf model-Q8_0.gguf\n"
     "  weir quantize --type Q4_K Qwen3-0.6B/ Qwen3-0.6B-Q4_K.gguf\n"
     "  weir quantize --type Q4_K --rule 'ffn_down|attn_v=Q6_K' model-F16.gguf model-Q4_K.gguf\n"
     "  weir quantize --type Q4_K --dry-run --verbose model-F16.gguf\n",
     weir_main_quantize},
};
const int32_t weir_n_commands = sizeof weir_commands / sizeof *weir_commands;
