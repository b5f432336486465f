# SPDX-License-Identifier: Apache-2.0
# cmake -D IN=FILE -D OUT=FILE.c -D NAME=symbol -P embed.cmake: the bytes of a file as an array of C.
file(READ ${IN} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," body "${hex}")
string(REGEX REPLACE "((0x[0-9a-f][0-9a-f],){20})" "\\1\n" body "${body}")
file(WRITE ${OUT} "/* Made by engine/net/embed.cmake. */
#include \"net/gateway_page.h\"

const unsigned char ${NAME}[] = {
${body}0};
const size_t ${NAME}_bytes = ${bytes};
")
