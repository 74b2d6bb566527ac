"""Features of a film from its video file, a row for each frame: `summer-prep add-target` takes what this writes.

python docs/examples/video_features.py FILM.mp4 FEATURES.npy
"""

import sys

import av
import numpy as np

rows = []
previous = None
with av.open(sys.argv[1]) as video:
    stream = video.streams.video[0]
    if stream.average_rate != 25:
        print(f"the video has {float(stream.average_rate):g} frames per second, the film of the recordings 25")
    for frame in video.decode(stream):
        image = frame.to_ndarray(format="gray").astype(np.float32) / 255  # (height, width); "rgb24" for a network
        change = 0.0 if previous is None else float(np.abs(image - previous).mean())
        rows.append((image.mean(), image.std(), change))  # or the embedding that a network makes of the image
        previous = image
features = np.array(rows, dtype=np.float32)  # (n_frames, 3): luminance, contrast, change
np.save(sys.argv[2], features)
print(f"{len(features)} frames, {features.shape[1]} features: {sys.argv[2]}")
