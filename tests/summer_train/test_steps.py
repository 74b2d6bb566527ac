"""All ways to take steps give the same weights: written out, through autograd, streamed, in two processes, resumed."""

import json

import numpy as np
import pytest
import torch

from summer_train import Decoder, LinearLabel, LinearNextBin, fit, open_selection
from summer_train.data import batches
from summer_train.data.batches import Block, OrderedBlocks, ResidentSamples, ShuffledBlocks, StreamedSamples
from summer_train.data.module import FilmData
from summer_train.data.targets import FilmLabel, NextBin
from summer_train.models.networks import Recurrent, two_layer_net
from summer_train.models.steps import AutogradSteps, DenseSteps, GraphedSteps, predict_stack, written_out_steps
from summer_train.scores.scoring import fingerprints, score_networks
from summer_train.settings.options import Choice, settings_from


def random_block(n_samples, n_units, n_classes, batch_size, seed=0):
    generator = np.random.default_rng(seed)
    counts = generator.poisson(0.5, (n_samples, n_units))
    targets = generator.integers(0, n_classes, n_samples) if n_classes else generator.poisson(0.5, (n_samples, n_units))
    sizes = tuple(min(batch_size, n_samples - start) for start in range(0, n_samples, batch_size))
    return Block(*(torch.from_numpy(one.astype(np.uint8)) for one in (counts, targets)), sizes, sizes)


def net_and_task(n_units, n_classes, hidden_size, seed=1):
    torch.manual_seed(seed)
    task = FilmLabel(n_classes) if n_classes else NextBin(n_units)
    return two_layer_net(n_units, hidden_size, task.n_outputs), task


def fused_adam(net, **options):
    return torch.optim.Adam(net.parameters(), lr=1e-3, fused=True, **options)


def assert_close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.5, "betas": (0.5, 0.9)}], ids=["plain", "changed"])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 10, 64])
def test_written_out_steps_equal_autograd(n_classes, batch_size, settings):
    block = random_block(100, 7, n_classes, batch_size)
    results = []
    for is_written_out in (True, False):
        net, task = net_and_task(7, n_classes, 5)
        optimizer = fused_adam(net, **settings)
        steps = written_out_steps(net, task, optimizer) if is_written_out else AutogradSteps(net, task.loss, optimizer)
        predictions = torch.cat([steps(block), steps(block)], dim=1)
        assert predictions.shape == (1, 200, task.n_outputs)
        results.append((predictions, dict(net.state_dict()), optimizer.state_dict()["state"]))
    (predictions, *weights_and_state), (expected, *expected_state) = results
    assert_close(predictions, expected, 1e-5)
    assert_close(weights_and_state, expected_state)


class Drawn(torch.nn.Module):
    """Dropout that draws as written-out steps do: each step has its own seed."""

    def __init__(self, p, seed):
        super().__init__()
        self.p, self.generator, self.seed = p, torch.Generator(), seed << 32

    def forward(self, hidden):
        self.generator.manual_seed(self.seed)
        self.seed += 1
        return hidden * (self.p <= torch.rand(hidden.T.shape, generator=self.generator).T) / (1 - self.p)


@pytest.mark.parametrize("n_classes", [0, 2])
def test_written_out_dropout_equals_autograd_with_the_same_draws_and_is_off_in_evaluation(n_classes):
    block, found = random_block(100, 7, n_classes, 10), []
    for is_written_out in (True, False):
        _, task = net_and_task(7, n_classes, 5)
        net = two_layer_net(7, 5, task.n_outputs, 0.4)
        net[2] = torch.nn.Dropout(0.4) if is_written_out else Drawn(0.4, 3)
        optimizer = fused_adam(net)
        written_out = written_out_steps(net, task, optimizer, seed=3)
        steps = written_out if is_written_out else AutogradSteps(net, task.loss, optimizer)
        found.append((steps(block), dict(net.state_dict())))
    assert_close(*found, 1e-5)
    net = two_layer_net(7, 5, 2, 0.4).eval()
    assert_close(
        predict_stack([one.detach()[None] for one in net.parameters()], block.counts)[0], net(block.counts.float())
    )


@pytest.mark.parametrize("n_classes", [0, 2])
@pytest.mark.parametrize("n_networks", [1, 5])
def test_a_stack_of_networks_is_trained_as_each_of_them_alone(n_classes, n_networks):
    block = random_block(100, 7, n_classes, 16)
    blocks = [block._replace(targets=random_block(100, 7, n_classes, 16, n).targets) for n in range(n_networks)]
    nets, tasks = zip(*(net_and_task(7, n_classes, 5, n) for n in range(n_networks)), strict=True)
    stack = [torch.stack(layer).detach() for layer in zip(*(net.parameters() for net in nets), strict=True)]
    optimizer = torch.optim.Adam(stack, lr=1e-3, fused=True)
    prepared = torch.stack([tasks[0].prepare(own.targets) for own in blocks])
    steps = DenseSteps(stack, lambda _targets: prepared, tasks[0].loss_gradient, optimizer)
    found = torch.cat([steps(block), steps(block)], dim=1)
    alone = [AutogradSteps(net, task.loss, fused_adam(net)) for net, task in zip(nets, tasks, strict=True)]
    expected = [torch.cat([one(own), one(own)], dim=1) for one, own in zip(alone, blocks, strict=True)]
    assert_close(found, torch.cat(expected), 1e-5)
    assert_close(stack, [torch.stack(layer) for layer in zip(*(net.parameters() for net in nets), strict=True)])


class Heavy(LinearLabel):
    def loss(self, prediction, target):
        return torch.nn.functional.cross_entropy(prediction, target.long(), weight=torch.tensor([1.0, 50.0]))


class Backwards(LinearLabel):
    def forward(self, counts):
        return self.net(-counts.float())


class Slow(LinearLabel):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [Heavy, Backwards, Slow])
def test_a_decoder_that_changes_something_is_trained_as_it_says_on_blocks_too(kind):
    block = random_block(100, 7, 2, 10)
    decoder, expected = kind(7, 2, 5), kind(7, 2, 5)
    expected.load_state_dict(decoder.state_dict())
    decoder.steps_with(decoder.configure_optimizers())(block)
    optimizer = expected.configure_optimizers()
    for x, y in zip(block.counts.split(10), block.targets.split(10), strict=True):
        optimizer.zero_grad()
        expected.loss(expected(x), y).backward()
        optimizer.step()
    assert_close(dict(decoder.state_dict()), dict(expected.state_dict()))


def test_steps_are_written_out_for_two_dense_layers_alone():
    stock = two_layer_net(7, 5, 7)
    nets = {
        DenseSteps: [stock, torch.nn.Sequential(torch.nn.Flatten(), *stock)],
        AutogradSteps: [
            torch.nn.Sequential(stock[0], torch.nn.Tanh(), stock[2]),
            torch.nn.Sequential(*stock, torch.nn.Linear(7, 7)),
            Recurrent(torch.nn.GRU, 7, 5, 7),
        ],
    }
    for kind, own in nets.items():
        assert {type(Decoder(net, NextBin(7)).steps_with(fused_adam(net))) for net in own} == {kind}
    assert isinstance(LinearNextBin(7).steps_with(fused_adam(stock)), DenseSteps)


@pytest.fixture
def make_data(demo_cache):
    def make(device_memory_gb=None, **changes):
        choice = settings_from(Choice, {"buffer": 10.0, **changes})
        return FilmData(open_selection(demo_cache, ["14", "20"], 80), choice, device_memory_gb)

    return make


@pytest.mark.parametrize("free_bytes", [1e9, 50_000], ids=["files in memory", "files on the disk"])
@pytest.mark.parametrize("task", ["next_bin", "label"])
def test_streamed_samples_are_the_resident_ones_in_the_same_order(task, free_bytes, make_data, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_SAMPLES", 300)
    data, streamed = make_data(task=task), make_data(task=task, device_memory_gb=1e-6)
    assert isinstance(data.samples, ResidentSamples)
    monkeypatch.setattr("summer_train.data.film.available_bytes", lambda: free_bytes)
    assert isinstance(streamed.samples, StreamedSamples)
    assert bool(streamed.samples.read_ahead_bytes) == (free_bytes < 1e9)
    assert "streaming" in streamed.notes[0]

    def shuffled(one):
        return ShuffledBlocks(samples=one.samples, indices=one.split.train, batch_size=32, seed=0)

    for kind in (lambda one: one.blocks("val"), shuffled, lambda one: one.train_dataloader()):
        assert len(kind(data))
        for resident, block in zip(kind(data), kind(streamed), strict=True):
            # A block is valid until the next but one is asked for.
            assert all(torch.equal(*pair) for pair in zip(resident[:2], block[:2], strict=True))
            assert resident[2:] == block[2:]


def test_equal_inputs_get_equal_scores_wherever_they_stand(make_data):
    data = make_data(task="label", brain_regions="A")
    generator = torch.Generator().manual_seed(0)

    def rounding(block):
        """Outputs that depend on the counts, and in the last digits on the row."""
        exact = block.counts.flatten(1).float().mean(1)[:, None] * torch.tensor([-1.0, 1.0])
        return (exact + 1e-6 * torch.randn(exact.shape, generator=generator))[None]

    (scored,) = score_networks([data], rounding)
    found = {}
    for part in ("val", "test"):
        counts = torch.cat([block.counts.clone() for block in data.blocks(part)]).numpy()
        for row, log_odds in zip(counts, scored.predictions[f"{part}_log_odds"], strict=True):
            found.setdefault(row.tobytes(), []).append(log_odds)
    assert max(map(len, found.values())) > 10
    assert all(len(set(values)) == 1 for values in found.values())


def test_samples_have_the_same_fingerprint_where_their_counts_are_the_same_and_nowhere_else():
    counts = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (3000, 2, 5)).astype(np.uint8))
    found = fingerprints(counts)
    for window, number in zip(counts[:50], found, strict=False):
        assert torch.equal(found == number, (counts == window).all(2).all(1))
    assert len(found.unique()) == len(counts.flatten(1).unique(dim=0))


@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("n_samples", [50, 53])
def test_processes_share_every_batch_and_miss_no_sample(n_processes, n_samples):
    targets = torch.arange(64, dtype=torch.uint8)
    samples = ResidentSamples(counts=torch.zeros(64, 3, dtype=torch.uint8), targets=targets, target_offset=0)
    common = {"samples": samples, "indices": np.arange(n_samples)}

    def batches_of(rank, n):
        blocks = ShuffledBlocks(**common, batch_size=8, seed=5, rank=rank, n_processes=n)
        return [part.tolist() for block in blocks for part in block.targets.split(block.local_sizes)]

    shares = [batches_of(rank, n_processes) for rank in range(n_processes)]
    for number, batch in enumerate(batches_of(0, 1)):
        assert sorted(batch) == sorted(sample for share in shares for sample in share[number])
    ordered = [OrderedBlocks(**common, rank=rank, n_processes=n_processes) for rank in range(n_processes)]
    assert sorted(t for blocks in ordered for block in blocks for t in block.targets.tolist()) == [*range(n_samples)]


@pytest.mark.parametrize("own", [{"task": "next_bin", "batch_size": 25}, {"task": "label", "model": "linear"}])
def test_two_processes_reach_the_weights_of_one(own, demo_cache, run, tmp_path):
    places = {"cache_dir": demo_cache, "data_dir": tmp_path, "output_dir": tmp_path / "1"}
    one = fit(**own, patient_ids=[14, 20], buffer=10, max_epochs=2, **places)
    words = [word for name, value in own.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--patient-ids", "14,20", "--buffer", "10", "--max-epochs", "2", "--devices", "2", "--json"]
    result = run("summer_train", "fit", *words, "--cache-dir", demo_cache, "--output-dir", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    paths = tmp_path / report["last_checkpoint"], one.last_checkpoint
    assert_close(*(dict(torch.load(path, weights_only=True)["state_dict"]) for path in paths), 1e-5)
    loss = one.scores["model"]["test"]["loss"]
    assert report["scores"]["model"]["test"]["loss"] == pytest.approx(loss, abs=1e-4)
    assert [path.name for path in (tmp_path / "2").glob("*/*")] == ["version_0"]


def test_where_no_graph_can_be_captured_steps_go_on_and_one_line_says_why(monkeypatch):
    def refuse():
        raise RuntimeError("capturing is not possible here\nand a long story")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    lines = []
    block = random_block(20, 3, 0, 8)
    (net, task), (other, _) = net_and_task(3, 0, 4), net_and_task(3, 0, 4)
    graphed = GraphedSteps(written_out_steps(net, task, fused_adam(net)), lines.append)
    steps = written_out_steps(other, task, fused_adam(other))
    for _ in range(3):
        assert torch.equal(graphed(block), steps(block))
    assert lines == ["no CUDA graph, steps run one by one: capturing is not possible here"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n_classes", [0, 2])
@pytest.mark.parametrize("is_written_out", [True, False])
def test_graphs_give_the_weights_of_eager_steps(n_classes, is_written_out):
    results = []
    for is_graphed in (True, False):
        net, task = net_and_task(7, n_classes, 5)
        optimizer = fused_adam(net.cuda(), capturable=True)
        steps = written_out_steps(net, task, optimizer) if is_written_out else AutogradSteps(net, task.loss, optimizer)
        lines = []
        steps = GraphedSteps(steps, lines.append) if is_graphed else steps
        for seed in range(4):
            for n_samples in (100, 37):
                block = random_block(n_samples, 7, n_classes, 10, seed)
                steps(block._replace(counts=block.counts.cuda(), targets=block.targets.cuda()))
        assert lines == []
        results.append(dict(net.state_dict()))
    assert_close(*results, 1e-5)
