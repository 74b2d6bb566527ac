"""`summer-train` whose second process fails in the middle of training, for tests."""

import os

from summer_train.cli import main
from summer_train.trainer import EpochLines

if os.environ["SLURM_PROCID"] == "1":

    def fail(*_args):
        raise RuntimeError("the second node burnt out")

    EpochLines.on_train_epoch_end = fail

main()
