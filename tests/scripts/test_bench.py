"""The programs that `scripts/bench.py` compares compute the same thing."""

import pytest
from benchmarks import cases, contender, limits, measure, plain


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(cases, "IMAGES", 512)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(
    "name", [name for name in cases.CASES if name not in ("convnet", *cases.OPENED)]
)
def test_a_plain_loop_arrives_where_clfunc_does(name, runs):
    job = cases.job(cases.CASES[name], runs, "cpu")
    eager, _ = contender.own(job, "eager")
    measure.check(job, [eager, plain.plain(job)])


def test_a_loop_of_another_learning_rate_is_found_out():
    job = cases.job(cases.CASES["tiny"], 2, "cpu")
    eager, _ = contender.own(job, "eager")
    other = job._replace(case=job.case._replace(lr=1.02 * job.case.lr))
    with pytest.raises(SystemExit, match="differs from eager"):
        measure.check(job, [eager, plain.plain(other)])


def test_a_checked_step_of_continual_backprop_resets_units():
    job = cases.job(cases.CASES["cbp"], 2, "cpu")
    eager, _ = contender.own(job, "eager")
    state = eager.advance(measure.start(eager, job, True), cases.entries(job, measure.CHECKED, 0))[
        1
    ]
    assert all((units.replaced > 0).all() for units in state.opt.units.values())


def test_the_limit_multiplies_as_often_as_a_step_does():
    job = cases.job(cases.CASES["convnet"], 2, "cpu")
    rows = 64 * 28 * 28, 64 * 14 * 14, 64, 64
    assert limits._sizes(job) == list(
        zip(rows, (9, 288, 3136, 128), (32, 64, 128, 10), strict=True)
    )


def test_contenders_take_turns_on_the_same_number_of_steps():
    job = cases.job(cases.CASES["tiny"], 2, "cpu")
    seen = []

    def advance(carry, entries):
        seen.append((carry, len(entries)))
        return carry

    both = [
        contender.Contender(name, 2, lambda *_, name=name: name, advance, lambda _: {}, share)
        for name, share in (("a", 1), ("b", 4))
    ]
    times = measure.alternate(job, both, repeat=2, steps=8)
    assert seen == [("a", 8), ("b", 2), ("a", 8), ("b", 2), ("b", 2), ("a", 8)]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


def test_the_spread_is_half_the_range_between_the_quartiles_over_the_median():
    assert measure.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, pytest.approx(1 / 3))
    assert measure.summary([2.0]) == (2.0, 0.0)
