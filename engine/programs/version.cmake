# SPDX-License-Identifier: Apache-2.0
# Writes version.h when the revision has changed. Run at build time with SOURCE_DIR, IN, OUT and WEIR_VERSION.
execute_process(COMMAND git describe --always --dirty --abbrev=10
  WORKING_DIRECTORY ${SOURCE_DIR} OUTPUT_VARIABLE WEIR_REVISION OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  set(WEIR_REVISION "")
endif()
configure_file(${IN} ${OUT} @ONLY)
