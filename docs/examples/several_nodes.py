"""One model on several nodes: SUMMER's data module and decoder in a `lightning.Trainer`, under torchrun or srun.

On each node (torchrun), or within an allocation (srun):

torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint node1:29400 several_nodes.py CACHE_DIR 2 4
srun --nodes 2 --ntasks-per-node 4 --gpus-per-task 1 python several_nodes.py CACHE_DIR 2 4

Build the cache first (summer-prep build). `python several_nodes.py CACHE_DIR 1 1` trains the same model in one process.
"""

import sys

import lightning
import torch

import summer_train

BATCH_SIZE = 32
"""Samples of an optimizer step, over all processes."""

if __name__ == "__main__":
    cache_dir, n_nodes, n_per_node = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    trainer = lightning.Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        num_nodes=n_nodes,
        devices=n_per_node,
        strategy="ddp" if n_nodes * n_per_node > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    data = summer_train.film_data(
        task="label", patient_ids=[14, 20], cache_dir=cache_dir, buffer=10, batch_size=BATCH_SIZE // trainer.world_size
    )
    trainer.fit(summer_train.decoder(data), datamodule=data)
    trainer.save_checkpoint(
        "several_nodes.ckpt"
    )  # for summer_train.evaluate("several_nodes.ckpt", cache_dir=cache_dir)
    if trainer.is_global_zero:
        print(f"validation loss {float(trainer.callback_metrics['val_loss']):.5f}")
