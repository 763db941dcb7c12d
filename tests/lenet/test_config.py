"""RunConfig: what it accepts, what it says when it refuses, and how it travels through URL, JSON and hash."""

import json
import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradviz.lenet.changes import KNOBS, MOST_CHANGES, Change
from gradviz.lenet.config import FIELDS, PRESETS, ConfigError, RunConfig, misspelt, unescaped
from gradviz.messages import Message
from gradviz.settings import Limits
from gradviz.words import speaking


def values(name):
    """Every allowed value of a setting, as hypothesis draws it."""
    spec = FIELDS[name].spec
    if spec.choices:
        return st.sampled_from(sorted(spec.choices))
    if spec.kind is bool:
        return st.booleans()
    if spec.kind is int:
        return st.integers(spec.low, spec.high)
    numbers = st.floats(spec.low, spec.high)
    return st.none() | numbers if spec.optional else numbers


def changed(config):
    """The config, and in runs of two steps or more some turns of its knobs."""
    steps = st.integers(1, max(1, config.steps - 1))
    change = st.sampled_from(KNOBS).flatmap(lambda name: st.tuples(steps, st.just(name), values(name)))
    several = st.lists(change, max_size=4 if config.steps > 1 else 0, unique_by=lambda each: each[:2])
    return several.map(lambda changes: replace(config, changes=changes))


configs = st.builds(RunConfig, **{name: values(name) for name in FIELDS if name != "changes"}).flatmap(changed)
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@given(configs)
def test_a_config_comes_back_from_its_url_exactly(config):
    assert RunConfig.from_query(config.to_query()) == (config, [])


@given(configs)
def test_a_config_comes_back_from_json_exactly(config):
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(configs, configs)
def test_two_configs_have_one_id_exactly_if_they_are_equal(one, other):
    assert (one.id == other.id) == (one == other)
    assert one.id == RunConfig.from_dict(one.to_dict()).id


def test_the_id_of_the_default_run_is_the_same_on_every_machine_and_forever():
    # A stored run is found by it: if this fails, a change has cut every older run off.
    assert RunConfig(blocks=3, lr=0.1).id == "5bfab392b7d7"


def test_the_url_of_the_default_run_is_empty_and_a_url_names_only_what_differs():
    assert RunConfig().to_query() == {}
    assert RunConfig(shortcut=True, lr=0.01, seed=2_000_000).to_query() == {"shortcut": "on", "lr": "0.01", "seed": "2000000"}


@given(st.dictionaries(st.sampled_from(list(FIELDS)) | st.text(), st.text()))
def test_no_url_breaks_the_page_and_every_refused_parameter_is_named(query):
    config, problems = RunConfig.from_query(query)
    assert isinstance(config, RunConfig)
    refused = [name for name in FIELDS if name in query and not _accepts(name, query[name])]
    doubtful = misspelt(query)  # hypothesis knows words such as TRAINS
    assert problems[len(refused) :] == doubtful and len(problems) == len(refused) + len(doubtful)
    assert all(f"({name})" in str(problem) for name, problem in zip(refused, problems, strict=False))


@given(st.dictionaries(st.sampled_from(list(FIELDS)) | st.text(), anything))
def test_anything_from_outside_gives_a_config_or_one_clear_refusal(settings):
    try:
        config = RunConfig.from_dict(settings)
    except ConfigError as error:
        assert "\n" not in str(error) or "\n" in repr(error.field)
    else:
        json.dumps(config.to_dict(), allow_nan=False)


def _accepts(name, value):
    try:
        RunConfig(**{name: value})
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("name", FIELDS)
def test_a_bad_value_is_refused_by_field_and_range(name):
    spec = FIELDS[name].spec
    bad = ["nonsense", math.nan, math.inf, -math.inf, [], b"1", "1e999", "--", "None"]
    if spec.low is not None:
        bad += [spec.low - max(1, abs(spec.low)), spec.high * 2, str(spec.high * 2), True]
    if spec.kind is int:
        bad += [1.5, "1.5", "1e1"]
    if not spec.optional:
        bad += [None, ""]
    if spec.kind is tuple:
        bad.remove([])
    for value in bad:
        with pytest.raises(ConfigError) as refusal:
            RunConfig(**{name: value})
        assert refusal.value.field == name
        assert f"({name})" in str(refusal.value) and spec.range_text in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name].spec.low is not None])
def test_the_ends_of_a_range_are_allowed_and_spelled_out(name):
    spec = FIELDS[name].spec
    for end in (spec.low, spec.high):
        assert getattr(RunConfig(**{"treatment": "floor", name: end}), name) == end
    numbers = [float(word) for word in spec.range_text.removesuffix(", or default").split() if word[0].isdigit()]
    assert numbers == [spec.low, spec.high]


def test_without_changes_every_id_and_link_is_what_it_was():
    assert RunConfig(changes=[]).id == RunConfig().id and "changes" not in RunConfig(blocks=3).to_query()


@given(configs, st.integers(0, 400))
def test_what_is_in_force_at_a_step_is_what_was_said_last(config, step):
    expected = {name: getattr(config, name) for name in KNOBS}
    for change in sorted(config.changes):
        expected |= {change.field: change.value} if change.step <= step else {}
    assert vars(config.knobs(step)) == expected


def test_changes_travel_as_a_word_and_stand_in_the_order_of_their_steps():
    config = RunConfig(lr=0.01, changes="200:optimizer=sgd,120:lr=3e-4,200:lr=1")
    assert config.changes == (Change(120, "lr", 3e-4), Change(200, "optimizer", "sgd"), Change(200, "lr", 1.0))
    assert config.to_query()["changes"] == "120:lr=0.0003,200:optimizer=sgd,200:lr=1"
    assert "3 changes" in config.title


@pytest.mark.parametrize(
    "changes, said",
    [
        ("120:lr=0.001", ""), ("120:threshold=5", ""), ("120:lr=0.1,130:lr=0.1", "120:lr=0.1"),
        ("100:threshold=5,120:treatment=floor", "120:treatment=floor,120:threshold=5"),
        ("100:treatment=floor,110:treatment=none,120:threshold=5", "100:treatment=floor,110:treatment=none"),
    ],
)  # fmt: skip
def test_a_change_that_changes_nothing_makes_no_second_run(changes, said):
    assert RunConfig(changes=changes).id == RunConfig(changes=said or ()).id
    assert RunConfig(changes=changes).to_query().get("changes", "") == said


@pytest.mark.parametrize(
    "changes, settings, words",
    [
        ("300:lr=1", {}, "300 steps a change must be at a step from 1 to 299; 300 is none"),
        ("0:lr=1", {}, "from 1 to 299; 0 is none"),
        ("1:lr=1", {"steps": 1}, "in a run of one step nothing can change"),
        ("9:lr=1,9:lr=2", {}, "at step 9, Learning rate (lr) changes twice"),
        ("9:blocks=3", {}, "'blocks' cannot change during a run; treatment, threshold, optimizer, lr can"),
        ("9:lr=100", {}, "at step 9: Learning rate (lr) must be a number from 1e-07 to 10; '100' is not"),
        ("9:treatment=cut", {}, "Gradient treatment (treatment) must be one of none, clip-norm"),
        ([[9, "lr", 1], 3], {}, "STEP:SETTING=VALUE"),
        ([[9, "lr", 1]] * (MOST_CHANGES + 1), {}, f"at most {MOST_CHANGES}"),
    ],
)  # fmt: skip
def test_a_bad_change_is_refused_by_field_step_and_range(changes, settings, words):
    with pytest.raises(ConfigError) as refusal:
        RunConfig(changes=changes, **settings)
    assert refusal.value.field == "changes" and str(refusal.value).startswith("Changes while it trains (changes)")
    assert words in str(refusal.value)


def test_a_link_whose_change_comes_after_the_last_step_gives_the_rest_of_its_settings():
    config, (problem,) = RunConfig.from_query({"changes": "120:lr=0.1", "steps": "100", "blocks": "3"})
    assert config == RunConfig(steps=100, blocks=3)
    assert "from 1 to 99; 120 is none of them. The default is used." in str(problem)


def test_turning_a_knob_at_a_step_replaces_what_was_to_change_there():
    config = RunConfig(changes="120:lr=0.1,120:optimizer=sgd").turned(120, lr=0.01)
    assert config == RunConfig(changes="120:lr=0.01,120:optimizer=sgd") and config.turned(120, lr=0.001).changes == (
        Change(120, "optimizer", "sgd"),)  # fmt: skip


def test_numbers_may_come_as_words_and_take_the_type_of_the_setting():
    config = RunConfig(blocks="6", lr="1e-2", batch_norm="on", shortcut="true", init_range="default", steps=5.0)
    assert (config.blocks, config.lr, config.batch_norm, config.shortcut, config.init_range) == (6, 0.01, True, True, None)
    assert isinstance(config.steps, int)


def test_without_a_treatment_the_threshold_makes_no_second_run():
    assert RunConfig(threshold=5).id == RunConfig().id
    assert RunConfig(treatment="floor", threshold=5).id != RunConfig(treatment="floor").id


def test_a_threshold_waits_in_the_url_for_its_treatment_in_any_order():
    config, _ = RunConfig.from_query({"threshold": "5", "treatment": "clip-norm"})
    assert config.threshold == 5


@given(st.integers(0, 1000))
def test_a_net_of_n_blocks_has_five_plus_two_n_named_layers(blocks):
    config = RunConfig(blocks=blocks)
    assert len(config.layout.names) == len(set(config.layout.names)) == config.layers == 5 + 2 * blocks
    assert config.layout.names[:2] == ("conv1", "conv2") and config.layout.names[-3:] == ("fc1", "fc2", "fc3")


def test_layers_are_named_in_forward_order():
    assert RunConfig(blocks=1).layout.names == ("conv1", "conv2", "block0.conv1", "block0.conv2", "fc1", "fc2", "fc3")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_data_device_and_seed_and_resets_the_rest(name):
    reader = RunConfig(dataset="digits", device="cpu", seed=7, blocks=3, lr=0.5, shortcut=True)
    config = PRESETS[name].apply(reader)
    assert (config.dataset, config.device, config.seed) == ("digits", "cpu", 7)
    assert replace(config, dataset="mnist", device="auto", seed=0) == RunConfig(**PRESETS[name].changes)


def test_an_unknown_setting_is_named_with_those_that_exist():
    with pytest.raises(ConfigError, match="'depth' is not a setting; the settings are activation, .*, device"):
        RunConfig.from_dict({"depth": 3})


def test_a_link_copied_out_of_html_gives_its_settings():
    meant = {"blocks": "3", "lr": "0.1", "shortcut": "on"}
    once = {"blocks": "3", "amp;lr": "0.1", "amp;shortcut": "on"}
    twice = {"blocks": "3", "amp;amp;lr": "0.1", "amp;amp;shortcut": "on"}
    assert RunConfig.from_query(once) == RunConfig.from_query(twice) == RunConfig.from_query(meant)
    assert RunConfig.from_query(meant) == (RunConfig(blocks=3, lr=0.1, shortcut=True), [])
    assert unescaped({"run": "a", "amp;run": "b", "amp;step": "7"}) == {"run": ["a", "b"], "step": "7"}


@pytest.mark.parametrize(
    "given, meant",
    [
        ("batchnorm", "batch_norm"), ("batch-norm", "batch_norm"), ("Batch Norm", "batch_norm"), ("Blocks", "blocks"),
        ("block", "blocks"), ("nblocks", "blocks"), ("learning_rate", "lr"), ("LR", "lr"), ("optimiser", "optimizer"),
        ("initRange", "init_range"), ("initialization", "init"), ("activaton", "activation"), ("step_s", "steps"),
        ("batch", "batch_size"), ("data_set", "dataset"), ("epochs", "steps"), ("depth", "blocks"), ("seeed", "seed"),
        ("amp;batchnorm", "batch_norm"), ("treshold", "threshold"), ("device_", "device"), ("short-cut", "shortcut"),
    ],
)  # fmt: skip
def test_a_name_that_looks_like_a_setting_is_left_out_and_the_right_one_named(given, meant):
    config, (problem,) = RunConfig.from_query({given: "on", "seed": "3"})
    assert config == RunConfig(seed=3)
    assert repr(given.removeprefix("amp;")) in str(problem) and meant in str(problem).split("did you mean ")[1]


@pytest.mark.parametrize(
    "name",
    ["utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "UTM_ID", "fbclid", "gclid", "msclkid", "mc_cid",
     "_ga", "ref", "source", "embed", "embed_options", "run", "runs", "step", "layer", "view", "lesson", "sweep", "wall", "lang",
     "v", ""],
)  # fmt: skip
def test_what_others_append_to_a_link_is_nobodys_business(name):
    assert RunConfig.from_query({name: "anything"}) == (RunConfig(), [])


def test_a_setting_given_twice_is_said_and_the_last_one_counts():
    config, (problem,) = RunConfig.from_query({"blocks": ["3", "5"], "seed": ["1", "1"], "amp;lr": ["0.1"]})
    assert config == RunConfig(blocks=5, seed=1, lr=0.1)
    assert "(blocks)" in str(problem) and "3, 5" in str(problem)
    config, (more, refused) = RunConfig.from_query({"blocks": ["3", "many"]})
    assert config == RunConfig() and "more than once" in str(more) and "default is used" in str(refused)
    assert RunConfig.from_query({"blocks": []}) == (RunConfig(), [])


def test_a_server_without_limits_of_its_own_takes_all_that_a_setting_may_be():
    for name, limit in (("blocks", Limits().blocks), ("steps", Limits().steps), ("batch_size", Limits().batch)):
        assert RunConfig(**{name: limit}) and FIELDS[name].spec.high == limit


def test_a_refusal_says_the_same_in_another_process():
    with pytest.raises(ConfigError) as refusal:
        RunConfig(blocks=1001)
    again = pickle.loads(pickle.dumps(refusal.value))
    assert (again.field, again.message, str(again)) == ("blocks", refusal.value.message, str(refusal.value))
    assert str(Message.from_json(json.loads(json.dumps(refusal.value.message.to_json())))) == str(refusal.value)


def test_the_words_of_a_title_are_translated_and_the_words_of_its_menus_are_not():
    with speaking("zh_CN"):
        assert RunConfig(blocks=1, batch_norm=True).title == "1 个块 · sigmoid · 批量归一化 · adam 0.001 · mnist"
        everything = RunConfig(other_norm="group", shortcut=True, branch_scale="fixed")
        assert everything.title == "12 个块 · sigmoid · group 归一化 · 捷径连接 · fixed 分支 · adam 0.001 · mnist"


def test_a_title_says_what_it_always_said():
    assert RunConfig(blocks=0).title == "0 blocks · sigmoid · adam 0.001 · mnist"
    assert RunConfig(blocks=1, batch_norm=True).title == "1 block · sigmoid · batch norm · adam 0.001 · mnist"
    remedies = {"other_norm": "layer", "shortcut": True, "branch_scale": "skip-init", "init": "lsuv", "treatment": "floor"}
    everything = RunConfig(**remedies, threshold=1e-8)
    assert everything.title == (
        "12 blocks · sigmoid · layer norm · shortcut · skip-init branch · lsuv · floor 1e-08 · adam 0.001 · mnist")  # fmt: skip
