/* SPDX-License-Identifier: Apache-2.0 */
/* AMX: the peaks of tile multiplications of bytes and of bfloat16, with every tile in its register. Pure
 * functions; any thread; only called where the device found AMX and the system lets the process use it. */
#include "cpu/machine_isa.h"

enum { ROWS = 16, ROW_BYTES = 64, SUMS = 6 };

typedef struct tile_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "a tile configuration");

static tile_config full_tiles(void) {
  tile_config c = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    c.row_bytes[i] = ROW_BYTES;
    c.rows[i] = ROWS;
  }
  return c;
}

/* Six sums: a multiplication takes 52 cycles and the next one may begin after 16. */
#define PEAK(name, instruction)                                          \
  static void name(int64_t loops) {                                      \
    const tile_config c = full_tiles();                                  \
    uint32_t ones[ROWS * ROW_BYTES / 4];                                 \
    for (int i = 0; i < ROWS * ROW_BYTES / 4; i++) ones[i] = 0x3f803f80; \
    __asm__ volatile(                                                    \
        "ldtilecfg %1\n\t"                                               \
        "tileloadd (%2,%3,1), %%tmm6\n\t"                                \
        "tileloadd (%2,%3,1), %%tmm7\n\t"                                \
        ".irp r,0,1,2,3,4,5\n\t"                                         \
        "tilezero %%tmm\\r\n\t"                                          \
        ".endr\n"                                                        \
        "1:\n\t"                                                         \
        ".irp r,0,1,2,3,4,5\n\t" instruction                             \
        " %%tmm6, %%tmm7, %%tmm\\r\n\t"                                  \
        ".endr\n\t"                                                      \
        "dec %0\n\t"                                                     \
        "jnz 1b\n\t"                                                     \
        "tilerelease"                                                    \
        : "+r"(loops)                                                    \
        : "m"(c), "r"(ones), "r"((long)ROW_BYTES)                        \
        : "cc", "memory");                                               \
  }

PEAK(peak_i8, "tdpbssd")
PEAK(peak_bf16, "tdpbf16ps")

const machine_isa machine_amx = {
    .peak = {{"i8 amx", SUMS *ROWS * 16.0 * 64 * 2, peak_i8, 0},
             {"bf16 amx", SUMS *ROWS * 16.0 * 32 * 2, peak_bf16, MACHINE_AMX_BF16}}};
