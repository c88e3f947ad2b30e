"""Send frames with pyzmq and msgpack alone: what a client in any language has to do.

Start a daemon first (`./run serve`), then: python examples/02_send_frames_plain_zmq.py [ADDRESS]
"""

import json
import sys
import time
from pathlib import Path

import msgpack
import zmq

office = Path(__file__).parent / "office"
record = json.loads((office / "transforms.json").read_text())
width, height = record["w"], record["h"]
params = [record[name] for name in ("fl_x", "fl_y", "cx", "cy")]

socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")


def say(kind, header, *parts):
    socket.send_multipart([kind.encode(), msgpack.packb(header), *parts])


def hear():
    if not socket.poll(60_000):  # the first frames wait for a process that has to start
        sys.exit("the daemon is silent")
    kind, header = socket.recv_multipart()
    header = msgpack.unpackb(header)
    if kind in (b"ERROR", b"REJECT"):
        print(kind.decode(), header)
        if kind == b"ERROR":
            sys.exit(1)
    return kind, header


camera = {"model": "PINHOLE", "width": width, "height": height, "params": params}
hello = {"proto": [1, 0], "session": "plain", "client": "plain", "cameras": {"front": camera}}
say("HELLO", {**hello, "convention": "opengl"})
welcome = hear()[1]
settled, credit = welcome["next_seq"] - 1, welcome["credit"]

for seq, frame in enumerate(record["frames"]):
    while seq > settled + credit or socket.poll(0):
        kind, header = hear()
        if kind == b"ACK":
            settled, credit = header["seq"], header["credit"]
    pose = [value for row in frame["transform_matrix"] for value in row]
    header = {"seq": seq, "stamp_ns": time.time_ns(), "camera": "front", "encoding": "jpeg"}
    header |= {"width": width, "height": height, "pose": pose}
    say("FRAME", header, (office / frame["file_path"]).read_bytes())
    time.sleep(0.1)
while settled < seq:
    kind, header = hear()
    settled = header["seq"] if kind == b"ACK" else settled
say("BYE", {})
print(f"{settled + 1} frames settled")
