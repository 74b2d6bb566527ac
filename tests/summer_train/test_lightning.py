"""Plain Lightning outside: our data and decoders under anybody's Trainer, with what users switch on."""

import os
import pickle
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

import summer_train
from summer_prep.errors import CacheError, SettingsError
from summer_train.models.decoder import new_decoder
from summer_train.models.networks import net_of

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*", "ignore:.*LeafSpec.*")


@pytest.fixture
def film(options):
    """Makes the data module of a small run."""
    return lambda log=print, **changes: summer_train.film_data(
        log=log,
        **{name: one for name, one in options(**changes).items() if name not in ("output_dir", "max_epochs")},
    )


def trainer(folder, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "logger": False}
    common = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "default_root_dir": folder, **quiet}
    return lightning.Trainer(**{**common, **settings})


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_batches_are_of_the_size_asked_for_and_hold_floats_and_targets(task, film):
    data = film(task=task, batch_size=50)
    batches = list(data.train_dataloader())
    assert [len(x) for x, _ in batches[:-1]] == [50] * (len(data.train_dataloader()) - 1)
    assert sum(len(x) for x, _ in batches) == data.n_samples["train"]
    x, y = batches[0]
    assert x.dtype == torch.float32
    assert (y.dtype, y.shape) == ((torch.int64, (50,)) if task == "label" else (torch.float32, (50, 20)))
    counts = data.selection.counts()
    in_order = torch.cat([x for x, _ in data.val_dataloader()])
    assert np.array_equal(in_order.numpy(), counts[data.split.val])
    if task == "next_bin":
        targets = torch.cat([y for _, y in data.val_dataloader()])
        assert np.array_equal(targets.numpy(), counts[data.split.val + 1])


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_the_data_module_goes_to_other_processes_without_its_counts(task, film):
    data = film(task=task, log=lambda _line: None)
    expected = [x for x, _ in data.val_dataloader()]
    content = pickle.dumps(data)
    again = pickle.loads(content)
    assert len(content) < data.selection.n_bytes + 100_000 * (task == "label")  # labels, split, usable bins
    assert all(torch.equal(x, other) for x, (other, _) in zip(expected, again.val_dataloader(), strict=True))
    assert (again.task, again.choice, again.provenance) == (data.task, data.choice, data.provenance)
    assert not again.selection.patients[0].chunks[0].flags.owndata


def test_data_that_were_rebuilt_meanwhile_are_not_opened_again(demo_cache):
    (patient,) = summer_train.open_selection(demo_cache, 14).patients
    attributes = {**patient.attributes, "digests": {**patient.attributes["digests"], "spike_counts": "0" * 64}}
    before = replace(patient.description, attributes=attributes, identity=None)
    with pytest.raises(CacheError, match="sub-14/bin-80ms.zarr: was rebuilt"):
        pickle.loads(pickle.dumps(replace(patient, description=before)))


def test_without_a_trainer_every_pass_is_an_epoch_in_another_order(film):
    loader = film(task="label").train_dataloader()
    first, second = (torch.cat([x for x, _ in loader]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first.sum(dim=0), second.sum(dim=0))


@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_plain_lightning_gives_the_weights_of_our_fit(task, film, options, places, tmp_path):
    ours = summer_train.fit(**options(task=task, batch_size=19))
    data = film(task=task, batch_size=19)
    decoder = summer_train.decoder(data)
    plain = trainer(tmp_path, callbacks=[ModelCheckpoint(dirpath=tmp_path / "kept", save_last=True)])
    plain.fit(decoder, datamodule=data)
    last = torch.load(ours.last_checkpoint, weights_only=True)
    assert plain.global_step == last["global_step"] == 2 * -(-data.n_samples["train"] // 19)
    for name, expected in last["state_dict"].items():
        torch.testing.assert_close(decoder.state_dict()[name], expected, rtol=0, atol=1e-5)
    assert summer_train.evaluate(tmp_path / "kept" / "last.ckpt", **places).differences == []


class Log(summer_train.LinearLabel):
    """Predicts from the logarithm of the counts."""

    def forward(self, counts):
        return self.net(torch.log1p(counts))


def test_a_decoder_of_ones_own_is_not_evaluated_as_a_stock_one(film, places, tmp_path):
    data = film(task="label")
    saver = ModelCheckpoint(dirpath=tmp_path / "kept", filename="own")
    trainer(tmp_path, callbacks=[saver]).fit(Log(20, 2, 8), datamodule=data)
    with pytest.raises(SettingsError, match=r"was trained as .*test_lightning.Log, which only your own code knows"):
        summer_train.evaluate(tmp_path / "kept" / "own.ckpt", **places)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_other_precisions_train_and_predict(precision, film, tmp_path):
    data = film(task="next_bin")
    plain = trainer(tmp_path, precision=precision, max_epochs=1, enable_checkpointing=False)
    decoder = summer_train.decoder(data)
    plain.fit(decoder, datamodule=data)
    predictions = torch.cat(plain.predict(decoder, datamodule=data))
    assert predictions.shape == (data.n_samples["test"], 20)
    assert torch.isfinite(predictions.float()).all()


def test_counts_are_not_rounded_to_16_bits():
    from summer_train.data.targets import NextBin

    assert NextBin(1).loss(torch.full((4, 1), 256.0, dtype=torch.bfloat16), torch.full((4, 1), 257)) == 1


def test_what_users_switch_on_works(film, tmp_path, capfd):
    data = film(task="label")
    callbacks = [
        EarlyStopping("val_loss", patience=1, min_delta=10.0),
        ModelCheckpoint(dirpath=tmp_path / "kept", monitor="train_loss", save_top_k=-1, filename="{epoch}"),
        TQDMProgressBar(),
    ]
    plain = trainer(
        tmp_path,
        max_epochs=9,
        callbacks=callbacks,
        logger=CSVLogger(tmp_path),
        enable_progress_bar=True,
        gradient_clip_val=0.1,
        accumulate_grad_batches=2,
        precision="bf16-mixed",
    )
    plain.fit(summer_train.decoder(data), datamodule=data)
    assert plain.current_epoch == 2
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    assert "Epoch 1" in capfd.readouterr().out
    assert "val_accuracy" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert plain.test(ckpt_path="best", datamodule=data, verbose=False)[0]["test_loss"] > 0
    plain = trainer(tmp_path, max_epochs=-1, max_steps=7, enable_checkpointing=False)
    plain.fit(summer_train.decoder(data), datamodule=data)
    assert plain.global_step == 7


class Heavy(summer_train.LinearLabel):
    """Weighs one class fifty times."""

    def loss(self, prediction, target):
        return torch.nn.functional.cross_entropy(prediction, target, weight=torch.tensor([1.0, 50.0]))


class WithSGD(summer_train.LinearLabel):
    """Another optimizer with a schedule, in two groups."""

    def configure_optimizers(self):
        first, _, second = self.net
        groups = [{"params": first.parameters(), "lr": 0.1}, {"params": second.parameters(), "lr": 0.0}]
        optimizer = torch.optim.SGD(groups)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)]


def test_a_changed_decoder_is_trained_as_it_was_changed(film, tmp_path):
    data = film(task="label")
    results = []
    for kind in (summer_train.LinearLabel, Heavy):
        torch.manual_seed(0)
        model = kind(20, 2, 8)
        plain = trainer(tmp_path, enable_checkpointing=False)
        plain.fit(model, datamodule=data)
        results.append((weights_of(model), float(plain.callback_metrics["val_loss"])))
    assert not torch.allclose(results[0][0]["net.0.weight"], results[1][0]["net.0.weight"], atol=1e-3)
    assert results[0][1] != pytest.approx(results[1][1], rel=0.1)
    model = WithSGD(20, 2, 8)
    before = weights_of(model)
    trainer(tmp_path, enable_checkpointing=False).fit(model, datamodule=data)
    after = weights_of(model)
    assert torch.equal(before["net.2.weight"], after["net.2.weight"])
    assert not torch.equal(before["net.0.weight"], after["net.0.weight"])


def test_a_pass_leaves_nothing_for_the_next(film, tmp_path):
    data = film(task="label")
    decoder = summer_train.decoder(data)
    plain = trainer(tmp_path, enable_checkpointing=False)
    plain.fit(decoder, datamodule=data)
    first = plain.test(decoder, datamodule=data, verbose=False)
    with pytest.raises(RuntimeError):
        plain.test(decoder, [(torch.zeros(2, 20), torch.zeros(2)), (torch.zeros(2, 3), torch.zeros(2))], verbose=False)
    assert plain.test(decoder, datamodule=data, verbose=False) == first


@pytest.mark.parametrize(
    "changes", [{"patient_ids": [29, 8]}, {"label_name": "office"}, {"fold": 3}], ids=["patients", "label", "fold"]
)
def test_fine_tuning_keeps_what_came_before(changes, film, options, tmp_path):
    result = summer_train.fit(**options(task="label"))
    decoder = summer_train.LinearLabel.load_from_checkpoint(result.best_checkpoint)
    assert decoder.provenance["config"]["label_name"] == "summer"
    other = film(task="label", **changes)
    saver = ModelCheckpoint(dirpath=tmp_path / "tuned", filename="tuned")
    trainer(tmp_path, callbacks=[saver]).fit(decoder, datamodule=other)
    summer = torch.load(tmp_path / "tuned" / "tuned.ckpt", weights_only=True)["summer"]
    assert summer["config"]["fold"] == changes.get("fold", 1)
    assert summer["before"]["config"]["label_name"] == "summer"


def test_whatever_a_plain_trainer_saved_is_evaluated_as_what_it_is(film, places, tmp_path):
    """A decoder of another size, trained on loaders given alone, saved by a callback and after the end."""
    data, saver = film(task="label"), ModelCheckpoint(dirpath=tmp_path, filename="alone")
    with pytest.raises(SettingsError, match="a smaller --hidden-size than 100000000000"):
        summer_train.decoder(data, hidden_size=10**11)
    with pytest.raises(SettingsError, match="must come from summer_train.film_data"):
        summer_train.decoder("data")
    plain = trainer(tmp_path, callbacks=[saver])
    plain.fit(summer_train.decoder(data, hidden_size=5, lr=0.01), data.train_dataloader(), data.val_dataloader())
    plain.save_checkpoint(tmp_path / "after.ckpt")
    for name in ("alone.ckpt", "after.ckpt"):
        evaluated = summer_train.evaluate(tmp_path / name, **places)
        assert (evaluated.differences, evaluated.epoch) == ([], 2)


@pytest.mark.parametrize("n_samples", [1, 7, 8])
@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_of_a_plain_trainer_get_as_many_batches_and_miss_no_sample(n_samples, n_processes):
    from summer_train.data.batches import Batches, ResidentSamples

    samples = ResidentSamples(counts=torch.zeros(9, 2), targets=torch.arange(9), target_offset=0)
    common = {"samples": samples, "indices": np.arange(n_samples), "batch_size": 2, "epoch_of_pass": lambda: 0}
    shares = [
        list(Batches(**common, as_target=lambda one: one, process=lambda rank=rank: (rank, n_processes)))
        for rank in range(n_processes)
    ]
    assert len({len(share) for share in shares}) == 1
    assert {int(y) for share in shares for _, ys in share for y in ys} == set(range(n_samples))


def test_examples_run_and_several_processes_give_the_model_of_one(demo_cache, tmp_path, monkeypatch, capsys):
    """Two processes that Lightning starts, and two under torchrun; the examples in this process first."""
    own, several = (ROOT / "docs" / "examples" / name for name in ("own_model.py", "several_nodes.py"))
    assert len(own.read_text().splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    for example in (own, several):
        monkeypatch.setattr("sys.argv", [str(example), str(demo_cache), "1", "1"])
        runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "validation accuracy 0." in printed
    assert "validation loss 0." in printed
    alone = torch.load("several_nodes.ckpt", weights_only=True)
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        result = subprocess.run(
            [sys.executable, *launcher, several, demo_cache, "1", "2"], check=False, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("validation loss") == 1
        shared = torch.load("several_nodes.ckpt", weights_only=True)
        assert shared["global_step"] == alone["global_step"]
        for name, expected in alone["state_dict"].items():
            torch.testing.assert_close(shared["state_dict"][name], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "lstm", "gru"])
def test_weights_start_as_torch_draws_them_after_its_seed_is_set_also_in_threads(model, film):
    data = film(task="label", model=model, window=(0.08, 0), hidden_size=None)
    sizes = {} if model == "linear" else {"hidden_size": 300 if model in ("lstm", "gru") else 8000}
    choices = [replace(data.choice, seed=seed, **sizes) for seed in range(8)]
    expected = []
    for choice in choices:
        torch.manual_seed(choice.seed)
        expected.append(net_of(data, choice).state_dict())
    state = torch.get_rng_state()
    with ThreadPoolExecutor(8) as threads:
        decoders = list(threads.map(lambda choice: new_decoder(data, choice), choices))
    assert torch.equal(torch.get_rng_state(), state)
    for decoder, weights in zip(decoders, expected, strict=True):
        assert decoder.device.type == "cpu"
        assert all(torch.equal(decoder.net.state_dict()[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("environment", "n_processes"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "RANK": "5"}, 8),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, 2),
    ],
    ids=["torchrun", "srun"],
)
def test_fit_refuses_to_be_one_of_several_processes(environment, n_processes, options, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"started {n_processes} processes.*several_nodes.py"):
        summer_train.fit(**options())


LEFT_OVER = {"LOCAL_RANK": "1", "RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("left_behind", "devices"),
    [
        ({**LEFT_OVER, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 1),
        ({**LEFT_OVER, "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "77"}, 2),  # a batch script, no srun
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 2),  # torchrun of one process
    ],
    ids=["srun of one process", "batch script, 2 devices", "torchrun, 2 devices"],
)
def test_variables_of_launchers_do_not_keep_a_run_from_training(left_behind, devices, forks, demo_cache, tmp_path):
    command = ("fit", "--cache-dir", demo_cache, "--patient-ids", "14", "--buffer", "10", "--max-epochs", "1")
    options = ("--logger", "tensorboard", "--devices", str(devices))
    port = {"MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    done = forks.run(tmp_path, "summer_train", *command, *options, cwd=tmp_path, **left_behind, **port)
    assert done.returncode == 0, done.stderr
    assert "run: lightning_logs/dhv/version_0" in done.stdout
    assert list(tmp_path.glob("lightning_logs/dhv/version_0/tensorboard/events*"))


def test_training_takes_cuda_or_the_processor_and_nothing_else(options, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.accelerators.mps.MPSAccelerator.is_available", lambda: True)
    taken = []
    monkeypatch.setattr("lightning.Trainer", lambda **settings: taken.append(settings["accelerator"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        summer_train.fit(**options())
    assert taken == ["cpu"]
