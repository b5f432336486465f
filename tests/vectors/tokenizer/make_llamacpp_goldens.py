#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of strings with SentencePiece vocabularies in GGUF: llamacpp.txt beside this script.

    make_llamacpp_goldens.py LLAMA_TOKENIZE FOLDER [--check]

LLAMA_TOKENIZE is llama.cpp's program, FOLDER vectors.tar.xz of ../shared/data/tokenizers, unpacked. A line: the name of the
vocabulary, the number of a string of hf/strings.txt, its ids (special tokens parsed, no BOS).
"""
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from make_tokenizer_vectors import make_strings  # noqa: E402

VOCABULARIES, N_STRINGS = ["llama-spm", "phi-3", "baichuan"], 240


def main():
    program, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    strings, lines = make_strings()[:N_STRINGS], []
    with tempfile.NamedTemporaryFile() as f:
        for name in VOCABULARIES:
            model = folder / "llama.cpp" / f"ggml-vocab-{name}.gguf"
            for i, text in enumerate(strings):
                pathlib.Path(f.name).write_bytes(text.encode())
                run = subprocess.run([program, "-m", model, "-f", f.name, "--ids", "--no-bos", "--no-escape", "--log-disable"],
                                     capture_output=True, check=True)
                ids = json.loads(run.stdout.decode().strip().split("\n")[-1])
                lines.append(" ".join(map(str, [name, i, *ids])))
    data = "\n".join(lines) + "\n"
    path = HERE / "llamacpp.txt"
    if "--check" in sys.argv:
        sys.exit(0 if path.read_text() == data else f"{path} differs")
    path.write_text(data)


if __name__ == "__main__":
    main()
