"""Chunks of a sweep: run one after the other they leave what the sweep leaves; how large they are;
what is kept of them.
"""

from functools import cache

import pytest
import torch

from clfunc import (
    ForgetSet,
    amnesiac,
    chain,
    finetuning,
    mask_updates,
    mlp,
    run,
    scenarios,
    sgd,
    sweep,
    tree,
)
from clfunc.driver.options import RunOptions
from clfunc.engine.programs import programs
from clfunc.engine.sweep import part
from clfunc.experiments import chunks
from clfunc.experiments import device_memory as memory
from clfunc.experiments.chunk_store import ChunkStore, sweep_digest
from clfunc.experiments.chunks import run_chunks
from clfunc.experiments.cutting import ChunkPlan, cut, plan_chunks
from clfunc.experiments.sizing import Need, measure
from clfunc.random import key, split
from clfunc.results import packing
from clfunc.testing import toy_stream
from clfunc.testing.play import toy_data

QUIET = {"engine": "eager", "progress": False, "batch_size": 8}
OPTIONS = RunOptions(**QUIET)
KEYS = split(key(1), 7)


def build(scenario, lr=0.1):
    return finetuning(
        mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64), sgd(lr, 0.9)
    )


def chained(scenario, mask):
    model = mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64)
    return finetuning(model, chain(sgd(0.1), mask_updates(mask)))


def probed(algorithm):
    def probe(params, state, batch):
        weight = params["hidden1"]["weight"]
        return {"mean": weight.mean(), "units": weight.mean(1), "picture": weight * 1.0}

    return algorithm._replace(probe=probe)


@cache
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


@cache
def swept(shared):
    algorithm, scenario = job(shared)
    return run(algorithm, scenario, KEYS, epochs=2, probe_every=5, **QUIET)


@cache
def small(tasks=2):
    """Seven runs without probes, and without examples held out."""
    scenario = scenarios.permuted(toy_data(), tasks, key(2))
    return sweep([build(scenario, 0.02 * (i + 1)) for i in range(7)]), scenario


@cache
def packed():
    """Two runs, and the bytes of their result."""
    algorithm, scenario = small()
    result = run(part(algorithm, range(2)), scenario, KEYS[:2], **QUIET)
    return packing.pack(result, "mine")


CUTS = [
    pytest.param(1, True, marks=pytest.mark.long),
    (1, False),
    (3, True),
    (3, False),
    (7, True),
    pytest.param(7, False, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("size", "shared"), CUTS)
def test_the_chunks_of_a_sweep_leave_what_the_sweep_leaves(size, shared):
    algorithm, scenario = job(shared)
    whole = swept(shared)
    merged = run_chunks(
        algorithm, scenario, KEYS, runs_at_once=size, epochs=2, probe_every=5, **QUIET
    )
    assert tree.structure(tensors(merged)) == tree.structure(tensors(whole))
    torch.testing.assert_close(tensors(merged), tensors(whole), rtol=0, atol=1e-10, equal_nan=True)
    assert merged.config == whole.config | (
        {"chunks": [len(runs) for runs in cut(7, size)]} if size < 7 else {}
    )
    assert merged.coordinates == whole.coordinates and merged.steps == whole.steps


RATES = [
    (1e300, 0.1, 1e300),
    pytest.param((0.1, 1e300, 0.1), marks=pytest.mark.long),
    (1e300, 1e301, 1e302),
]


@pytest.mark.parametrize("rates", RATES)
def test_a_chunk_whose_runs_all_diverge_ends_early_and_is_padded_with_nan(rates):
    scenario = scenarios.permuted(toy_data(), 2, key(2), valid=0.25)
    algorithm = sweep([probed(build(scenario, lr)) for lr in rates])
    whole = run(algorithm, scenario, KEYS[:3], epochs=2, **QUIET)
    merged = run_chunks(algorithm, scenario, KEYS[:3], runs_at_once=1, epochs=2, **QUIET)
    assert merged.steps == whole.steps and torch.equal(merged.diverged, whole.diverged)
    for name in ("accuracy", "training", "validation", "probes", "params", "state"):
        torch.testing.assert_close(
            getattr(merged, name),
            getattr(whole, name),
            rtol=0,
            atol=1e-10,
            equal_nan=True,
            check_dtype=False,
        )
    assert torch.equal(merged.probes.step, whole.probes.step)


def forgetful():
    """Four runs that can unlearn, of three tasks."""
    scenario = scenarios.permuted(toy_data(), 3, key(2), valid=0.25)
    members = [amnesiac(build(scenario, lr), num_tasks=3) for lr in (0.05, 0.1, 0.15, 0.2)]
    return sweep(members), scenario


FIRST, SECOND = ForgetSet(task=0), ForgetSet(task=1)
REQUESTS = [{1: [FIRST]}, {}, {}, {0: [FIRST], 2: [SECOND]}]
SKIP = [set(), {0}, {0, 1}, set()]


@pytest.mark.parametrize("size", [1, 2])
def test_requests_and_skipped_tasks_of_each_run_are_cut_with_the_runs(size):
    algorithm, scenario = forgetful()
    options = {"requests": REQUESTS, "skip": SKIP, "evaluate": "current"} | QUIET
    whole = run(algorithm, scenario, KEYS[:4], **options)
    merged = run_chunks(algorithm, scenario, KEYS[:4], runs_at_once=size, **options)
    assert merged.events == whole.events and merged.steps == whole.steps
    assert merged.config == whole.config | {"chunks": [size] * (4 // size)}
    for name in ("accuracy", "training", "validation", "params", "state", "snapshots"):
        torch.testing.assert_close(
            getattr(merged, name), getattr(whole, name), rtol=0, atol=1e-10, equal_nan=True
        )


def test_a_chunk_that_trains_nothing_has_nan_where_the_others_have_points():
    algorithm, scenario = job(shared=True)
    three, keys = part(algorithm, range(3)), KEYS[:3]
    options = {"skip": [{1}, {0, 1}, {0}]} | QUIET
    whole = run(three, scenario, keys, **options)
    merged = run_chunks(three, scenario, keys, runs_at_once=1, **options)
    assert merged.steps == whole.steps and merged.config["skip"] == whole.config["skip"]
    for name in ("accuracy", "training", "validation", "params"):
        torch.testing.assert_close(
            getattr(merged, name), getattr(whole, name), rtol=0, atol=1e-10, equal_nan=True
        )
    assert torch.equal(merged.probes.step, whole.probes.step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": REQUESTS[:2]}, "one for each of 4 run.s., given 2"),
        ({"skip": SKIP[:3]}, "one for each of 4 run.s., given 3"),
        ({"requests": {0: [SECOND]}}, "it is not trained yet"),
    ],
)
def test_requests_are_checked_for_all_runs_before_the_first_chunk(change, message, monkeypatch):
    algorithm, scenario = forgetful()
    monkeypatch.setattr(chunks, "run_with", lambda *args, **keywords: pytest.fail("it has begun"))
    with pytest.raises(ValueError, match=message):
        run_chunks(algorithm, scenario, KEYS[:4], runs_at_once=2, **change, **QUIET)


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
    with pytest.raises(ValueError, match="replace the init of each member"):
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
    found = plan_chunks(algorithm, scenario, KEYS, OPTIONS)
    assert [len(chunk) for chunk in found.chunks] == [3, 3, 1]
    assert "7 runs, 3 at a time, the last of 1" in found.why and "that cpu has free" in found.why
    monkeypatch.setattr(memory, "available", lambda device: 1000 * room)
    assert plan_chunks(algorithm, scenario, KEYS, OPTIONS).chunks == [range(7)]
    found = plan_chunks(algorithm, scenario, KEYS, OPTIONS, devices=2)
    assert [len(chunk) for chunk in found.chunks] == [4, 3]


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
    data = packing.pack(result, "mine")
    back = packing.unpack(data, algorithm)
    assert packing.label_of(data) == "mine" and tree.structure(tensors(back)) == tree.structure(
        tensors(result)
    )
    assert same(tensors(back), tensors(result))
    for name in ("config", "coordinates", "steps", "train_seconds", "wall_seconds", "engine"):
        assert getattr(back, name) == getattr(result, name)


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:100], lambda d: d[:-1], lambda d: b"", lambda d: b"\xff" * 50 + d]
)
def test_bytes_that_are_not_a_whole_result_are_refused(spoil):
    with pytest.raises(ValueError):
        packing.unpack(spoil(packed()), small()[0])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_one_flipped_bit_of_a_packed_result_is_noticed_wherever_it_is(share):
    data, algorithm = packed(), small()[0]
    header = 8 + int.from_bytes(data[:8], "little")
    for first, stop in ((0, header), (header, len(data))):
        flipped = bytearray(data)
        flipped[int(first + share * (stop - first))] ^= 8
        with pytest.raises(ValueError):
            packing.unpack(bytes(flipped), algorithm)


def test_chunks_that_are_done_are_not_run_again(tmp_path, monkeypatch):
    algorithm, scenario = small(tasks=1)
    ran, real = [], chunks.run_with
    options = {"runs_at_once": 3, "out": tmp_path} | QUIET

    def watched(*args, **how):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(args[2])
        return real(*args, **how)

    monkeypatch.setattr(chunks, "run_with", watched)
    with pytest.raises(KeyboardInterrupt):
        run_chunks(algorithm, scenario, KEYS, **options)
    kept = sorted(path.name for path in (tmp_path / "chunks").iterdir())
    assert (
        kept == ["0-2.safetensors", "3-5.safetensors", "plan.json"]
        and not (tmp_path / "results.nc").exists()
    )

    monkeypatch.setattr(
        chunks, "run_with", lambda *args, **how: ran.append(args[2]) or real(*args, **how)
    )
    resumed = run_chunks(algorithm, scenario, KEYS, **options)
    assert [len(keys) for keys in ran] == [3, 3, 1] and not (tmp_path / "chunks").exists()
    assert same(
        tensors(resumed), tensors(run_chunks(algorithm, scenario, KEYS, runs_at_once=3, **QUIET))
    )
    assert (tmp_path / "results.nc").exists() and (tmp_path / "figures").is_dir()


def test_chunks_of_another_sweep_or_damaged_ones_are_run_again(tmp_path):
    algorithm, scenario = small()
    store = ChunkStore(tmp_path, algorithm, scenario, KEYS, OPTIONS)
    result = run(part(algorithm, range(3)), scenario.part(range(3)), KEYS[:3], **QUIET)
    data = packing.pack(result, store.label(range(3)))
    store.keep(range(3), data, ChunkPlan(cut(7, 3), "", "eager"))
    assert same(tensors(store.find(range(3))), tensors(result)) and store.find(range(2)) is None
    assert store.saved_plan(7, 3).chunks == store.saved_plan(7, "auto").chunks == cut(7, 3)
    for other_cut in (4, 0, "many"):
        assert store.saved_plan(7, other_cut) is None

    other = ChunkStore(tmp_path, algorithm, scenario, KEYS, OPTIONS.changed(batch_size=9))
    assert other.find(range(3)) is None and other.saved_plan(7, 3) is None
    path = tmp_path / "chunks" / "0-2.safetensors"
    flipped = bytearray(data)
    flipped[-10] ^= 8
    for damaged in (data[:-10], bytes(flipped)):
        path.write_bytes(damaged)
        assert store.find(range(3)) is None


def test_the_digest_of_a_sweep_changes_with_everything_that_decides_a_result():
    algorithm, scenario = small()
    shifted = scenario._replace(data=scenario.data._replace(x=scenario.data.x + 1))
    masks = [{"hidden1": False}, {"hidden2": False}]
    frozen = [sweep([chained(scenario, mask)] * 7) for mask in masks]
    cases = [
        (algorithm, scenario, KEYS, OPTIONS),
        (algorithm, scenario, KEYS + 1, OPTIONS),
        (algorithm, toy_stream(key(3), 2), KEYS, OPTIONS),
        (algorithm, shifted, KEYS, OPTIONS),
        (sweep([build(scenario)] * 7), scenario, KEYS, OPTIONS),
        (algorithm, scenario, KEYS, OPTIONS.changed(batch_size=9)),
        (algorithm, scenario, KEYS, OPTIONS.changed(skip={1})),
        (algorithm, scenario, KEYS, OPTIONS.changed(requests={0: [ForgetSet(task=0)]})),
        (algorithm, scenario, KEYS, OPTIONS.changed(config={"arguments": {"seed": 3}})),
        (algorithm, scenario, KEYS, OPTIONS.changed(config={"arguments": ["mine.py", "--fast"]})),
        (frozen[0], scenario, KEYS, OPTIONS),
        (frozen[1], scenario, KEYS, OPTIONS),
    ]
    digests = [sweep_digest(*case) for case in cases]
    assert len(set(digests)) == len(cases)
    elsewhere = {"out": "a", "device": "cpu", "runs_at_once": "2"}
    for same_runs in (
        OPTIONS.changed(progress=True, checkpoint_every=5),
        OPTIONS.changed(config={"arguments": elsewhere}),
    ):
        expected = OPTIONS.changed(config={"arguments": {}} if same_runs.config else None)
        assert sweep_digest(algorithm, scenario, KEYS, same_runs) == sweep_digest(
            algorithm, scenario, KEYS, expected
        )


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
