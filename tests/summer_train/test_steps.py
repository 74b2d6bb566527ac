"""All ways to take steps give the same weights: written out, through autograd, streamed, in two processes, resumed."""

import json

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from summer_train import batches
from summer_train.batches import Block, OrderedBlocks, ResidentSamples, ShuffledBlocks, StreamedSamples
from summer_train.cache import open_selection
from summer_train.models import LinearLabel, LinearNextBin
from summer_train.steps import AutogradSteps, GraphedSteps


def random_block(n_samples, n_units, n_classes, batch_size, seed=0):
    generator = np.random.default_rng(seed)
    counts = torch.from_numpy(generator.poisson(0.5, (n_samples, n_units)).astype(np.uint8))
    if n_classes:
        targets = torch.from_numpy(generator.integers(0, n_classes, n_samples).astype(np.uint8))
    else:
        targets = torch.from_numpy(generator.poisson(0.5, (n_samples, n_units)).astype(np.uint8))
    sizes = [batch_size] * (n_samples // batch_size)
    if n_samples % batch_size:
        sizes.append(n_samples % batch_size)
    return Block(counts, targets, tuple(sizes), tuple(sizes))


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 10, 64])
def test_written_out_steps_equal_autograd(n_classes, batch_size):
    block = random_block(100, 7, n_classes, batch_size)
    results = []
    for is_written_out in (True, False):
        torch.manual_seed(1)
        model = LinearLabel(7, n_classes, 5) if n_classes else LinearNextBin(7, 5)
        optimizer = model.configure_optimizers()
        steps = (
            model.written_out_steps(optimizer) if is_written_out else AutogradSteps(model.net, model.loss, optimizer)
        )
        predictions = torch.cat([steps(block), steps(block)])
        results.append((predictions, model.state_dict(), optimizer.state_dict()))
    torch.testing.assert_close(*(result[0] for result in results), rtol=0, atol=1e-5)
    for name, weights in results[0][1].items():
        torch.testing.assert_close(weights, results[1][1][name], rtol=0, atol=1e-6)
    for index, state in results[0][2]["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, results[1][2]["state"][index][name], rtol=0, atol=1e-6)


class OtherModel(LinearNextBin):
    """A model without a shortcut."""

    def written_out_steps(self, optimizer):
        return None


def trained(model, data, folder, *callbacks, max_epochs=3):
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder),
        callbacks=list(callbacks),
        enable_progress_bar=any(isinstance(callback, TQDMProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.fixture
def make_data(demo_cache, demo_dir, tmp_path):
    from summer_train.config import FitConfig
    from summer_train.data import FilmData

    def make(**changes):
        settings = {"data_dir": demo_dir, "cache_dir": demo_cache, "buffer_s": 10.0, "output_dir": tmp_path, **changes}
        return FilmData(open_selection(demo_cache, ["14", "20"], 80), FitConfig(**settings))

    return make


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*")
def test_a_model_without_shortcut_reaches_the_same_weights(make_data, tmp_path):
    weights = []
    for kind in (LinearNextBin, OtherModel):
        torch.manual_seed(0)
        model = kind(20, 8)
        trained(model, make_data(), tmp_path)
        weights.append(model.state_dict())
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=0, atol=1e-6)


def test_early_stopping_checkpoints_and_progress_bar_keep_working(make_data, tmp_path, capfd):
    early = EarlyStopping(monitor="val_loss", patience=1, min_delta=10.0)
    checkpoints = ModelCheckpoint(dirpath=tmp_path / "kept", monitor="train_loss", save_top_k=-1, filename="{epoch}")
    trainer = trained(LinearNextBin(20, 8), make_data(), tmp_path, early, checkpoints, TQDMProgressBar(), max_epochs=9)
    assert trainer.current_epoch == 2
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    assert "Epoch 1" in capfd.readouterr().out


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_streamed_samples_are_the_resident_ones_in_the_same_order(task, make_data, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_SAMPLES", 300)
    data = make_data(task=task)
    data.place(torch.device("cpu"))
    streamed = make_data(task=task, device_memory_gb=1e-6)
    streamed.place(torch.device("cpu"))
    assert isinstance(data.samples, ResidentSamples)
    assert isinstance(streamed.samples, StreamedSamples)
    assert "streaming" in streamed.notes[0]
    for loaders in ("train_dataloader", "val_dataloader"):
        n_blocks = 0
        for resident, block in zip(getattr(data, loaders)(), getattr(streamed, loaders)(), strict=True):
            # A block is valid until the next but one is asked for.
            assert all(torch.equal(*pair) for pair in zip(resident[:2], block[:2], strict=True))
            assert resident[2:] == block[2:]
            n_blocks += 1
        assert n_blocks > (loaders == "train_dataloader")


@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("n_samples", [50, 53])
def test_processes_share_every_batch_and_miss_no_sample(n_processes, n_samples):
    samples = ResidentSamples(counts=torch.zeros(64, 3, dtype=torch.uint8), labels=torch.arange(64, dtype=torch.uint8))
    indices = np.arange(n_samples)

    def loader(rank, n):
        return ShuffledBlocks(samples=samples, indices=indices, batch_size=8, seed=5, rank=rank, n_processes=n)

    whole = [part.tolist() for block in loader(0, 1) for part in block.targets.split(block.local_sizes)]
    shares = [
        [part.tolist() for block in loader(rank, n_processes) for part in block.targets.split(block.local_sizes)]
        for rank in range(n_processes)
    ]
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(sample for share in shares for sample in share[number])
    evaluated = [
        OrderedBlocks(samples=samples, indices=indices, rank=rank, n_processes=n_processes)
        for rank in range(n_processes)
    ]
    assert sorted(t for blocks in evaluated for block in blocks for t in block.targets.tolist()) == indices.tolist()


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_two_processes_reach_the_weights_of_one(task, demo_cache, run, tmp_path):
    weights, scores = [], []
    for n_devices in ("1", "2"):
        options = f"--task {task} --patient-ids 14 20 --buffer 10 --max-epochs 2 --batch-size 25 --devices {n_devices}"
        places = ("--cache-dir", demo_cache, "--output-dir", n_devices)
        result = run("summer_train", "fit", *options.split(), *places, "--json", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        report = json.loads(result.stdout)
        weights.append(torch.load(tmp_path / report["last_checkpoint"], weights_only=True)["state_dict"])
        scores.append(report["scores"]["model"])
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=0, atol=1e-5)
    assert scores[1]["test"]["loss"] == pytest.approx(scores[0]["test"]["loss"], abs=1e-4)
    assert not (tmp_path / "2" / report["config"]["task"]).exists()


def test_where_no_graph_can_be_captured_steps_go_on_and_one_line_says_why(monkeypatch):
    def refuse(*_):
        raise RuntimeError("capturing is not possible here\nand a long story")

    monkeypatch.setattr(GraphedSteps, "_capture", refuse)
    lines = []
    block = random_block(20, 3, 0, 8)
    torch.manual_seed(0)
    model = LinearNextBin(3, 4)
    plain = LinearNextBin(3, 4)
    plain.load_state_dict(model.state_dict())
    graphed = GraphedSteps(model.written_out_steps(model.configure_optimizers()), lines.append)
    steps = plain.written_out_steps(plain.configure_optimizers())
    for _ in range(3):
        assert torch.equal(graphed(block), steps(block))
    assert lines == ["no CUDA graph, steps run one by one: capturing is not possible here"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n_classes", [0, 2])
@pytest.mark.parametrize("is_written_out", [True, False])
def test_graphs_give_the_weights_of_eager_steps(n_classes, is_written_out):
    results = []
    for is_graphed in (True, False):
        torch.manual_seed(1)
        model = (LinearLabel(7, n_classes, 5) if n_classes else LinearNextBin(7, 5)).cuda()
        optimizer = model.configure_optimizers()
        steps = (
            model.written_out_steps(optimizer) if is_written_out else AutogradSteps(model.net, model.loss, optimizer)
        )
        lines = []
        steps = GraphedSteps(steps, lines.append) if is_graphed else steps
        for seed in range(4):
            for n_samples in (100, 37):
                block = random_block(n_samples, 7, n_classes, 10, seed)
                steps(block._replace(counts=block.counts.cuda(), targets=block.targets.cuda()))
        assert lines == []
        results.append(model.state_dict())
    for name, weights in results[0].items():
        torch.testing.assert_close(weights, results[1][name], rtol=0, atol=1e-5)
