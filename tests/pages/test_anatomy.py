"""Distributions, paths, deletion and wake-up steps against second computations by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from playwright.sync_api import Page, TimeoutError, expect
from viewing import opened, text

from gradviz.charts import anatomy as charts_anatomy
from gradviz.lenet.config import READERS, RunConfig
from gradviz.lenet.data import Dataset, Shelf
from gradviz.lenet.experiment import task, training
from gradviz.lenet.net import DeepLeNet, initialise
from gradviz.record import reading
from gradviz.record import sample as anatomy
from gradviz.record.history import History
from gradviz.record.run import Run, Status
from gradviz.record.sample import AnatomySample, BlockDeletion
from gradviz.store.store import RunStore
from gradviz.train.trainer import Trainer
from gradviz.ui.server import server
from gradviz.web.motion import motion
from gradviz.words import number

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SMALL = RunConfig(activation="relu", blocks=2, batch_size=8, steps=3, dataset="digits", lr=0.01)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Shelf(Path("nowhere"), download=False).load("digits")


def first_sample(config: RunConfig, data: Dataset) -> AnatomySample:
    return next(iter(training(config, data, CPU))).anatomy


def net_and_gradients(config: RunConfig, data: Dataset) -> DeepLeNet:
    """The net of step 0 with its gradients, by a plain loop that shares the generator's draws only."""
    generator = torch.Generator().manual_seed(config.seed)
    net = DeepLeNet(config)
    initialise(net, config.init_range, generator)
    places = torch.randperm(len(data.train_labels), generator=generator)[: config.batch_size]
    F.cross_entropy(net(data.train_images[places]), data.train_labels[places]).backward()
    return net


# --- distributions


def test_quantiles_are_those_of_numpy_and_every_entry_is_counted_in_its_octave():
    entries = np.random.default_rng(1).normal(size=(3, 500)).astype(np.float32)
    entries[1] *= np.float32(1e-30)
    entries[2, :7] = 0
    quantiles, counts = anatomy.distribution(entries)
    assert np.allclose(quantiles, np.percentile(entries, anatomy.PERCENTS, axis=1).T, rtol=1e-5, atol=0)
    assert (counts.sum(1) == 500).all() and counts[2, anatomy.ZERO] == 7
    for layer in range(3):
        by_hand, _ = np.histogram(np.abs(entries[layer].astype(float)), bins=anatomy.EDGES)
        assert (counts[layer, : anatomy.NONFINITE] == by_hand).all()


def test_zero_denormal_and_nonfinite_are_counted_apart():
    entries = np.array([[0.0, -0.0, 1e-45, 1e-39, 1.0, np.inf, -np.inf, np.nan]], np.float32)
    quantiles, counts = anatomy.distribution(entries)
    assert counts[0, anatomy.ZERO] == 2 and counts[0, 0] == 2 and counts[0, anatomy.NONFINITE] == 3 and counts[0, 127] == 1
    assert np.isnan(quantiles).all()


def test_magnitude_quantiles_come_within_a_tenth_of_a_decade():
    entries = (np.random.default_rng(2).normal(size=(1, 20_000)) * 1e-20).astype(np.float32)
    found = anatomy.magnitude_quantiles(anatomy.distribution(entries)[1], (5, 50, 95))[0]
    assert np.abs(found - np.log10(np.percentile(np.abs(entries), (5, 50, 95)))).max() < 0.1
    assert np.isnan(anatomy.magnitude_quantiles(np.zeros((1, anatomy.BINS)))).all()


def test_a_sample_holds_the_distributions_of_the_plain_loop(digits):
    sample, net = first_sample(SMALL, digits), net_and_gradients(SMALL, digits)
    for kind, tensors in (
        ("weight", [layer.weight.detach() for layer in net.weight_layers]),
        ("weight_grad", [layer.weight.grad for layer in net.weight_layers]),
    ):
        for layer, tensor in enumerate(tensors):
            found, entries = sample.quantile(kind)[layer], tensor.numpy().ravel()
            assert found[[0, -1]].tolist() == pytest.approx([entries.min(), entries.max()], rel=1e-5)
            if len(entries) <= anatomy.ENTRIES:
                assert np.allclose(found, np.percentile(entries, anatomy.PERCENTS), rtol=1e-4, atol=1e-4 * entries.std())
            else:  # the share of entries under the quantile: its standard error is at most 0.5/√2048 = 1.1 %
                for value, percent in zip(found[1:-1], anatomy.PERCENTS[1:-1], strict=True):
                    # Many entries may be equal: exact zeros.
                    assert (entries < value).mean() * 100 - 5 < percent < (entries <= value).mean() * 100 + 5


def test_updates_are_the_change_of_the_weights(digits):
    trainer = training(SMALL, digits, CPU)
    before = [layer.weight.detach().clone() for layer in trainer.model.weight_layers]
    sample = next(iter(trainer)).anatomy
    for layer, (old, now) in enumerate(zip(before, trainer.model.weight_layers, strict=True)):
        change = (now.weight.detach() - old).numpy()
        assert sample.quantile("update")[layer][[0, -1]].tolist() == pytest.approx([change.min(), change.max()], rel=1e-4)


@pytest.mark.trains
def test_samples_are_few_and_change_no_number_of_the_training(digits):
    assert anatomy.sampled_steps(300) == (0, 1, 2, 5, 10, 20, 50, 100, 200, 299)
    assert anatomy.sampled_steps(1) == (0,) and len(anatomy.sampled_steps(100_000)) <= 40
    config = replace(SMALL, steps=12, shortcut=True, treatment="clip-value", threshold=1e-3)
    with_samples = list(training(config, digits, CPU))
    without = list(Trainer(task(config, digits, CPU), sampled=()))
    assert [record.step for record in with_samples if record.anatomy] == [0, 1, 2, 5, 10, 11]
    for one, other in zip(with_samples, without, strict=True):
        assert one.loss == other.loss and np.array_equal(one.layers, other.layers, equal_nan=True)


# --- units


def test_dead_units_and_saturation_are_counted_as_by_hand(digits):
    trainer = training(SMALL, digits, CPU)
    with torch.no_grad():
        trainer.model.blocks[0].conv1.bias[:5] = -100  # five of sixteen channels can never fire
        trainer.model.blocks[1].conv2.bias[:] = -100
    sample = next(iter(trainer)).anatomy
    assert sample.number("dead_share")[2] >= 5 / 16 and sample.number("dead_share")[5] == 1
    assert np.isnan(sample.number("saturated_share")).all() and np.isnan(sample.number("dead_share")[-1])
    trainer = training(replace(SMALL, activation="sigmoid"), digits, CPU)
    with torch.no_grad():
        trainer.model.blocks[0].conv1.bias[:4] = 100
    sample = next(iter(trainer)).anatomy
    assert sample.number("saturated_share")[2] == pytest.approx(0.25) and sample.number("saturated_share")[3] == 0
    assert np.isfinite(sample.number("dead_share")[[0, 1, 6, 7]]).all()  # stem and head stay relu


# --- treatment


@pytest.mark.parametrize(("treatment", "threshold"), [("clip-value", 1e-3), ("floor", 1e-4), ("clip-norm", 1e-3)])
def test_before_and_after_treatment_agree_with_a_cosine_by_hand(digits, treatment, threshold):
    config = replace(SMALL, treatment=treatment, threshold=threshold)
    sample, net = first_sample(config, digits), net_and_gradients(config, digits)

    def by_hand(gradient: np.ndarray) -> np.ndarray:
        if treatment == "clip-value":
            return np.clip(gradient, -threshold, threshold)
        if treatment == "floor":
            return np.where(np.abs(gradient) < threshold, np.where(gradient < 0, -threshold, threshold), gradient)
        return gradient * threshold / length

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return a @ b / np.sqrt((a @ a) * (b @ b))

    everything = np.concatenate([parameter.grad.numpy().astype(float).ravel() for parameter in net.parameters()])
    length = np.sqrt(everything @ everything)
    altered, direction, before, after = sample.overall
    treated = by_hand(everything)
    assert altered == pytest.approx((everything != treated).mean(), abs=1e-3)
    assert direction == pytest.approx(cosine(everything, treated), abs=1e-5)
    assert (before, after) == pytest.approx((length, np.sqrt(treated @ treated)), rel=1e-4)
    for layer, module in enumerate(net.weight_layers):
        gradient = module.weight.grad.numpy().astype(float).ravel()
        assert sample.number("cosine")[layer] == pytest.approx(cosine(gradient, by_hand(gradient)), abs=1e-4)
        assert sample.number("altered_share")[layer] == pytest.approx((gradient != by_hand(gradient)).mean(), abs=2e-3)


def test_the_floor_loses_the_direction_of_a_vanished_gradient_and_clipping_keeps_it(digits):
    floor = replace(SMALL, activation="sigmoid", blocks=6, treatment="floor", threshold=1e-3)
    sample = first_sample(floor, digits)
    assert sample.number("altered_share")[2] == 1 and sample.number("cosine")[2] < 0.9
    clip = first_sample(replace(SMALL, treatment="clip-norm", threshold=1e-3), digits)
    assert clip.overall[1] == pytest.approx(1, abs=1e-6)


# --- the two paths of a shortcut


def test_the_backward_signal_is_split_as_autograd_splits_it(digits):
    config = replace(SMALL, shortcut=True, blocks=3)
    sample = first_sample(config, digits)
    net = net_and_gradients(config, digits)
    generator = torch.Generator().manual_seed(config.seed)
    initialise(net, None, generator)
    places = torch.randperm(len(digits.train_labels), generator=generator)[: config.batch_size]
    # The same net written out, with each block's input under two names.
    h = F.max_pool2d(F.relu(net.conv1(digits.train_images[places])), 2)
    x = F.max_pool2d(F.relu(net.conv2(h)), 2)
    roads = []
    for block in net.blocks:
        straight, branch = x.clone(), x.clone()
        roads += [straight, branch]
        x = straight + F.relu(block.conv2(F.relu(block.conv1(branch))))
    h = x.flatten(1)
    loss = F.cross_entropy(net.fc3(F.relu(net.fc2(F.relu(net.fc1(h))))), digits.train_labels[places])
    gradients = [gradient.double() for gradient in torch.autograd.grad(loss, roads)]
    identity, branch = gradients[0::2], gradients[1::2]

    def rms(parts: list[torch.Tensor]) -> list[float]:
        return [part.square().mean().sqrt().item() for part in parts]

    totals = [i + b for i, b in zip(identity, branch, strict=True)]
    for row, expected in zip(sample.paths, (identity, branch, totals), strict=True):
        assert row.tolist() == pytest.approx(rms(expected), rel=1e-4)
    of_identity, of_branch = reading.path_shares(sample.paths)
    projected = [float((i * t).sum() / (t * t).sum()) for i, t in zip(identity, totals, strict=True)]
    assert of_identity.tolist() == pytest.approx(projected, abs=1e-4)
    assert (of_identity + of_branch).tolist() == pytest.approx([1, 1, 1])


def test_without_a_shortcut_there_are_no_paths(digits):
    assert first_sample(SMALL, digits).paths.shape == (3, 0)


def test_a_deleted_block_is_really_gone(digits):
    config = replace(SMALL, shortcut=True, blocks=3, steps=2)
    trainer = training(config, digits, CPU)
    list(trainer)
    found, net = trainer.outcome.deletion, trainer.model.eval()
    assert found.blocks == (0, 1, 2) and len(net.blocks) == 3

    def accuracy_without(*deleted: int) -> float:
        with torch.no_grad():
            h = F.max_pool2d(F.relu(net.conv1(digits.test_images[: found.images])), 2)
            x = F.max_pool2d(F.relu(net.conv2(h)), 2)
            for number, block in enumerate(net.blocks):
                if number not in deleted:
                    x = x + F.relu(block.conv2(F.relu(block.conv1(x))))
            logits = net.fc3(F.relu(net.fc2(F.relu(net.fc1(x.flatten(1))))))
        return (logits.argmax(1) == digits.test_labels[: found.images]).float().mean().item()

    assert found.full == pytest.approx(accuracy_without())
    assert found.without_all == pytest.approx(accuracy_without(0, 1, 2))
    assert found.accuracies == pytest.approx([accuracy_without(block) for block in range(3)])


def test_deletion_is_bounded_and_its_noise_is_two_standard_errors():
    assert len(anatomy.deleted_blocks(40, 250, 300, 64)) == 40
    deep = anatomy.deleted_blocks(1000, 64, 100, 64)
    assert deep[0] == 0 and deep[-1] == 999 and len(deep) * 500 * 64 <= anatomy.DELETION_WORK
    assert len(anatomy.deleted_blocks(0, 250, 300, 64)) == 0
    deletion = BlockDeletion(100, 0.9, 0.1, (0, 1, 2), (0.5, 0.85, 0.9))
    assert deletion.noise == pytest.approx(2 * (0.9 * 0.1 / 100) ** 0.5) and deletion.harmless == (1, 2)


def test_what_deletion_says_depends_on_single_blocks_and_on_all_at_once():
    def words(without_all: float, *accuracies: float, full: float = 0.9) -> str:
        return charts_anatomy.deletion_words(BlockDeletion(100, full, without_all, tuple(range(len(accuracies))), accuracies), 4)

    assert "like an ensemble" in words(0.1, 0.9, 0.9, 0.88, 0.9)
    assert "bypassed on the way forward too" in words(0.9, 0.9, 0.9, 0.9, 0.9)
    assert "not bypassed" in words(0.1, 0.2, 0.3, 0.4, 0.9)
    assert "an even choice of 3" in words(0.1, 0.9, 0.9, 0.5)
    assert "no better than guessing" in words(0.1, 0.1, 0.1, 0.1, 0.1, full=0.11)


# --- read out of the history


def test_a_layer_wakes_when_its_gradient_stays_ten_times_as_large():
    gradients = np.full((60, 5), 1e-20, np.float32)
    gradients[30:, 0] = 2e-19  # wakes at 30
    gradients[10, 1] = 1.0  # one loud step
    gradients[20:, 2] = 9e-20  # not a decade
    gradients[:, 3] = 0
    gradients[35:, 3] = 1e-30  # from exactly zero
    gradients[20:, 4] = np.nan
    assert reading.wake_steps(gradients).tolist() == [30, -1, -1, 35, -1]
    assert reading.wake_steps(gradients[:, :1], stride=4).tolist() == [120]
    assert reading.wake_steps(gradients[:5]).tolist() == [-1] * 5


def test_adams_eps_halves_a_step_of_its_own_size():
    assert reading.adam_share(np.array([1e-8, 1.0, 0.0, np.inf])).tolist() == pytest.approx([0.5, 1, 0, 1])


# --- pictures and keeping


def test_pictures_show_the_filters_to_a_two_hundredth_of_the_largest(digits):
    sample, net = first_sample(SMALL, digits), net_and_gradients(SMALL, digits)
    layer, picture = sample.packed().picture(3)
    assert layer == 3 and picture.weight.shape == (16, 16, 5, 5)
    for tensor, kept, scale in (
        (net.weight_layers[3].weight.detach(), picture.weight, picture.weight_scale),
        (net.weight_layers[3].weight.grad, picture.gradient, picture.gradient_scale),
    ):
        assert scale == pytest.approx(float(tensor.abs().max()), rel=1e-5)
        assert np.abs(kept * (scale / 127) - tensor.numpy()).max() <= scale / 250
    assert sample.packed().picture(8)[1].weight.shape == (10, 84)


def test_a_deep_net_keeps_pictures_of_evenly_spread_layers_only(digits):
    sample = first_sample(replace(SMALL, blocks=50, batch_size=1, steps=1), digits)
    assert len(sample.pictures) == anatomy.PICTURED_LAYERS and {0, 104} <= set(sample.pictures)
    layer, _picture = sample.packed().picture(51)
    assert abs(layer - 51) <= 1


def test_a_vanished_gradient_has_a_picture_of_scale_zero(digits):
    sample = first_sample(replace(SMALL, activation="sigmoid", blocks=30, batch_size=2, steps=1), digits)
    _layer, picture = sample.packed().picture(2)
    assert picture.gradient_scale == 0 and not picture.gradient.any()
    assert sample.count("weight_grad")[2, anatomy.ZERO] == min(6400, anatomy.ENTRIES)


def test_samples_and_deletion_survive_a_restart(digits, tmp_path):
    config = replace(SMALL, shortcut=True)
    run = Run(config, History(config.layers), Status.RUNNING)
    store = RunStore(tmp_path, READERS)
    trainer = training(config, digits, CPU)
    for record in trainer:
        run.history.append(record)
        store.save(run)
    run.status, run.deletion = trainer.outcome.status, trainer.outcome.deletion
    store.save(run)
    store.close()
    store = RunStore(tmp_path, READERS)
    again = store.load(run.id)
    store.close()
    assert [kept.step for kept in again.history.samples] == [0, 1, 2] and again.deletion == run.deletion
    for old, new in zip(run.history.samples, again.history.samples, strict=True):
        assert old == new
        assert np.array_equal(old.sample().quantiles, new.sample().quantiles, equal_nan=True)


def test_a_store_of_an_earlier_version_gains_the_new_tables(digits, tmp_path):
    run = Run(SMALL, History(SMALL.layers), Status.RUNNING)
    for record in training(SMALL, digits, CPU):
        run.history.append(record)
    store = RunStore(tmp_path, READERS)
    store.save(run)
    for statement in (
        "DROP TABLE samples", "ALTER TABLE runs DROP COLUMN deletion", "ALTER TABLE runs DROP COLUMN clients",
        "PRAGMA user_version = 1",
    ):  # fmt: skip
        store.file.db.execute(statement)
    store.close()
    store = RunStore(tmp_path, READERS)
    again = store.load(run.id)
    assert again.history.steps == 3 and again.history.samples == [] and again.deletion is None
    store.save(run)
    assert len(store.load(run.id).history.samples) == 3
    store.close()


# --- the page


def kept_run(config: RunConfig) -> Run:
    run = server().manager.start(config)
    assert server().manager.wait(run.id, timeout=60)
    return server().manager.get(run.id)


def test_without_a_run_the_page_says_where_to_start_one(page_server):
    assert "Start one in the Lab" in text(opened("anatomy"))


def test_every_view_of_a_finished_run_opens_and_the_slider_moves_the_verdict(page_server):
    run = kept_run(replace(SMALL, shortcut=True, treatment="clip-norm", threshold=0.1, steps=12))
    page = opened("anatomy", run=run.id)
    assert "Step 11" in text(page) and "woke" not in text(page)
    assert "Distributions are taken" not in text(page)  # the last step is a sampled one
    page.select_slider(key="anatomy_step").set_value(9).run()
    assert "Step 9" in text(page) and "these are of step 5" in text(page)
    for view, words in (
        ("treatment", "the direction stays"), ("shortcut", "can be left out"), ("layer", "16 filters"), ("motion", "Step 9"),
    ):  # fmt: skip
        page.segmented_control(key="anatomy_view").set_value(view).run()
        assert not page.exception and (words in text(page) or "guessing" in text(page)), view
    page.segmented_control(key="anatomy_view").set_value("layer").run()
    page.selectbox(key="anatomy_layer").select("fc2").run()
    assert not page.exception and "fc2 at step 1" in text(page)  # pictures are kept at 0, 1, 10 and 11


def test_the_treatment_that_is_shown_is_that_of_the_step(page_server):
    run = kept_run(replace(SMALL, changes="1:treatment=floor,1:threshold=0.5,2:lr=0.002"))
    page = opened("anatomy", run=run.id, view="treatment")
    assert "takes 100 % of a full step of 0.002" in text(page)
    page.select_slider(key="anatomy_step").set_value(0).run()
    assert "At step 0 there is no gradient treatment" in text(page)


def test_a_vanished_and_a_diverged_run_open_without_an_error(page_server):
    for config in (
        replace(SMALL, activation="sigmoid", blocks=30, steps=1, batch_size=2),
        replace(SMALL, blocks=40, init_range=0.5, shortcut=True, batch_size=2),
    ):
        run = kept_run(config)
        for view in ("layers", "treatment", "shortcut", "layer", "motion"):
            assert "Step 0" in text(opened("anatomy", run=run.id, view=view)) or view == "motion"
    assert run.status is Status.DIVERGED


def test_slow_motion_tells_the_measured_numbers(digits):
    run = Run(SMALL, History(SMALL.layers), Status.FINISHED)
    for record in training(SMALL, digits, CPU):
        run.history.append(record)
    film = motion(run, run.history, 1, run.history.samples[1].sample())
    assert f"{run.history.loss[1]:.4g} nats" in film["stages"][1]["text"]
    signal = film["rows"][1]
    assert signal["texts"] == [number(value, 3) for value in run.history.quantity("signal_rms")[1]]
    assert max(signal["heights"]) <= 1 and min(signal["heights"]) >= 0
    assert len(film["names"]) == SMALL.layers and film["rows"][2]["low"] == film["rows"][3]["low"]


def test_a_step_is_told_with_the_treatment_and_the_optimiser_that_were_in_force_in_it(digits):
    config = replace(SMALL, changes="1:treatment=clip-norm,1:threshold=0.01,2:optimizer=sgd,2:treatment=none")
    run = Run(config, History(config.layers), Status.FINISHED)
    for record in training(config, digits, CPU):
        run.history.append(record)
    stages = [motion(run, run.history, column, None)["stages"] for column in range(3)]
    treated, moved = ([stage[row]["text"] for stage in stages] for row in (3, 4))
    assert treated[0] == treated[2] and treated[0].startswith("None is chosen") and treated[1] == "clip-norm 0.01."
    assert [words.split()[0] for words in moved] == ["adam", "adam", "sgd"]


def test_pictures_of_2005_layers_stay_small(digits):
    config = replace(SMALL, shortcut=True, blocks=1000, batch_size=1, steps=1)
    run = Run(config, History(config.layers, 500), Status.STOPPED)
    run.history.append(next(iter(training(config, digits, CPU))))
    sample = run.history.samples[0].sample()
    assert run.history.samples[0].nbytes < 4e6
    names = config.layout.names
    figures = [
        charts_anatomy.profile_figure(run.history, 0, names, None),
        charts_anatomy.band_figure(sample, "weight", names, False, (-1, 1)),
        charts_anatomy.band_figure(sample, "weight_grad", names, True, (-10, 0)),
        charts_anatomy.optimiser_figure(run.history, 0, names, True),
        charts_anatomy.paths_figure(sample),
    ]
    for figure in figures:
        assert len(figure.to_json()) < 150_000
        assert max(len(trace.x) for trace in figure.data) <= 300


# --- the page in a browser

SECONDS = 1000  # Playwright counts in milliseconds
SHORTCUT = replace(SMALL, shortcut=True, blocks=3, steps=6)


@pytest.fixture(scope="module")
def anatomy_page(start_server: Callable, browser, digits) -> Iterator[tuple[Page, str, list[str]]]:
    """A page at a finished run with shortcut, the address of the page, and what the browser's console complained of."""
    server = start_server(GRADVIZ_DATA="/nonexistent")
    server.kill()
    run = Run(SHORTCUT, History(SHORTCUT.layers), Status.RUNNING, "cpu, 1 thread")
    trainer = training(SHORTCUT, digits, CPU)
    for record in trainer:
        run.history.append(record)
    run.end(trainer.outcome)
    store = RunStore(server.store, READERS)
    store.save(run)
    store.close()
    server.start()
    page, complaints = browser.new_page(viewport={"width": 1280, "height": 1500}), []
    page.set_default_timeout(90 * SECONDS)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # Streamlit looks for its own health under the page's path first, and asks the root when that is not found.
    page.on("console", lambda said: complaints.append(f"{said.text} {said.location['url']}")
            if said.type == "error" and "/_stcore/" not in said.location["url"] else None)  # fmt: skip
    url = f"{server.url}/anatomy?run={run.id}"
    page.goto(url)
    yield page, url, complaints
    page.close()


def figures(page: Page, *labels: str) -> None:
    """Waits until the figures with these labels are drawn. A page that shows none on a busy machine is loaded once more."""
    drawn = [page.locator(f".gv-figure-box[aria-label='{label}'] .main-svg").first for label in labels]
    try:
        drawn[0].wait_for(timeout=60 * SECONDS)
    except TimeoutError:
        page.reload()
    for each in drawn:
        each.wait_for(timeout=90 * SECONDS)


def view(page: Page, name: str) -> None:
    page.locator(".st-key-anatomy_view").get_by_text(name, exact=True).click()


@pytest.mark.timeout(400)
def test_a_reader_opens_a_run_plays_its_steps_and_looks_into_a_layer(anatomy_page):
    page, _url, complaints = anatomy_page
    figures(page, "Gradient sizes over depth", *(anatomy.KINDS[kind] for kind in ("weight", "weight_grad")))
    expect(page.get_by_text("Step 5.", exact=True)).to_be_visible()

    page.get_by_role("button", name="Play").click()  # at the last step: from the start, and to the last again
    expect(page.get_by_text(re.compile(r"^Step [0-4]\.$"))).to_be_visible(timeout=90 * SECONDS)
    expect(page.get_by_text("Step 5.", exact=True)).to_be_visible(timeout=90 * SECONDS)
    expect(page.get_by_role("button", name="Play")).to_be_visible(timeout=90 * SECONDS)

    view(page, "One layer")
    figures(page, "Course of the layer", "Histogram of magnitudes", "Filters and their gradients")
    view(page, "Shortcut")
    figures(page, "Backward signal by path, over blocks", "Accuracy without each block")
    deletion = page.locator(".gv-figure-box[aria-label='Accuracy without each block'] .gv-figure").first
    assert deletion.evaluate("plot => plot._fullData.find(trace => trace.mode === 'markers').x.length") == SHORTCUT.blocks
    assert complaints == []


@pytest.mark.timeout(400)
def test_a_link_to_a_layer_opens_that_layer(anatomy_page):
    page, url, complaints = anatomy_page
    page.goto(f"{url}&layer=block1.conv2&view=layer&step=0")
    figures(page, "Course of the layer")
    expect(page.get_by_text("Step 0.", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("block1.conv2 at step 0: 16 filters"))).to_be_visible(timeout=90 * SECONDS)
    assert complaints == []


@pytest.mark.timeout(400)
def test_the_slow_motion_lights_every_stage_in_turn(anatomy_page):
    page, url, complaints = anatomy_page
    page.goto(f"{url}&view=motion&step=0")
    stages = page.locator(".gvm-stages button")
    stages.first.wait_for(timeout=90 * SECONDS)
    lit = page.locator(".gvm-bars i.lit")
    stages.first.click()
    before = lit.count()
    page.locator(".gvm-play").click()
    page.wait_for_function("before => document.querySelectorAll('.gvm-bars i.lit').length > before", arg=before)
    stages.last.click()
    expect(stages.last).to_have_attribute("aria-current", "true")
    assert lit.count() == page.locator(".gvm-bars i").count() == 5 * SHORTCUT.layers
    expect(page.locator(".gvm-text")).to_contain_text("adam moves the weights")
    assert complaints == []
