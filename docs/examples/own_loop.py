"""A loop of your own: contrastive training on pairs of bins, in the way of CEBRA, read out by logistic regression.

python docs/examples/own_loop.py CACHE_DIR
"""

import sys

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import summer_train

data = summer_train.film_data(
    task="label", label_name="summer", patient_ids=14, cache_dir=sys.argv[1], buffer=10, batch_size=256, with_bins=True
)
counts = torch.from_numpy(data.selection.counts().astype("f4"))
train, generator = data.split.train, np.random.default_rng(0)
near = 2000 // data.choice.bin_length_ms  # bins within 2 s show nearly the same

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(data.n_units, 64), nn.GELU(), nn.Linear(64, 8))
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
for epoch in range(5):
    losses = []
    for x, _, bins in data.train_dataloader():
        others = bins.numpy() + generator.integers(-near, near + 1, len(bins))
        others = train[np.searchsorted(train, others).clip(max=len(train) - 1)]  # the nearest that trains
        one, other = (nn.functional.normalize(encoder(rows), dim=1) for rows in (x, counts[others]))
        loss = nn.functional.cross_entropy(one @ other.T / 0.1, torch.arange(len(x)))  # each finds its own neighbour
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")

with torch.no_grad():
    embedding = nn.functional.normalize(encoder(counts), dim=1).numpy()
readout = LogisticRegression(class_weight="balanced").fit(embedding[train], data.classes[train])
outputs = {part: readout.decision_function(embedding[getattr(data.split, part)]) for part in ("val", "test")}
result = summer_train.score(data, outputs, name="contrastive")
print(f"test kappa {result.scores['model']['test']['kappa']:.3f}")
