"""Chunks of a sweep: run one after the other they leave what the sweep leaves; how large they are; what is kept of them."""

import pytest
import torch

from clfunc import finetuning, mlp, run, scenarios, sgd, sweep, tree
from clfunc.engine.programs import programs
from clfunc.engine.sweep import part
from clfunc.experiments import chunks
from clfunc.experiments import device_memory as memory
from clfunc.experiments.chunks import Plan, cut, plan, run_chunks
from clfunc.experiments.sizing import Need, measure
from clfunc.random import key, split
from clfunc.results import merge
from clfunc.testing import toy_stream
from clfunc.testing.play import toy_data

QUIET = {"engine": "eager", "progress": False, "batch_size": 8}
KEYS = split(key(1), 7)


def build(scenario, lr=0.1):
    return finetuning(
        mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64), sgd(lr, 0.9)
    )


def probed(algorithm):
    def probe(params, state, batch):
        weight = params["hidden1"]["weight"]
        return {"mean": weight.mean(), "units": weight.mean(1), "picture": weight * 1.0}

    return algorithm._replace(probe=probe)


def job(shared=False):
    """Seven runs, each with its own learning rate and, unless shared, its own tasks."""
    scenario = scenarios.permuted(toy_data(), 2, key(2) if shared else split(key(2), 7), valid=0.25)
    return sweep([probed(build(scenario, 0.02 * (i + 1))) for i in range(7)]), scenario


def tensors(result):
    kept = ("accuracy", "training", "validation", "probes", "pictures", "params", "state")
    return {name: getattr(result, name) for name in kept}


def same(a, b):
    return all(
        torch.equal(x.nan_to_num(), y.nan_to_num())
        for x, y in zip(*map(tree.leaves, (a, b)), strict=True)
    )


@pytest.mark.parametrize("shared", [True, False], ids=["shared tasks", "tasks of its own"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_chunks_of_a_sweep_leave_what_the_sweep_leaves(size, shared):
    algorithm, scenario = job(shared)
    whole = run(algorithm, scenario, KEYS, epochs=2, probe_every=5, **QUIET)
    merged = run_chunks(
        algorithm, scenario, KEYS, runs_at_once=size, epochs=2, probe_every=5, **QUIET
    )
    assert tree.structure(tensors(merged)) == tree.structure(tensors(whole))
    torch.testing.assert_close(tensors(merged), tensors(whole), rtol=0, atol=1e-10, equal_nan=True)
    assert merged.config == whole.config | (
        {"chunks": [len(runs) for runs in cut(7, size)]} if size < 7 else {}
    )
    assert merged.coordinates == whole.coordinates and merged.steps == whole.steps


@pytest.mark.parametrize("rates", [(1e300, 0.1, 1e300), (0.1, 1e300, 0.1), (1e300, 1e301, 1e302)])
def test_a_chunk_whose_runs_all_diverge_ends_early_and_is_padded_with_nan(rates):
    scenario = scenarios.permuted(toy_data(), 2, key(2), valid=0.25)
    algorithm = sweep([probed(build(scenario, lr)) for lr in rates])
    whole = run(algorithm, scenario, KEYS[:3], epochs=2, **QUIET)
    merged = run_chunks(algorithm, scenario, KEYS[:3], runs_at_once=1, epochs=2, **QUIET)
    assert merged.steps == whole.steps and torch.equal(merged.diverged, whole.diverged)
    for name in ("accuracy", "training", "validation", "params", "state"):
        torch.testing.assert_close(
            getattr(merged, name),
            getattr(whole, name),
            rtol=0,
            atol=1e-10,
            equal_nan=True,
            check_dtype=False,
        )
    assert torch.equal(merged.probes.step, whole.probes.step)


def test_an_algorithm_by_itself_is_cut_along_its_keys():
    scenario = toy_stream()
    whole, merged = (
        f(build(scenario), scenario, KEYS, **QUIET)
        for f in (run, lambda *a, **k: run_chunks(*a, runs_at_once=4, **k))
    )
    torch.testing.assert_close(merged.params, whole.params, rtol=0, atol=1e-10)
    assert merged.config["settings"] == whole.config["settings"] and merged.coordinates == {}


def test_a_part_of_a_sweep_is_the_sweep_of_those_members_and_shares_its_functions():
    algorithm, scenario = job()
    some = part(algorithm, [4, 1])
    assert some.step is algorithm.step and some.settings["members"] == [
        algorithm.settings["members"][i] for i in (4, 1)
    ]
    expected = tree.index(algorithm.init(KEYS), torch.tensor([4, 1]))
    assert same(some.init(KEYS[[4, 1]]), expected)
    assert same(scenario.part([4, 1]).train(1), tree.index(scenario.train(1), torch.tensor([4, 1])))
    assert scenario.part([4, 1]).runs == 2 and job(shared=True)[1].part([4, 1]).runs is None
    with pytest.raises(ValueError, match="replace the members' own"):
        part(algorithm._replace(init=lambda keys: ((), ())), [0])


@pytest.mark.parametrize("runs", [1, 2, 7, 12, 100])
@pytest.mark.parametrize("at_once", [1, 3, 5, 8, 200])
def test_chunks_are_as_few_as_fit_in_order_and_of_one_size_but_the_last(runs, at_once):
    chunks = cut(runs, at_once)
    assert [run for chunk in chunks for run in chunk] == list(range(runs))
    sizes = [len(chunk) for chunk in chunks]
    assert len(chunks) == -(-runs // at_once) and max(sizes) <= at_once
    assert len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]


def test_the_size_of_a_chunk_is_what_fits_in_half_of_memory(monkeypatch):
    algorithm, scenario = job()
    training, testing = measure(algorithm, scenario, KEYS, 8)
    assert Need(100, 10).fit(2 * 145) == 4 and Need(100, 10).fit(0) == 1
    room = 2 * max(need.fixed + 3 * need.each for need in (training, testing))
    monkeypatch.setattr(memory, "available", lambda device: room)
    found = plan(algorithm, scenario, KEYS, "auto", 8)
    assert [len(chunk) for chunk in found.chunks] == [3, 3, 1]
    assert "7 runs, 3 at a time, the last of 1" in found.why and "that cpu has free" in found.why
    monkeypatch.setattr(memory, "available", lambda device: 1000 * room)
    assert plan(algorithm, scenario, KEYS, "auto", 8).chunks == [range(7)]
    assert [len(c) for c in plan(algorithm, scenario, KEYS, "auto", 8, devices=2).chunks] == [4, 3]


@pytest.mark.parametrize(
    ("how", "told"), [({}, False), ({"runs_at_once": 2}, True), ({"runs_at_once": 1}, True)]
)
def test_how_a_sweep_is_cut_is_told_where_it_is_cut_or_was_asked_to_be(how, told, capfd):
    scenario = toy_stream()
    quiet = QUIET | {"progress": True} | how
    run_chunks(sweep([build(scenario)] * 2), scenario, KEYS[:2], evaluate="none", **quiet)
    assert ("chunks:" in capfd.readouterr().err) == told


def test_what_is_counted_is_what_lives_at_one_time():
    x = torch.zeros(1000)  # 4000 bytes each

    def f():
        a = x + 1
        b = a.view(10, 100) * 2
        del a
        return (b + 1).sum()

    assert memory.peak(f, x.device) == 8004  # b, b + 1 and its sum
    assert memory.peak(lambda: x.add_(1).view(10, 100), x.device) == 0
    assert 2**20 < memory.available(x.device) < 2**50


def test_a_run_takes_what_its_network_and_its_batches_take():
    _, scenario = job()
    wide = finetuning(mlp(scenario.inputs, (300, 300), scenario.head()), sgd(0.1))
    params = sum(leaf.nbytes for leaf in tree.leaves(wide.init(key(0))[0]))
    need, larger = (measure(wide, scenario, KEYS, size)[0] for size in (8, 808))
    assert 2 * params < need.each < 6 * params  # as it was, as it becomes, and its gradient
    assert larger.each - need.each > 800 * 2 * 300 * 4  # the units' values


def test_a_packed_result_is_the_same_result():
    algorithm, scenario = job()
    result = run(algorithm, scenario, KEYS, probe_every=3, **QUIET)
    data = merge.pack(result, "mine")
    back = merge.unpack(data, algorithm)
    assert merge.mark_of(data) == "mine" and tree.structure(tensors(back)) == tree.structure(
        tensors(result)
    )
    assert same(tensors(back), tensors(result))
    for name in ("config", "coordinates", "steps", "train_seconds", "wall_seconds", "engine"):
        assert getattr(back, name) == getattr(result, name)


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:100], lambda d: d[:-1], lambda d: b"", lambda d: b"\xff" * 50 + d]
)
def test_bytes_that_are_not_a_whole_result_are_refused(spoil):
    algorithm, scenario = job()
    data = spoil(merge.pack(run(algorithm, scenario, KEYS, **QUIET), "mine"))
    with pytest.raises(ValueError):
        merge.unpack(data, algorithm)


def test_chunks_that_are_done_are_not_run_again(tmp_path, monkeypatch):
    algorithm, scenario = job()
    ran, real = [], chunks.run
    options = {"runs_at_once": 3, "out": tmp_path} | QUIET

    def watched(*args, **how):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(args[2])
        return real(*args, **how)

    monkeypatch.setattr(chunks, "run", watched)
    with pytest.raises(KeyboardInterrupt):
        run_chunks(algorithm, scenario, KEYS, **options)
    kept = sorted(path.name for path in (tmp_path / "chunks").iterdir())
    assert (
        kept == ["0-2.safetensors", "3-5.safetensors", "plan.json"]
        and not (tmp_path / "results.nc").exists()
    )

    monkeypatch.setattr(
        chunks, "run", lambda *args, **how: ran.append(args[2]) or real(*args, **how)
    )
    resumed = run_chunks(algorithm, scenario, KEYS, **options)
    assert [len(keys) for keys in ran] == [3, 3, 1] and not (tmp_path / "chunks").exists()
    assert same(
        tensors(resumed), tensors(run_chunks(algorithm, scenario, KEYS, runs_at_once=3, **QUIET))
    )
    assert (tmp_path / "results.nc").exists() and (tmp_path / "figures").is_dir()


def test_chunks_of_another_sweep_or_spoilt_ones_are_run_again(tmp_path):
    algorithm, scenario = job()
    shelf = chunks.Shelf(tmp_path, algorithm, chunks.mark(algorithm, scenario, KEYS, QUIET, None))
    result = run(part(algorithm, range(3)), scenario.part(range(3)), KEYS[:3], **QUIET)
    shelf.keep(range(3), merge.pack(result, shelf.name(range(3))), Plan(cut(7, 3), "", "eager"))
    assert same(tensors(shelf.find(range(3))), tensors(result)) and shelf.find(range(2)) is None
    others = {
        chunks.mark(*args)
        for args in (
            (algorithm, scenario, KEYS, QUIET, None),
            (algorithm, scenario, KEYS + 1, QUIET, None),
            (algorithm, toy_stream(split(key(3), 7), 2), KEYS, QUIET, None),
            (
                algorithm,
                scenario._replace(data=scenario.data._replace(x=scenario.data.x + 1)),
                KEYS,
                QUIET,
                None,
            ),
            (sweep([build(scenario)] * 7), scenario, KEYS, QUIET, None),
            (algorithm, scenario, KEYS, QUIET | {"batch_size": 9}, None),
            (algorithm, scenario, KEYS, QUIET, {"arguments": {"seed": 3}}),
        )
    }
    assert len(others) == 7
    assert chunks.Shelf(tmp_path, algorithm, "another").find(range(3)) is None
    assert (
        shelf.plan(7, 3).chunks == shelf.plan(7, "auto").chunks == cut(7, 3)
        and shelf.plan(7, 4) is None
    )
    path = tmp_path / "chunks" / "0-2.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert shelf.find(range(3)) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"runs_at_once": 0}, "runs_at_once must be auto or a number from 1, given 0"),
        ({"runs_at_once": "many"}, "runs_at_once must be auto or a number from 1, given 'many'"),
        ({"key": key(1)}, "only a sweep can be cut|a sweep of 7 needs a key"),
        ({"key": KEYS[:5]}, "a sweep of 7 needs a key"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(change, message):
    algorithm, scenario = job()
    arguments = {"algorithm": algorithm, "scenario": scenario, "key": KEYS} | QUIET | change
    with pytest.raises(ValueError, match=message) as error:
        run_chunks(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.compiled
def test_chunks_of_one_size_share_one_program_and_leave_what_the_sweep_leaves():
    algorithm, scenario = job()
    plain = QUIET | {"batch_size": 4}  # twelve steps: enough for a program of eight
    eager = run_chunks(algorithm, scenario, KEYS, runs_at_once=2, **plain)
    before = programs.made["compile"]
    compiled = run_chunks(
        part(algorithm, range(6)),
        scenario.part(range(6)),
        KEYS[:6],
        runs_at_once=2,
        **(plain | {"engine": "compile"}),
    )
    assert programs.made["compile"] == before + 1
    kept = torch.arange(6)
    torch.testing.assert_close(compiled.params, tree.index(eager.params, kept), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        compiled.accuracy, eager.accuracy[..., kept], rtol=0, atol=1e-9, equal_nan=True
    )
