"""Configuration in and out: what a person may write, and what they are told when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dpdm.config import Config, dotted_keys, flatten, load_config, preset, to_yaml
from dpdm.errors import RequestError


def refusal(*overrides: str, source: str | Path = "mnist-eps10") -> str:
    """The one line that refuses a request."""
    with pytest.raises(RequestError) as caught:
        load_config(source, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, "utf-8")
        return path

    return to_file


# --- what can be written ---------------------------------------------------------------------


def test_an_empty_file_is_the_defaults(write) -> None:
    assert load_config(write("")) == Config()


def test_a_file_holds_only_what_differs(write) -> None:
    config = load_config(write("training: {steps: 7}\nprivacy:\n  epsilon: 2\n"))
    assert (config.training.steps, config.privacy.epsilon) == (7, 2.0)
    assert config.training.batch_size == Config().training.batch_size


def test_a_section_whose_keys_are_commented_out_is_the_defaults(write) -> None:
    path = write("name: mine\ntraining:\n#  steps: 7\n")
    assert load_config(path).training == Config().training
    assert load_config(path, ["training.steps=9"]).training.steps == 9


def test_anchors_and_merge_keys_of_yaml_work(write) -> None:
    path = write(
        "sampling:\n  alternatives:\n    a: &a {steps: 5, s_churn: 3}\n    b: {<<: *a, steps: 6}\n"
    )
    ours = load_config(path).sampling.alternatives
    assert (ours["b"].steps, ours["b"].s_churn) == (6, 3)


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("training.steps=7", "training.steps", 7),
        ("training.steps = 7", "training.steps", 7),
        ("privacy.epsilon=1", "privacy.epsilon", 1.0),
        ("privacy.delta=1e-6", "privacy.delta", 1e-6),
        ("privacy.enabled=false", "privacy.enabled", False),
        ("network.multipliers=[1, 2]", "network.multipliers", (1, 2)),
        ("network.attention=[]", "network.attention", ()),
        ("training.max_steps=null", "training.max_steps", None),
        ("training.max_steps=", "training.max_steps", None),
        ("data.spec=/tmp/a=b", "data.spec", "/tmp/a=b"),
        ("about='yes: a title'", "about", "yes: a title"),
        ("sampling={steps: 3}", "sampling.steps", 3),
    ],
)
def test_an_override_is_read_as_yaml(override: str, key: str, expected: Any) -> None:
    assert flatten(load_config("mnist-eps10", [override]))[key] == expected


def test_the_last_override_of_a_key_holds() -> None:
    assert load_config("digits", ["privacy.epsilon=1", "privacy.epsilon=2"]).privacy.epsilon == 2


def test_an_override_reaches_into_named_sampler_settings() -> None:
    config = load_config("mnist-eps10", ["sampling.alternatives.fid.steps=9"])
    assert config.sampling.alternatives["fid"].steps == 9
    assert config.sampling.alternatives["fid"].s_churn == 50


def test_a_changed_tree_written_out_and_read_again_is_the_same(write) -> None:
    config = load_config(
        "digits", ["privacy.delta=1e-7", "network.multipliers=[1]", "about='é: \"x\"'"]
    )
    assert load_config(write(to_yaml(config))) == config


def test_every_leaf_key_can_be_flattened_and_set() -> None:
    assert list(flatten(Config())) == dotted_keys()


# --- the Python way --------------------------------------------------------------------------


def test_a_preset_takes_the_last_part_of_a_key() -> None:
    assert preset("digits", epsilon=1).privacy.epsilon == 1.0


def test_a_preset_takes_a_full_key_with_two_underscores() -> None:
    assert preset("digits", training__max_steps=3).training.max_steps == 3


def test_a_preset_takes_values_as_they_are(write) -> None:
    long = "words " * 60
    config = preset("digits", about=long, multipliers=(1, 2), name="mine", max_steps=None)
    assert (config.about, config.network.multipliers) == (long, (1, 2))
    assert (config.name, config.training.max_steps) == ("mine", None)


@pytest.mark.parametrize("leaf", ["steps", "enabled", "batch_size", "learning_rate"])
def test_a_leaf_in_several_sections_is_refused_with_the_choices(leaf: str) -> None:
    with pytest.raises(RequestError, match=rf"several sections.*\w+__{leaf}, \w+__{leaf}"):
        preset("digits", **{leaf: 1})


def test_an_unknown_leaf_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"unknown key; did you mean privacy\.epsilon\?"):
        preset("digits", epsilom=1)


def test_a_section_is_not_a_leaf() -> None:
    with pytest.raises(RequestError, match="is a section; write training__"):
        preset("digits", training={"steps": 1})


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"no such preset; did you mean mnist-eps10\?"):
        preset("mnist-eps100")


def test_the_tree_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        preset("digits").training.steps = 1  # type: ignore[misc]


# --- what is refused, and how ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("training.stpes=1", "unknown key training.stpes; did you mean training.steps?"),
        ("trainin.steps=1", "unknown key trainin; did you mean training?"),
        ("epsilon=1", "unknown key epsilon; did you mean privacy.epsilon?"),
        ("training.learning-rat=1", "did you mean training.learning_rate?"),
        ("privcy={epsilon: 1}", "unknown key privcy; did you mean privacy?"),
        (
            "sampling.alternatives.fid.sampelr=ddim",
            "did you mean sampling.alternatives.fid.sampler?",
        ),
        ("qqqq=1", "unknown key qqqq; `dpdm presets digits` lists the keys"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(override: str, hint: str) -> None:
    assert hint in refusal(override)


def test_a_bare_leaf_of_several_sections_names_them_all() -> None:
    message = refusal("steps=1")
    for key in ("training.steps", "warmup.steps", "sampling.steps"):
        assert key in message


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("training.steps=many", 'training.steps="many"'),
        ("training.steps=1.5", "training.steps=1.5"),
        ("training.steps=-1", "training.steps=-1"),
        ("training.steps=[1]", "training.steps=[1]"),
        ("training.steps=", "training.steps=null"),
        ("training.steps.x=1", "training.steps is a value, not a section"),
        ("training=5", "training=5: a section belongs here"),
        ("training.batch_size=0", "training.batch_size=0"),
        ("privacy.epsilon=0", "privacy.epsilon=0"),
        ("privacy.epsilon=-1", "privacy.epsilon=-1"),
        ("privacy.epsilon=.inf", "privacy.epsilon=Infinity"),
        ("privacy.epsilon=.nan", "privacy.epsilon=NaN"),
        ("privacy.delta=0", "privacy.delta=0"),
        ("privacy.delta=1", "privacy.delta=1"),
        ("privacy.delta=.nan", "privacy.delta=NaN"),
        ("privacy.enabled=maybe", 'privacy.enabled="maybe"'),
        ("privacy.accountant=gdp", 'privacy.accountant="gdp"'),
        ("diffusion.config=ddpm", 'diffusion.config="ddpm"'),
        ("data.channels=5", "data.channels=5"),
        ("network.multipliers=3", "network.multipliers=3"),
        ("network.multipliers=[1, two]", 'network.multipliers.1="two"'),
        ("sampling.sampler=euler", 'sampling.sampler="euler"'),
        ("prior.share=1.5", "prior.share=1.5"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(override: str, names: str) -> None:
    assert names in refusal(override)


@pytest.mark.parametrize(
    "override",
    [
        "training.steps=true",
        "training.steps=yes",
        "training.max_steps=no",
        "privacy.epsilon=true",
        "privacy.noise_seed=false",
        "data.image_size=on",
        "network.multipliers=[1, true]",
        "network.dropout=false",
        "sampling.alternatives.fid.s_churn=true",
    ],
)
def test_true_and_false_are_not_numbers(override: str) -> None:
    message = refusal(override)
    assert override.partition("=")[0] in message
    assert "is true or false where a number belongs" in message


@pytest.mark.parametrize("override", ["data.on_error=no", "data.spec=yes", "name=on"])
def test_true_and_false_are_not_words(override: str) -> None:
    assert f"{override.partition('=')[0]}=" in refusal(override)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["diffusion.base=prior"], "diffusion.base=prior needs prior.enabled=true"),
        (["training.steps=0"], "training.steps=0 with prior.enabled=false releases nothing"),
        (["warmup.steps=5"], "warmup.steps needs prior.enabled=true"),
        (["privacy.max_images_per_unit=2"], "needs privacy.unit=group"),
        (
            ["privacy.unit=group", "privacy.max_images_per_unit=9", "views.count=8"],
            "max_images_per_unit=9 needs",
        ),
        (["sampling.sigma_min=90"], "sampling: sigma_min must be below sigma_max"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(overrides: list[str], names: str) -> None:
    assert names in refusal(*overrides)


def test_every_wrong_key_is_named_at_once() -> None:
    message = refusal("training.stpes=1", "privacy.epsilon=-1")
    assert "training.stpes" in message
    assert "privacy.epsilon=-1" in message


@pytest.mark.parametrize("override", ["training.steps", "=1", "", " = ", "training.=1", "..=1"])
def test_an_override_without_key_or_value_is_shown_how(override: str) -> None:
    assert "expected key=value, for example training.steps=100" in refusal(override)


@pytest.mark.parametrize("value", ["[1, 2", "{a: b: c}", "2001-99-99", "*nowhere", "'open"])
def test_an_override_that_is_not_yaml_is_refused(value: str) -> None:
    assert f"--set name={value}: not readable as YAML" in refusal(f"name={value}")


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal(f"training.steps=[{'1, ' * 1000}]")) < 200


def test_a_name_that_is_no_preset_names_the_nearest() -> None:
    assert "did you mean fashion-eps10?" in refusal(source="fashon-eps10")


def test_a_name_like_nothing_points_to_the_list() -> None:
    assert "`dpdm presets` lists them" in refusal(source="zzzz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing.yaml"
    assert (
        refusal(source=path) == f"{path}: cannot read the configuration (No such file or directory)"
    )


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "folder.yaml"
    path.mkdir()
    assert "Is a directory" in refusal(source=path)


def test_a_name_too_long_for_a_file_is_refused() -> None:
    assert "cannot read the configuration" in refusal(source="x" * 5000)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    assert "not a text file" in refusal(source=path)


def test_broken_yaml_names_file_line_and_fault(write) -> None:
    path = write("name: mine\ntraining:\n  steps: 3\n  batch_size: [1, 2\n")
    message = refusal(source=path)
    assert message.startswith(f"{path}: not readable as YAML (line 5: ")


def test_a_key_that_stands_twice_is_refused_with_its_line(write) -> None:
    path = write("privacy: {epsilon: 1}\ntraining: {steps: 3}\nprivacy: {delta: 0.001}\n")
    assert "line 3: the key privacy stands here a second time" in refusal(source=path)


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("3\n", "int"), ("a\n", "str")])
def test_a_file_must_be_a_mapping(write, text: str, kind: str) -> None:
    assert f"a configuration is a mapping of sections, not {kind}" in refusal(source=write(text))


def test_yaml_cannot_run_code(write, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = write(f"name: !!python/object/apply:os.mkdir ['{trace}']\n")
    assert "not readable as YAML" in refusal(source=path)
    assert not trace.exists()


# --- whatever is thrown at it ----------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3)
)


@given(key=st.sampled_from(dotted_keys()) | st.text(max_size=30), value=values)
def test_any_value_for_any_key_is_taken_or_refused_in_one_line(key: str, value: Any) -> None:
    load_or_refuse(f"{key}={yaml.safe_dump(value)}")


@given(st.text(max_size=40))
def test_any_text_as_an_override_is_taken_or_refused_in_one_line(override: str) -> None:
    load_or_refuse(override)


@given(st.text(max_size=60))
def test_any_text_as_a_value_is_taken_or_refused_in_one_line(text: str) -> None:
    load_or_refuse(f"about={text}")


def load_or_refuse(override: str) -> None:
    message = ""
    try:
        assert isinstance(load_config("mnist-eps10", [override]), Config)
    except RequestError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
