"""The text file that send_frames reads, of any recorded capture (docs/captures.md).

python examples/cpp/frames_txt.py CAPTURE > frames.txt
"""

import sys

from streamer.sources import open_capture

if len(sys.argv) != 2:
    sys.exit("usage: frames_txt.py CAPTURE > frames.txt")
capture = open_capture(sys.argv[1])
(camera,) = capture.cameras.values()
print(camera.model, camera.width, camera.height, *camera.params)
for frame in capture.frames:
    pose = (repr(value) for value in frame.c2w.reshape(-1).tolist())
    print(f'"{frame.image_path.resolve()}"', frame.stamp_ns, *pose)
