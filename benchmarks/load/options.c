/* SPDX-License-Identifier: Apache-2.0 */
/* The table of weir-bench's options and the text around it. Data only. A row's columns: name, letter, type,
 * commands, group, value's name, default, least, most, choices, variable, not in a file, help. The
 * environment is left alone but for the key: WEIR_RATE and the like would be meant for the server. */
#include "load/options.h"

#define RUN     WEIR_BENCH_RUN
#define COMPARE WEIR_BENCH_COMPARE
#define REPORT  WEIR_BENCH_REPORT
#define ALL     (RUN | COMPARE | REPORT)
#define INT     WEIR_OPT_INT
#define FLOAT   WEIR_OPT_FLOAT
#define FLOATS  WEIR_OPT_FLOATS
#define BOOL    WEIR_OPT_BOOL
#define STRING  WEIR_OPT_STRING
#define STRINGS WEIR_OPT_STRINGS
#define ENUM    WEIR_OPT_ENUM
#define ANY     0, 0, NULL /* no bounds, no choices */
#define KEY     "", false  /* no variable; a key of the file */
#define LINE    "", true   /* no variable, no key of the file */

/* clang-format off */
const weir_option weir_bench_options[] = {
  {"url", 'u', STRING, RUN, "Server", "URL", NULL, ANY, KEY,
   "http://HOST:PORT of a server that speaks OpenAI's API (weir's gateway, llama-server, vLLM ...), or ipc:// or tcp:// of a weir "
   "engine, which is spoken to over its own RPC."},
  {"api", 0, ENUM, RUN, "Server", NULL, "completions", 0, 0, "completions|chat", KEY,
   "/v1/completions with prompts as they are, or /v1/chat/completions. Conversations need chat."},
  {"model", 'm', STRING, RUN, "Server", "NAME", NULL, ANY, KEY, "Default: the first that the server lists."},
  {"key", 0, STRING, RUN, "Server", "TEXT", NULL, ANY, "WEIR_API_KEY", false, "The key the server asks for; over RPC its token."},
  {"stream", 0, BOOL, RUN, "Server", NULL, "true", ANY, KEY, "Ask for streams. Without: the first token is the whole answer."},
  {"keep-alive", 0, BOOL, RUN, "Server", NULL, "false", ANY, KEY, "Use a connection for more than one request. Default: one for each."},
  {"connect-timeout", 0, FLOAT, RUN, "Server", "SECONDS", "10", 0.1, 600, NULL, KEY, "How long the server may take to say what it is."},

  {"prompts", 'f', STRING, RUN, "What is asked", "FILE", NULL, ANY, KEY,
   "JSON lines, each with \"prompt\", \"messages\", \"turns\" (a list of texts) or \"conversations\" (ShareGPT); \"max_tokens\" if given "
   "goes before --max-tokens. \"-\": standard input."},
  {"tasks", 0, STRING, RUN, "What is asked", "FILE", NULL, ANY, KEY,
   "JSON lines with \"prompt\", \"answer\" and \"match\" (a regular expression whose last group is the answer): exact match is told "
   "beside speed."},
  {"input", 'i', STRING, RUN, "What is asked", "LENGTHS", "128", ANY, KEY,
   "Made-up prompts, where no file is given: so many tokens. N, uniform:FROM:TO, lognormal:MEDIAN:SIGMA."},
  {"output", 'o', STRING, RUN, "What is asked", "LENGTHS", "64", ANY, KEY, "How many tokens made-up prompts ask for, likewise. See --ignore-eos."},
  {"shared-prefix", 0, FLOAT, RUN, "What is asked", "SHARE", "0", 0, 1, NULL, KEY, "This share of each made-up prompt is a beginning that others have too."},
  {"prefixes", 0, INT, RUN, "What is asked", "N", "1", 1, 1000000, NULL, KEY, "How many such beginnings there are."},
  {"turns", 0, INT, RUN, "What is asked", "N", "1", 1, 64, NULL, KEY, "Turns of a made-up conversation (--api chat): each carries what was said before."},
  {"shuffle", 0, BOOL, RUN, "What is asked", NULL, "false", ANY, KEY, "Take a file's lines in an order drawn from --seed."},
  {"max-tokens", 0, INT, RUN, "What is asked", "N", "128", 1, 1048576, NULL, KEY, "Length of answers to the lines of a file."},
  {"seed", 0, INT, RUN, "What is asked", "N", "1", 0, 9007199254740992.0, NULL, KEY, "Of made-up text, arrivals and misbehaviour: the same seed, the same load."},

  {"load", 0, ENUM, RUN, "Load", NULL, NULL, 0, 0, "closed|constant|poisson|gamma|ramp|trace", KEY,
   "closed: --concurrency requests at all times. The others send by the clock, whatever the server does. Default: trace with --trace, "
   "poisson with --rate, else closed."},
  {"concurrency", 'c', INT, RUN, "Load", "N", "8", 1, 16384, NULL, KEY, "Requests at a time, of a closed loop."},
  {"rate", 'r', FLOAT, RUN, "Load", "X", NULL, 0.0001, 100000, NULL, KEY, "Requests a second, of an open loop."},
  {"rate-end", 0, FLOAT, RUN, "Load", "X", NULL, 0.0001, 100000, NULL, KEY, "A ramp goes from --rate to this one over --duration."},
  {"burstiness", 0, FLOAT, RUN, "Load", "X", "0.25", 0.001, 1000, NULL, KEY, "Shape of gamma's gaps: 1 is poisson, less has more bursts, more is more even."},
  {"trace", 0, STRING, RUN, "Load", "FILE", NULL, ANY, KEY,
   "JSON lines of requests as they came: \"arrival_s\" (or \"timestamp\" in ms), \"prompt\" or \"input_length\", \"output_length\"; "
   "\"hash_ids\" are blocks of 512 tokens that prompts share (Mooncake's form)."},
  {"trace-speed", 0, FLOAT, RUN, "Load", "X", "1", 0.001, 1000, NULL, KEY, "2 plays a trace in half its time."},
  {"max-concurrency", 0, INT, RUN, "Load", "N", "1024", 1, 16384, NULL, KEY, "The most requests an open loop has under way; later ones wait, and their latency counts from when they were due."},
  {"requests", 'n', INT, RUN, "Load", "N", "200", 1, 1000000, NULL, KEY, "Ends after so many requests ..."},
  {"duration", 'd', FLOAT, RUN, "Load", "SECONDS", "60", 0.1, 86400, NULL, KEY, "... or after so long, whichever comes first. Of a sweep: each point."},
  {"warmup", 'w', INT, RUN, "Load", "N", "4", 0, 100000, NULL, KEY, "So many requests first that are not counted."},
  {"drain", 0, FLOAT, RUN, "Load", "SECONDS", "30", 0, 3600, NULL, KEY, "How long requests that run at the end may go on; then they are cut."},
  {"timeout", 0, FLOAT, RUN, "Load", "SECONDS", "120", 0.01, 86400, NULL, KEY, "A request that has not ended by then is an error."},
  {"think", 0, FLOAT, RUN, "Load", "SECONDS", "0", 0, 3600, NULL, KEY, "A pause of a closed loop's users between requests, and of conversations between turns."},

  {"sweep", 0, ENUM, RUN, "Sweep", NULL, "none", 0, 0, "none|concurrency|rate|entropy", KEY,
   "Several runs over rising load, until the objectives of --slo are broken or goodput falls (stops growing, when the load is "
   "doubled): the knee is the last good one. Or over weir's threshold: quality against cost, on the same requests."},
  {"points", 0, FLOATS, RUN, "Sweep", NULL, NULL, 0, 100000, NULL, KEY, "What is tried. Default: from 1 (or --rate), doubling, then between the last good and the first bad one."},
  {"most", 0, FLOAT, RUN, "Sweep", "X", "256", 0.001, 100000, NULL, KEY, "Doubling ends here."},
  {"refine", 0, INT, RUN, "Sweep", "N", "2", 0, 16, NULL, KEY, "Points between the last good and the first bad one."},
  {"to-end", 0, BOOL, RUN, "Sweep", NULL, "false", ANY, KEY, "All of --points, without the stop rule."},

  {"temperature", 't', FLOAT, RUN, "Sampling", NULL, "0", 0, 10, NULL, KEY, "0 is greedy."},
  {"top-p", 0, FLOAT, RUN, "Sampling", NULL, NULL, 0, 1, NULL, KEY, "Default: the server's."},
  {"request-seed", 0, INT, RUN, "Sampling", "N", NULL, 0, 9007199254740992.0, NULL, KEY, "A seed sent with each request. Default: none."},
  {"stop", 0, STRINGS, RUN, "Sampling", "TEXT", NULL, ANY, KEY, "A text at which answers end."},
  {"ignore-eos", 0, BOOL, RUN, "Sampling", NULL, "false", ANY, KEY, "Answers have the length asked for (weir, llama-server, vLLM)."},
  {"mode", 0, STRING, RUN, "Sampling", "NAME", NULL, ANY, KEY, "weir's mode: defer, rollback, large ... Default: the server's."},
  {"entropy", 0, FLOAT, RUN, "Sampling", "NATS", NULL, 0, 100, NULL, KEY, "weir's threshold. Default: the server's."},
  {"receipts", 0, BOOL, RUN, "Sampling", NULL, "false", ANY, KEY, "Ask weir which tier wrote each token: gaps by tier, deferral over time."},
  {"extra", 0, STRING, RUN, "Sampling", "JSON", NULL, ANY, KEY, "An object put into each request's body (HTTP)."},

  {"cancel-share", 0, FLOAT, RUN, "Misbehaviour", "SHARE", "0", 0, 1, NULL, KEY, "This share of the requests is broken off: the connection is closed."},
  {"cancel-tokens", 0, INT, RUN, "Misbehaviour", "N", "8", 0, 1000000, NULL, KEY, "... after so many tokens; 0: not by tokens."},
  {"cancel-after", 0, FLOAT, RUN, "Misbehaviour", "SECONDS", "0", 0, 3600, NULL, KEY, "... or after so long; 0: not by time."},
  {"slow-share", 0, FLOAT, RUN, "Misbehaviour", "SHARE", "0", 0, 1, NULL, KEY, "This share of the answers is read slowly (HTTP). They count in throughput, not in latencies."},
  {"slow-rate", 0, INT, RUN, "Misbehaviour", "BYTES", "500", 1, 1000000000, NULL, KEY, "How slowly: bytes a second."},

  {"slo", 0, STRING, RUN, "Report", "TERMS", NULL, ANY, KEY,
   "Objectives, with commas between. ttft=200ms, tpot=50ms, itl=.., e2e=.., queue=..: of each request; goodput counts those that keep "
   "all of them, and 99 % must (good>=0.95: another share). ttft_p99<500ms, tpot_mean<30ms, e2e_max<5s, error_rate<1%, "
   "deferral_rate<0.3, exact_match>0.5, rps>10, goodput>8, tok_s>1000: of the run. Exit status 1 when they are not met."},
  {"json", 'j', STRING, RUN, "Report", "FILE", NULL, ANY, LINE, "All numbers; what compare and report read."},
  {"csv", 0, STRING, RUN, "Report", "FILE", NULL, ANY, LINE, "A line for each request."},
  {"html", 0, STRING, RUN | REPORT, "Report", "FILE", NULL, ANY, LINE, "A page with drawings, in one file."},
  {"label", 0, STRING, RUN, "Report", "TEXT", NULL, ANY, KEY, "What the run is called in reports."},
  {"quiet", 'q', BOOL, RUN, "Report", NULL, "false", ANY, KEY, "No progress, no table."},

  {"config", 0, STRING, RUN, "Other", "FILE", NULL, ANY, LINE, "Read options from a YAML file; the command line goes before it."},
  {"help", 'h', BOOL, ALL, "Other", NULL, "false", ANY, LINE, "This text."},
};
/* clang-format on */
const int32_t weir_bench_n_options = sizeof weir_bench_options / sizeof *weir_bench_options;

const weir_bench_command weir_bench_commands[] = {
    {"run", RUN, "weir-bench --url URL [options]",
     "Puts a server under load and measures it: weir, or any that speaks OpenAI's API. Latencies count from "
     "when a request was\n"
     "due, not from when it could be sent. Bounded always: by --requests and --duration.\n"
     "Other commands: weir-bench compare A.json B.json; weir-bench report A.json B.json --html FILE.\n"
     "Exit status: 0 done, and --slo met; 1 --slo not met; 2 wrong usage; 3 failed; 130 interrupted (with a "
     "report).",
     "  weir-bench -u http://127.0.0.1:8080 -c 16 -n 500\n"
     "  weir-bench -u http://127.0.0.1:8080 --rate 20 --duration 60 --slo "
     "'ttft=200ms,tpot=50ms,error_rate<1%'\n"
     "  weir-bench -u http://127.0.0.1:8080 --sweep rate --slo 'ttft_p99<500ms' --html sweep.html --json "
     "sweep.json\n"
     "  weir-bench -u http://127.0.0.1:8080 --tasks models/tasks-test.jsonl --sweep entropy --points "
     "0,0.2,0.4,0.8 --html quality.html\n"
     "  weir-bench -u ipc:///run/weir.ipc -i lognormal:200:0.6 -o uniform:16:128 --ignore-eos "
     "--shared-prefix 0.5 --receipts\n"
     "  weir-bench -u http://127.0.0.1:8080 --trace trace.jsonl --trace-speed 2 --cancel-share 0.1 "
     "--slow-share 0.05",
     weir_bench_main_run},
    {"compare", COMPARE, "weir-bench compare A.json B.json",
     "What B has to A, point by point, as ratios, each with whether it stands out of the noise of the two "
     "runs.",
     "  weir-bench compare before.json after.json", weir_bench_main_compare},
    {"report", REPORT, "weir-bench report A.json [B.json ...] --html FILE",
     "One page for several runs: curves side by side, quality against cost.",
     "  weir-bench report weir.json llama.json --html both.html", weir_bench_main_report},
};
const int32_t weir_bench_n_commands = sizeof weir_bench_commands / sizeof *weir_bench_commands;
