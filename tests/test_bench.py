"""`make bench`: that its checks can fail, its ratios are right, and its page is the CSV's."""

import json
from pathlib import Path

import bench
import bench_page
import numpy as np
import pandas as pd
import pytest
from timed import enlarging, enlarging_keras, features, heads, inputs, notebooks, texts
from timed.comparison import LIMIT, Comparison, Contrast, Disagreement, Prepared, Side, agree
from timed.comparisons import COMPARISONS
from timed.contender import Contender, ContenderError, missing

HERE = Path(bench.__file__).parent


# ------------------------------------------------------------------------------- agreement


def test_results_that_differ_are_refused():
    X = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    features.same_directions(X, 100 * X)
    with pytest.raises(Disagreement, match="features differ by"):
        features.same_directions(X, X[::-1])
    with pytest.raises(Disagreement, match="shapes"):
        agree(X, X[:4], 1, "features")
    with pytest.raises(Disagreement):
        agree(X, np.where(X > 1, np.nan, X), 100, "features")
    pictures = np.full((1, 40, 40, 3), 100, np.uint8)
    rounded = pictures.copy()
    rounded[0, 0, 0] = 101
    enlarging.same_pictures(pictures, rounded)
    with pytest.raises(Disagreement, match="by up to 1 levels"):
        enlarging.same_pictures(pictures, pictures + np.uint8(1))
    rounded[0, 0, 0] = 103
    with pytest.raises(Disagreement, match="by up to 3 levels"):
        enlarging.same_pictures(pictures, rounded)


@pytest.fixture
def paths(draw):
    return [str(draw(f"{seed}.png", (70, 66), seed)) for seed in range(5)]


def test_the_loops_see_what_ours_sees_and_those_of_other_weights_do_not(
    clip_vit, clip_rn, paths, tmp_path
):
    job = {"paths": paths, "cache": str(tmp_path / "cache")}
    ours = features.ours(f"clip:{clip_vit}", str(clip_vit))(**job)
    features.same_directions(ours, features.clip_loop("", str(clip_vit))(**job))
    with pytest.raises(Disagreement):
        features.same_directions(ours, features.clip_loop("", str(clip_rn))(**job))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")  # torch, with fewer cores
def test_clip_benchmark_sees_what_ours_sees(clip_rn, paths, tmp_path):
    pytest.importorskip("clip_benchmark", reason="needs the extra bench")
    job = {"paths": paths, "cache": str(tmp_path / "cache")}
    ours = features.ours(f"clip:{clip_rn}", str(clip_rn))(**job)
    features.same_directions(ours, features.clip_benchmark_loop("", str(clip_rn))(**job))


def test_text_weights_are_open_clip_s(clip_vit, clip_rn):
    asked = {"names": ["fig", "red apple"], "templates": ["a {}.", "a photo of the {}, of fruit"]}
    ours = texts.ours(str(clip_vit), **asked)()
    agree(ours, texts.open_clip_weights(str(clip_vit), **asked)(), 1e-5, "weights")
    with pytest.raises(Disagreement):
        agree(ours, texts.open_clip_weights(str(clip_rn), **asked)(), 1e-5, "weights")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """A file as of heads.prepare: three classes that overlap a little."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("probe") / "probe.npz"
    y = np.arange(600) % 3
    X = (rng.normal(size=(3, 6))[y] + rng.normal(size=(600, 6))).astype(np.float32)
    parts = dict(zip(("train", "val", "test"), np.split(np.arange(600), [300, 400]), strict=True))
    np.savez(file, X=X, y=y, **parts)
    return str(file)


def test_heads_agree_with_scikit_learn_s_and_wrong_ones_are_found(probe):
    judge = heads.Judge()
    judge.file = probe
    ours, ridge = heads.ours_logistic(probe)(), heads.ours_ridge(probe)()
    for solver in (heads.sklearn_lbfgs, heads.sklearn_newton_cg):
        peer = solver(probe)()
        judge.equal(ours, peer)
        judge.not_worse(ridge, peer | {"W": -peer["W"]})
    judge.same_answers(ridge, heads.sklearn_ridge(probe)())
    wrong = ours | {"W": ours["W"][:, ::-1]}
    for pair in ((wrong, peer), (peer, wrong)):
        with pytest.raises(Disagreement, match="accuracies are"):
            judge.equal(*pair)
    with pytest.raises(Disagreement, match="ends at a loss"):  # as accurate, but not fitted
        judge.equal(ours | {"W": 9 * ours["W"], "b": 9 * ours["b"], "strength": 1e-3},
                    ours | {"strength": 1e-3})  # fmt: skip
    with pytest.raises(Disagreement, match="of the answers"):
        judge.same_answers(ridge, ridge | {"W": ridge["W"][:, ::-1]})


def test_the_loss_is_what_scikit_learn_minimises(probe):
    judge = heads.Judge()
    judge.file = probe
    peer = heads.sklearn_lbfgs(probe)()
    least = judge.loss(peer)
    for factor in (0.9, 1.1):
        assert judge.loss(peer | {"W": factor * peer["W"]}) > least


def test_srgan_is_drawn_alike_by_plain_pytorch_and_tensorflow():
    pictures = np.random.default_rng(0).integers(0, 256, (1, 20, 24, 3), np.uint8)
    file = str(inputs.WEIGHTS / "srgan-generator.safetensors")
    ours = enlarging.ours(file)(pictures)
    assert ours.shape == (1, 80, 96, 3)
    enlarging.same_pictures(ours, enlarging.plain_pytorch(file)(pictures))
    with pytest.raises(Disagreement):
        enlarging.same_pictures(ours, enlarging.plain_pytorch(file)(pictures[:, ::-1].copy()))
    side = Side(f"enlarging_keras:{enlarging_keras.keras_generator.__name__}", enlarging.TENSORFLOW)
    if not missing(side):  # `make bench` has been run
        with Contender(side, {"file": file}) as tensorflow:
            enlarging.same_pictures(ours, tensorflow.run({"pictures": pictures})["result"])


def test_flops_of_a_convolution():
    from torch import nn

    assert inputs.flops(nn.Conv2d(3, 4, 2), 4) == 2 * (3 * 2 * 2) * 4 * (3 * 3)


# ------------------------------------------------------------------------------- ratios


class FakeContender:
    """A side that says how long it has taken: seconds of its setup, once a pair."""

    def __init__(self, side, setup):
        self.call, self.times = side.call, iter(setup.get(side.call, []))
        self.about = {"versions": {side.call: "1"}, "threads": 2}

    def run(self, job):
        if self.call == "limit:sgemm":
            return {"result": 80.0}
        return {"seconds": next(self.times), "cpu": 0.0, "result": self.call}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def race(monkeypatch, tmp_path):
    """A function that runs a comparison of two fake sides: the CSV's rows, by peer."""
    monkeypatch.setattr(bench, "Contender", FakeContender)
    monkeypatch.setattr(bench, "BUILD", tmp_path / "build")

    def run(unit="pictures/s", check=lambda ours, peer: None, pairs=3, name="race"):
        setup = {"ours": [1.0, 2.0, 1.0], "peer": [2.0, 3.0, 5.0]}
        contrasts = [
            Contrast("race", "ours", "peer", 2, check),
            Contrast("limit", "ours", LIMIT, 1),
        ]
        sides = {"ours": Side("ours"), "peer": Side("peer")}

        def prepare(folder, small):
            return Prepared(setup, lambda number, place: None if number < 0 else {}, 10, 4e9)

        comparison = Comparison(name, unit, sides, contrasts, prepare)
        bench.compare(comparison, pairs, False, tmp_path / "bench.csv")
        return pd.read_csv(tmp_path / "bench.csv").set_index(["name", "peer"])

    return run


@pytest.mark.parametrize("unit, ours, theirs", [("pictures/s", 10, 10 / 3), ("s", 1, 3)])
def test_a_ratio_is_of_each_pair(race, capsys, unit, ours, theirs):
    row = race(unit).loc["race", "peer"]
    assert [row.ratio, row.least, row.most] == [2, 1.5, 5]
    assert [row.ours, row.theirs] == pytest.approx([ours, theirs], rel=1e-4)
    assert row.pairs == 3 and row.wanted == 5 and row.bar == 2
    assert "ratio 2.00 (1.50 to 5.00, 3 pairs)" in capsys.readouterr().out


def test_the_share_is_of_the_products_of_the_same_pair(race):
    rows = race()  # 10 pictures/s of 4 GFLOP beside 80 GFLOP/s
    assert rows.loc[("race", LIMIT), "ratio"] == rows.loc[("race", "peer"), "share"] == 0.5


def test_rows_are_there_after_each_pair_and_of_a_disagreement_none(race):
    assert race(pairs=1, name="other").pairs.eq(1).all()
    rows = race(pairs=2)
    assert set(rows.index.get_level_values("name")) == {"other", "race"} and len(rows) == 4

    def differ(ours, peer):
        assert (ours, peer) == ("ours", "peer")
        raise Disagreement("no")

    with pytest.raises(Disagreement):
        race(check=differ)
    assert set(race(name="other").index.get_level_values("name")) == {"other"}


def test_each_machine_has_rows_of_its_own(race, monkeypatch, tmp_path):
    def differ(ours, peer):
        raise Disagreement("no")

    race(pairs=2)
    monkeypatch.setattr(bench, "hardware", lambda: "another, no GPU")
    rows = race(pairs=1)
    assert rows.pairs.tolist() == [2, 2, 1, 1] and rows.hardware.nunique() == 2
    with pytest.raises(Disagreement):
        race(check=differ)
    assert pd.read_csv(tmp_path / "bench.csv").pairs.tolist() == [2, 2]


def test_a_peer_that_is_not_there_is_left_out(monkeypatch, tmp_path, capsys):
    sides = {"ours": Side("ours"), "peer": Side("peer", needs=("no_such_package",))}
    one = Comparison("race", "s", sides, [Contrast("race", "ours", "peer", 2)], None)
    bench.compare(one, 1, False, tmp_path / "bench.csv")
    assert "peer is left out, since there is no package no_such_package" in capsys.readouterr().out
    assert not (tmp_path / "bench.csv").exists()
    assert "/no/python" in missing(Side("peer", "/no/python"))


def test_a_side_has_a_process_of_its_own_and_tells_how_it_failed():
    with Contender(Side("limit:sgemm"), {"sizes": [64], "repeats": 1}) as process:
        reply = process.run({})
        assert reply["result"] > 0 and reply["seconds"] > 0 and process.about["threads"] > 0
        assert "torch" in process.about["versions"]
        with pytest.raises(ContenderError, match="unexpected keyword argument 'wrong'"):
            process.run({"wrong": 1})
    with pytest.raises(ContenderError, match="no attribute 'nothing'"):
        Contender(Side("limit:nothing"), {})


# ------------------------------------------------------------------------------- the page


def rows_of(**changes):
    """A table of all that has a bar, each met by all of its pairs, but for the changes."""
    rows = []
    for comparison in COMPARISONS.values():
        for one in comparison.contrasts:
            rows.append({"name": comparison.name, "work": one.work, "peer": one.peer})
            rows[-1] |= {"unit": comparison.unit, "ratio": 100.0, "pairs": comparison.pairs}
            rows[-1] |= {"wanted": comparison.pairs}
    table = pd.DataFrame(rows).reindex(columns=bench.COLUMNS)
    table = table.assign(hardware="x, no GPU", date="", commit="", versions="")
    table[["least", "most", "ours", "theirs"]] = 100.0
    for (work, peer), ratio in changes.get("ratios", {}).items():
        table.loc[(table.work == work) & (table.peer == peer), "ratio"] = ratio
    return table


def verdict(table, work):
    return next(one["verdict"] for one in bench_page.verdicts(table) if one["work"] == work)


def test_a_bar_is_met_beside_the_best_peer_by_enough_pairs():
    work = "files to features, RN50"
    assert verdict(rows_of(), work) == "met"
    worse = rows_of(ratios={(work, "clip-benchmark"): 1.69})
    assert verdict(worse, work) == "**not met**"
    assert verdict(rows_of(ratios={(work, "clip-benchmark"): 1.7}), work) == "met"
    without = worse[worse.peer != "clip-benchmark"]
    assert verdict(without, work) == "met, without clip-benchmark"
    few = rows_of().assign(pairs=4)
    assert verdict(few, work) == "not decided: 4 of 5 pairs"
    assert verdict(rows_of()[lambda table: table.work != work], work) == "not measured"


def test_the_page_counts_the_bars_and_says_that_no_gpu_was_measured():
    table = rows_of(ratios={("ridge, 5 strengths", "scikit-learn, L-BFGS"): 49})
    text = bench_page.page(table)
    total, open_ones = len(bench_page.wanted()), len(notebooks.BARS)
    counts = f"Of {total} bars, met: {total - open_ones - 1}, not met: 1, not decided: 0, "
    assert counts + f"not measured here: {open_ones}." in text
    few = bench_page.page(table.assign(pairs=0))
    assert f"met: 0, not met: 0, not decided: {total - open_ones}, not measured" in few
    assert "No GPU was to be had" in text and "not results" not in text
    assert "No GPU was to be had" not in bench_page.page(table.assign(hardware="x, NVIDIA H100"))
    assert "not results" in bench_page.page(table, small=True)


def test_a_second_machine_has_a_table_of_its_own():
    work = "files to features, RN50"
    first, second = rows_of(), rows_of(ratios={(work, "clip loop"): 0.5})
    second = second[second.work == work].assign(hardware="y, no GPU")
    text = bench_page.page(pd.concat([first, second]))
    total, open_ones = len(bench_page.wanted()), len(notebooks.BARS)
    rest = f"not decided: 0, not measured here: {open_ones}."
    assert f"Of {total} bars, met: {total - open_ones}, not met: 0, {rest}" in text
    rest = f"not decided: 0, not measured here: {total - 1}."
    assert f"Of {total} bars, met: 0, not met: 1, {rest}" in text
    bars = text[text.index("## Bars") : text.index("## All")]
    assert bars.count("share of the limit, ViT-B/32") == 1  # not measured on the second
    assert bars.count("not measured |") == 2 * open_ones  # on neither


def test_minutes_and_memory_are_those_of_run_json(tmp_path):
    committed = HERE.parent / "report" / "results" / "embedded"
    books = json.loads((committed / "run.json").read_text(encoding="utf-8"))["notebooks"].values()
    minutes, peak = notebooks.rows(committed, "first run", "here")
    assert minutes["ours"] == pytest.approx(sum(one["seconds"] for one in books) / 60)
    assert minutes["ratio"] == pytest.approx(6 / minutes["ours"]) and minutes["bar"] == 1
    assert peak["ours"] == max(one["peak_memory_gib"] for one in books)
    (again,) = notebooks.rows(committed, "second run", "here")
    table = pd.DataFrame([minutes, peak, again]).reindex(columns=bench.COLUMNS)
    want = "met" if minutes["ours"] <= 6 else "**not met**"
    assert verdict(table, minutes["work"]) == want
    (tmp_path / "run.json").write_text('{"notebooks": {}}', encoding="utf-8")
    with pytest.raises(SystemExit, match="not of all seven"):
        notebooks.rows(tmp_path, "first run", "here")


@pytest.mark.skipif(not (HERE / "bench.csv").exists(), reason="nothing has been measured yet")
def test_the_committed_page_is_of_the_committed_rows():
    text = (HERE / "RESULTS.md").read_text(encoding="utf-8")
    assert text == bench_page.page(pd.read_csv(HERE / "bench.csv"))
