#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A frontend in Python, with pynng and protobuf (README.md says how to install them). Keeps the rules of proto/PROTOCOL.md: a socket
for Poll and one for everything else, random ids, cursors. usage: example_pynng.py [--greedy] [-n MAX_TOKENS] URL PROMPT"""
import argparse
import importlib
import os
import sys
import tempfile

import pynng

HERE = os.path.dirname(os.path.abspath(__file__))
SUBMIT, POLL, CANCEL, ERROR = 1, 2, 3, 0xFF


def messages():
    """weir.proto as a module: made in a temporary folder by protoc."""
    from grpc_tools import protoc

    for folder in (os.path.join(HERE, "..", "..", "..", "proto"), "/usr/share/weir", "/usr/local/share/weir"):
        if os.path.exists(os.path.join(folder, "weir.proto")):
            break
    else:
        sys.exit("example_pynng: no weir.proto")
    with tempfile.TemporaryDirectory() as out:
        if protoc.main(["protoc", f"--proto_path={folder}", f"--python_out={out}", "weir.proto"]) != 0:
            sys.exit("example_pynng: protoc failed")
        sys.path.insert(0, out)
        return importlib.import_module("weir_pb2")


def call(pb, context, kind, request, reply_type):
    context.send(b"WEIR" + bytes([1, kind, 0, 0]) + request.SerializeToString())
    frame = context.recv()
    if len(frame) < 8 or frame[:5] != b"WEIR\x01" or frame[6:8] != b"\0\0":
        sys.exit("example_pynng: the reply is not a frame of weir's")
    if frame[5] == ERROR:
        error = pb.Error.FromString(frame[8:])
        sys.exit(f"example_pynng: the engine says {error.code}: {error.message}")
    if frame[5] != kind | 0x80:
        sys.exit("example_pynng: the reply is of another kind")
    return reply_type.FromString(frame[8:])


def main():
    args = argparse.ArgumentParser(description="Sends a prompt to an engine of weir and prints what comes.")
    args.add_argument("-n", type=int, default=0, metavar="MAX_TOKENS")
    args.add_argument("--greedy", action="store_true")
    args.add_argument("url")
    args.add_argument("prompt")
    args = args.parse_args()
    pb = messages()
    token = os.environ.get("WEIR_TOKEN", "")
    session, request_id = os.urandom(16), os.urandom(16)
    color = sys.stdout.isatty() or "WEIR_COLOR" in os.environ
    out = sys.stdout.buffer
    # A socket each: contexts of one would share a connection, where a reply may be lost to another one that is still on its way. A Poll is
    # parked for less than half of its resend time, and that is well below the time to give up: a lost answer is asked for again.
    usual = dict(recv_timeout=30000, send_timeout=30000, recv_max_size=16 << 20)
    with pynng.Req0(resend_time=3000, **usual) as control_socket, pynng.Req0(resend_time=6000, **usual) as poll_socket:
        control_socket.dial(args.url, block=False)
        poll_socket.dial(args.url, block=False)
        control, poller = control_socket.new_context(), poll_socket.new_context()
        submit = pb.SubmitRequest(token=token, session=session, request_id=request_id, prompt=args.prompt, max_tokens=args.n, receipts=True)
        if args.greedy:
            submit.sampling.temperature = 0
        call(pb, control, SUBMIT, submit, pb.SubmitReply)
        have, tier, end = 0, 0, None
        while end is None:
            try:
                cursor = pb.Cursor(request_id=request_id, have=have)
                poll = pb.PollRequest(token=token, session=session, cursor=[cursor], wait_ms=2000)
                reply = call(pb, poller, POLL, poll, pb.PollReply)
            except KeyboardInterrupt:
                cancel = pb.CancelRequest(token=token, session=session, request_id=[request_id])
                call(pb, control, CANCEL, cancel, pb.CancelReply)
                poller.close()  # it may still wait for its reply
                poller = poll_socket.new_context()
                continue
            for update in reply.update:
                if update.request_id != request_id:
                    continue
                if update.state == 4 or getattr(update, "from") > have:
                    sys.exit("example_pynng: the engine does not know the request any more")
                for t in update.token[have - getattr(update, "from") :]:
                    if color and t.text and t.tier != tier:
                        tier = t.tier
                        out.write(b"\033[0m" if tier == 0 else b"\033[0;1;35m")
                    out.write(t.text)
                    have += 1
                out.flush()
                if update.HasField("end"):
                    end = update.end
        out.write(b"\033[0m\n" if color else b"\n")
        out.flush()
        done = pb.PollRequest(token=token, session=session, cursor=[pb.Cursor(request_id=request_id, have=have, done=True)])
        call(pb, poller, POLL, done, pb.PollReply)
        control.close()
        poller.close()
    print(f"{end.reason}: {have} tokens" + (f": {end.error.message}" if end.HasField("error") else ""), file=sys.stderr)
    if end.HasField("error"):
        sys.exit(1)
    if end.reason == "cancelled":
        sys.exit(130)


if __name__ == "__main__":
    main()
