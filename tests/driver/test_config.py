"""What decides a run is in its saved config, by value: a checkpoint of another loss, mask or task
is refused."""

import json

import pytest
import torch

import clfunc as cl
from clfunc import tree
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.checkpoint import Refused
from clfunc.driver.config import data_digest, saved_settings
from clfunc.testing import toy_stream

QUIET = {"engine": "eager", "progress": False, "batch_size": 16}


pytestmark = pytest.mark.usefixtures("no_figures")


def small_loss(logits, batch):
    return 0.5 * logits.square().mean()


def large_loss(logits, batch):
    return 2.0 * logits.square().mean()


def scaled_loss(scale):
    def loss(logits, batch):
        return scale * logits.square().mean()

    return loss


def build(scenario, loss=None, tx=None):
    model = cl.mlp(scenario.inputs, (4,), scenario.head())
    return cl.finetuning(model, tx or cl.sgd(0.1), loss=loss)


def masked(scenario, trains):
    return build(scenario, tx=cl.chain(cl.sgd(0.1), cl.mask_updates({"hidden1": trains})))


def named_loss(scale):
    return cl.named(f"squares times {scale}", scaled_loss(scale))


def refused_on_resume(begun, resumed, out, scenario):
    """The line with which a finished run's folder is refused to another algorithm."""
    cl.run(begun, scenario, cl.random.key(1), out=out, **QUIET)
    cl.run(begun, scenario, cl.random.key(1), out=out, resume=True, **QUIET)
    with pytest.raises(Refused, match="another run's") as error:
        cl.run(resumed, scenario, cl.random.key(1), out=out, resume=True, **QUIET)
    return str(error.value)


def test_a_checkpoint_of_another_loss_is_refused(tmp_path):
    scenario = toy_stream(num_tasks=1)
    begun, resumed = build(scenario, small_loss), build(scenario, large_loss)
    line = refused_on_resume(begun, resumed, tmp_path, scenario)
    assert "settings.loss (" in line and "small_loss" in line and "large_loss" in line


def test_a_checkpoint_of_another_named_function_is_refused(tmp_path):
    scenario = toy_stream(num_tasks=1)
    begun, resumed = build(scenario, named_loss(1)), build(scenario, named_loss(2))
    line = refused_on_resume(begun, resumed, tmp_path, scenario)
    assert "squares times 1 there" in line and "squares times 2 here" in line


def test_a_checkpoint_of_another_mask_is_refused(tmp_path):
    scenario = toy_stream(num_tasks=1)
    begun, resumed = masked(scenario, True), masked(scenario, False)
    assert "settings.tx" in refused_on_resume(begun, resumed, tmp_path, scenario)


def test_a_function_that_a_file_cannot_tell_from_another_is_refused_before_a_file_is_written(
    tmp_path,
):
    scenario, out = toy_stream(num_tasks=1), tmp_path / "out"
    algorithm = build(scenario, scaled_loss(3.0))
    with pytest.raises(ValueError, match=r"the setting loss: .*cl\.named\(") as error:
        cl.run(algorithm, scenario, cl.random.key(1), out=out, **QUIET)
    assert "\n" not in str(error.value) and not out.exists()
    result = cl.run(algorithm, scenario, cl.random.key(1), **QUIET)
    assert "scaled_loss" in result.config["settings"]["loss"]


def test_the_line_says_which_setting_cannot_be_saved():
    settings = {"inner": {"parts": [{"f": torch.relu}, {"f": scaled_loss(1.0)}]}}
    with pytest.raises(ValueError, match=r"cannot save the setting inner\.parts\.1\.f: "):
        saved_settings(settings, must_tell_apart=True)
    saved = saved_settings(settings, must_tell_apart=False)
    assert "relu" in saved["inner"]["parts"][0]["f"]
    assert "scaled_loss" in saved["inner"]["parts"][1]["f"]


@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize("runs", [None, 2])
def test_the_digest_of_the_data_sees_every_task(task, runs):
    """The task is normalised otherwise, or has one example less."""
    key = cl.random.key(0) if runs is None else cl.random.split(cl.random.key(0), runs)
    scenario = toy_stream(key, num_tasks=3)

    def with_other(change):
        def train(phase):
            stream = scenario.train(phase)
            return change(stream) if phase == task else stream

        return data_digest(scenario._replace(train=train))

    def other_view(stream):
        return stream._replace(view=tree.map(lambda leaf: leaf + 1, stream.view))

    def other_size(stream):
        return stream._replace(sizes=stream.sizes - 1)

    digests = {data_digest(scenario), with_other(other_view), with_other(other_size)}
    assert len(digests) == 3
    assert data_digest(scenario) == data_digest(scenario)


def test_a_config_holds_only_what_json_can(tmp_path):
    scenario = toy_stream(num_tasks=1)
    result = cl.run(build(scenario, small_loss), scenario, cl.random.key(1), out=tmp_path, **QUIET)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved == json.loads(json.dumps(result.config))
    assert saved["settings"]["loss"].startswith(f"{__name__}.small_loss ")


def test_an_algorithm_is_read_into_one_record():
    scenario = toy_stream()
    model = cl.mlp(scenario.inputs, (4,), scenario.head())
    forget_set = cl.ForgetSet(task=1, rows=(3,))
    inner = cl.hat(model, cl.sgd(0.1), num_tasks=3)
    algorithm = cl.amnesiac(inner, num_tasks=3, forget_sets=[forget_set])
    for given, members in ((algorithm, None), (cl.sweep([algorithm] * 2), 2)):
        record = read_algorithm(given)
        assert record.name == "amnesiac" and record.members == members
        assert record.num_tasks == 3 and record.can_unlearn
        assert record.head.name == "til" and len(record.head.classes) == 3
        assert record.forget_sets == (forget_set.settings(),)
    record = read_algorithm(build(scenario))
    assert record.num_tasks is None and not record.can_unlearn and record.forget_sets == ()
