#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes docs/config.md anew from the table of options. usage: tools/config_doc.sh [WEIR]
# A test compares the page with what the program prints.
set -eu
cd "$(dirname "$0")/.."
weir=${1:-build/release/engine/programs/weir}
{
  cat << 'END'
# The configuration of `weir serve`

Every option, as a file that could be given to `weir serve -c`. What stands behind a `#` is the default; a key without a value is
unset. In brackets: bounds, default, and the variable of the environment that sets the same. The environment goes before the file, the
command line (`--` and the key) before both; a key that does not exist is refused with the nearest one that does.

`weir serve -c FILE --print-config` prints the same with the values in force and where each came from. This page is what it prints without a
file, written by `tools/config_doc.sh`. What the options mean together: [serving.md](serving.md).

```yaml
END
  env -i "$weir" serve --print-config
  echo '```'
} > docs/config.md.part
mv docs/config.md.part docs/config.md
