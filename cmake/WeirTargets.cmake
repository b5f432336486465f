# SPDX-License-Identifier: Apache-2.0
# How every target of weir is compiled, in one place.

function(weir_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wpointer-arith -Wvla
                                           $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
                                           $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>
                                           -fno-math-errno -ffp-contract=off)
  if(WEIR_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(WEIR_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${WEIR_SANITIZE} -fno-omit-frame-pointer)
    if(WEIR_SANITIZE MATCHES "undefined")
      target_compile_options(${target} PRIVATE -fno-sanitize-recover=all)
    endif()
    target_link_options(${target} PRIVATE -fsanitize=${WEIR_SANITIZE})
  endif()
  if(WEIR_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# weir_library(name SOURCES a.c ... [LINK lib ...]): a static library of one folder.
function(weir_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/engine)
  target_link_libraries(${name} PUBLIC ${ARG_LINK})
  weir_compile_options(${name})
endfunction()

function(weir_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
  weir_compile_options(${name})
endfunction()

# weir_test(name SOURCES a.c ... [LINK lib ...] [LABELS l ...] [TIMEOUT s]): a cmocka program run by ctest from the
# source root. Exit status 77 means SKIP.
function(weir_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  weir_program(${name} SOURCES ${ARG_SOURCES} LINK ${ARG_LINK} PkgConfig::CMOCKA m)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
