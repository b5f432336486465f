# SPDX-License-Identifier: Apache-2.0
"""Golden logits on disk; the format is described in README.md."""
import struct

import numpy as np


def write(path, n_vocab, seqs):
    """seqs: list of (ids[n], logits[n, n_vocab])."""
    with open(path, "wb") as f:
        f.write(b"WVEC" + struct.pack("<III", 1, len(seqs), n_vocab))
        for ids, logits in seqs:
            assert logits.shape == (len(ids), n_vocab)
            f.write(struct.pack("<I", len(ids)))
            f.write(np.asarray(ids, "<i4").tobytes())
            f.write(np.asarray(logits, "<f4").tobytes())


def read(path):
    b = open(path, "rb").read()
    assert b[:4] == b"WVEC"
    version, n_seqs, n_vocab = struct.unpack_from("<III", b, 4)
    assert version == 1
    at, seqs = 16, []
    for _ in range(n_seqs):
        (n,) = struct.unpack_from("<I", b, at)
        ids = np.frombuffer(b, "<i4", n, at + 4)
        logits = np.frombuffer(b, "<f4", n * n_vocab, at + 4 + 4 * n).reshape(n, n_vocab)
        seqs.append((ids, logits))
        at += 4 + 4 * n + 4 * n * n_vocab
    assert at == len(b)
    return n_vocab, seqs
