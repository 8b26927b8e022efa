"""What people write without `flatzoo probe`: features of a network, and a logistic regression of scikit-learn.

    python benchmarks/learning/plain_probe.py videos/ sifar_resnet10t

`benchmarks/learning/probe_against_script.py` compares it with the command.
"""
import sys
from pathlib import Path

import av
import joblib
import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import flatzoo  # noqa: F401 - the network is one of flatzoo's; of the rest nothing is used

root, name = Path(sys.argv[1]), sys.argv[2]
model = timm.create_model(name, pretrained=True).eval()
(height, width), length = model.img_size, model.num_frames


def read(path):
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format='rgb24') for frame in video.decode(video=0)]
    picked = [frames[int((i + 0.5) * len(frames) / length)] for i in range(length)]
    clip = torch.from_numpy(np.stack(picked)).permute(3, 0, 1, 2).float()  # [C, T, H, W]
    return torch.nn.functional.interpolate(clip, (height, width), mode='bilinear', antialias=True).byte()


def features(split):
    paths = sorted((root / split).glob('*/*.mp4'))
    with torch.inference_mode():
        values = [model.forward_head(model.forward_features(read(path)[None]), pre_logits=True) for path in paths]
    return torch.cat(values).numpy(), [path.parent.name for path in paths]


x, y = features('train')
head = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=np.logspace(-4, 2, 7), cv=5, max_iter=1000)).fit(x, y)
x, y = features('val')
joblib.dump(head, 'probe.joblib')
print(f'{100 * head.score(x, y):.2f}')
