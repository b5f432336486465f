#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment that end-to-end tests with other people's clients run in (openai, pynng), and prints its
# interpreter. usage: tools/test_python.sh DIR
# Nothing of it is needed to build or run weir. When it cannot be made (no python3-venv, no way to PyPI within two
# minutes) it says why on standard error and exits 77: those tests are then skipped.
set -u
dir=${1:?usage: tools/test_python.sh DIR}
packages="openai==3.54.0 pynng==0.9.0 grpcio-tools==1.85.1 pyyaml==6.0.3"

if [ "$(cat "$dir/packages" 2> /dev/null)" != "$packages" ]; then
  rm -rf "$dir"
  if ! python3 -m venv "$dir" > /dev/null 2>&1; then
    echo "SKIP other people's clients: python3 cannot make a virtual environment (python3-venv)" >&2
    exit 77
  fi
  # shellcheck disable=SC2086
  if ! timeout 120 "$dir/bin/python" -m pip install -q --disable-pip-version-check --retries 1 --timeout 15 $packages >&2; then
    echo "SKIP other people's clients: pip cannot install $packages" >&2
    rm -rf "$dir"
    exit 77
  fi
  echo "$packages" > "$dir/packages"
fi
echo "$dir/bin/python"
