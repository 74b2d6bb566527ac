"""Logistic regression by scikit-learn on the folds of `fit`, beside `--model linear`, with a figure.

python docs/examples/logistic_regression.py CACHE_DIR FIGURE
"""

import sys
import tempfile

import numpy as np
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import summer_train

selection = summer_train.open_selection(sys.argv[1], [14, 20], 80)
counts = selection.counts()  # (n_bins, n_units)
label = selection.labels("summer")  # (n_bins,) 0, 1; 99 is undefined, and left out by the folds
folds = summer_train.folds(selection, buffer=10)
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
theirs = cross_val_score(model, counts, label, cv=folds, scoring="roc_auc")

with tempfile.TemporaryDirectory() as folder:
    choice = {"task": "label", "label_name": "summer", "model": "linear", "patient_ids": [14, 20], "buffer": 10}
    place = {"cache_dir": sys.argv[1], "data_dir": "none", "output_dir": folder, "workers": 1}
    ours = np.array([row["test_auroc"] for row in summer_train.study(fold=range(1, 6), **choice, **place).rows])

figure = Figure(figsize=(3.3, 2.6), layout="constrained")
axes = figure.subplots()
axes.plot([1, 2], [theirs, ours], "o-", color="0.6")
axes.plot([1, 2], [theirs.mean(), ours.mean()], "D", color="black")
axes.axhline(0.5, color="black", lw=0.8)
axes.set(xticks=[1, 2], xticklabels=["scikit-learn", "--model linear"], xlim=(0.5, 2.5), ylabel="AUROC of summer, test")
figure.savefig(sys.argv[2])
print(f"AUROC {theirs.mean():.3f} by scikit-learn, {ours.mean():.3f} by --model linear, SD over folds {ours.std():.3f}")
