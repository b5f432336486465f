/* SPDX-License-Identifier: Apache-2.0 */
/* Asks an engine that is not there how it is: the answer is 503, in time. Exit status 0 when it was. */
#include <stdio.h>
#include <weir/client.h>

static int code;

static void done(void *ctx, const weir_client_health *health, const weir_client_error *error) {
  (void)ctx;
  if (!health) code = error->code;
  printf("%d: %s\n", error->code, error->message);
}

int main(int argc, char **argv) {
  weir_client_cfg cfg = {0};
  weir_client *client;
  weir_client_error error;
  cfg.url = argc > 1 ? argv[1] : "";
  cfg.call_timeout_ms = 100;
  if (weir_client_open(&cfg, &client, &error) != 0) {
    printf("%s\n", error.message);
    return 1;
  }
  if (weir_client_get_health(client, done, NULL, &error) == 0)
    while (weir_client_run(client, 1000) > 0) continue;
  weir_client_close(client);
  return code == 503 ? 0 : 1;
}
