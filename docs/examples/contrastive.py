"""An embedding of the neurons without labels, by a loop of your own: bins that are close in the film are alike.

python docs/examples/contrastive.py CACHE_DIR

The loss is InfoNCE with pairs drawn by time, as CEBRA-Time has it (Schneider et al. 2023). It sees training bins alone;
a ridge classifier on the embedding is then fitted on training bins and scored on test bins.
"""

import sys

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from torch import nn

import summer_train

NEAR_BINS, BATCH, STEPS = 12, 512, 300  # 12 bins of 80 ms: a pair lies within a second

data = summer_train.film_data(task="label", label_name="summer", patient_ids=[14, 20], cache_dir=sys.argv[1], buffer=10)
counts = torch.from_numpy(data.selection.counts()).float()  # (n_bins, n_units)
train, test = data.split.train, data.split.test  # bins, ascending; buffers are in neither

generator = np.random.default_rng(0)
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(data.n_units, 64), nn.GELU(), nn.Linear(64, 8))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(STEPS):
    reference = generator.integers(0, len(train) - NEAR_BINS, BATCH)
    positive = reference + generator.integers(1, NEAR_BINS + 1, BATCH)
    is_near = train[positive] - train[reference] <= NEAR_BINS  # no pair reaches over a gap of the split
    one, other = (
        nn.functional.normalize(network(counts[train[rows[is_near]]]), dim=1) for rows in (reference, positive)
    )
    loss = nn.functional.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    embedding = nn.functional.normalize(network(counts), dim=1).numpy()  # (n_bins, 8)
label = data.selection.labels("summer")
classifier = RidgeClassifier(class_weight="balanced").fit(embedding[train], label[train])
accuracy = balanced_accuracy_score(label[test], classifier.predict(embedding[test]))
print(f"loss {loss.item():.2f}; balanced accuracy of summer from 8 dimensions {accuracy:.2f} (chance 0.50)")
