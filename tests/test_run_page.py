"""The page of a run: what it says against the tables, and what it says of half a run."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from cliphelpers.answers import comparable, judge, read_answers, recommend
from cliphelpers.classifiers import Linear, NearestMean, Ridge
from cliphelpers.command import main
from cliphelpers.command.report import COSTS, cost_of, report
from cliphelpers.encoders.encoder import raw_pixels
from cliphelpers.encoders.load import load_encoder, load_encoders
from cliphelpers.features import extract_features
from cliphelpers.index import index_images, targets
from cliphelpers.splits import make_splits
from cliphelpers.study import Study
from cliphelpers.upsampling import with_upsampling

MODULE = """\
from cliphelpers.encoders.encoder import raw_pixels
def encoder():
    made = raw_pixels({side})
    made.name = "pixels {side}"
    return made
"""
NAMES = [
    "01_zero_shot",
    "03_linear_probe_clip",
    "04_linear_probe_imagenet",
    "05_fine_tune_clip",
    "07_upsampling",
]
RECORD = {
    "started": "2026-01-01T00:00:00+0000", "commit": "abc", "python": "3.12",
    "versions": {"a": "1"}, "hardware": {"machine": "Linux", "cores": 2, "gpu": None},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("encoders"), []
    for side in (2, 6):
        (folder / f"pixels{side}.py").write_text(MODULE.format(side=side))
        made.append(f"module:{folder / f'pixels{side}.py'}")
    return made


@pytest.fixture
def output(tmp_path, fruits, specs):
    """A run of notebook 3, as far as the page reads it."""
    index, folder = index_images(fruits), tmp_path / "out"
    study = Study("03_linear_probe_clip", index, make_splits(index, ["random", "by_group"]))
    for encoder in load_encoders(specs):
        study.ask("ridge", Ridge([1.0, 0.1]), encoder)
        study.ask("class mean", NearestMean(), encoder, shots=[1], seeds=[0, 1])
    study.run()
    study.save(folder)
    (folder / "notebooks").mkdir()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Told")])
    nbformat.write(book, folder / "notebooks" / "03_linear_probe_clip.ipynb")
    of = {"parameters": {"data": str(fruits), "encoders": specs}, "seconds": 60.0}
    of["pictures"] = str(fruits)
    record = RECORD | {"notebooks": {"03_linear_probe_clip": of | {"warnings": ["3 left out"]}}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def save(study, output):
    """As a notebook that the command runs to its end."""
    study.save(output)
    record = json.loads((output / "run.json").read_text())
    of = {"parameters": {}, "seconds": 1.0, "pictures": study.index.attrs["root"]}
    record["notebooks"][study.name] = of
    (output / "run.json").write_text(json.dumps(record))


def words(page):
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def test_the_first_sentence_is_what_the_rule_says(output):
    page = words(report(output).read_text(encoding="utf-8"))
    ways, _ = read_answers(output, "tiny-fruits", NAMES)
    found = recommend(comparable(ways, judge({way.split for way in ways})))
    way = found.taken or found.best
    start = "Take " if found.taken else "Best seen is "
    assert f"{start}{way.name}: {way.right.mean():.1%}" in page
    decided = f"of the {len(ways)} ways in the choice none is better by more than 2 points"
    asked = f"About {found.wanted():,} test groups (looks, where none are named; each class has"
    assert judge({way.split for way in ways}) == "by_group" and found.groups == 12
    assert (decided in page, asked in page) == (bool(found.taken), not found.taken)
    assert "Not asked: 01_zero_shot" in page and "3 left out" in page
    assert "-p encoders" in page and "12 groups of 72 pictures are named" in page


def test_the_table_has_every_encoder_and_split_as_results_do(output):
    page = words(report(output).read_text(encoding="utf-8"))
    rows = pd.read_csv(output / "results" / "03_linear_probe_clip.csv")
    for row in rows[(rows.metric == "top-1") & rows.shots.isna()].itertuples():
        shares = [100 * share for share in (row.value, row.low, row.high, row.balanced)]
        assert "{:.1f} ({:.1f} to {:.1f}) {:.1f}".format(*shares) in page
    costs = pd.read_csv(output / "results" / "costs.csv").set_index("encoder")
    assert costs.numbers.to_dict() == {"pixels 2": 12, "pixels 6": 108}
    assert (costs.milliseconds > 0).all() and (costs.parameters == 0).all()


def test_what_leaks_is_told_only_where_a_random_split_flatters(output, monkeypatch):
    ways, _ = read_answers(output, "tiny-fruits", NAMES)
    ridge = [way for way in ways if way.method == "ridge"]
    low, high = (pick(ridge, key=lambda way: way.right.mean()) for pick in (min, max))
    assert low.right.mean() < high.right.mean()
    told = {"a random split flatters": (high, low), "What leaks: nothing": (low, high)}
    for said, pair in (told | {"leaks: nothing that shows": (low, low)}).items():
        monkeypatch.setattr("cliphelpers.command.report._pairs", lambda *_, pair=pair: [pair])
        assert said in words(report(output).read_text(encoding="utf-8"))


def test_a_slow_moment_of_the_machine_is_no_cost_of_an_encoder(output, specs, monkeypatch):
    asked = []

    def slow_at_times(spec, precision):
        asked.append(spec)
        seconds = {1: 50.0, 4: 70.0}.get(len(asked), 2.0 + specs.index(spec))
        return dict(zip(COSTS, (seconds, 1.0, 2.0, 3), strict=True))

    monkeypatch.setattr("cliphelpers.command.report.cost_of", slow_at_times)
    report(output)
    costs = pd.read_csv(output / "results" / "costs.csv").set_index("encoder")
    assert costs.milliseconds.to_dict() == {"pixels 2": 2, "pixels 6": 3}
    assert asked == specs * 3  # in turn


@pytest.mark.parametrize(
    ("features", "precision"),
    [("pixels, bf16", "bf16"), ("joint, fp16, bicubic", "fp16"), ("pixels, lanczos", "fp32")],
)
def test_costs_are_of_the_precision_that_was_asked(specs, features, precision, monkeypatch):
    asked = []

    def load(spec, precision):
        asked.append(precision)
        return load_encoder(spec, precision)

    monkeypatch.setattr("cliphelpers.command.report.load_encoder", load)
    assert cost_of(specs[0], features)["numbers"] == 12 and asked == [precision]


def test_predictions_are_the_answers_of_each_test_picture(output):
    report(output)
    table = pd.read_csv(output / "results" / "predictions.csv")
    ways, index = read_answers(output, "tiny-fruits", NAMES)
    found = recommend(comparable(ways, judge({way.split for way in ways})))
    way, word = found.taken or found.best, "recommended" if found.taken else "best_seen"
    assert sorted(table.path) == sorted(index.path) and len(table) == 72
    assert (table[word] == table.label).mean() == pytest.approx(way.right.mean())
    assert table[f"{word}_probability"].between(1 / 4, 1).all()
    sure = table[f"{word}_probability"].mean()
    assert sure == pytest.approx((table[word] == table.label).mean(), abs=0.15)
    assert main(["compare", str(output)]) == 0  # which takes predictions and costs for no results


def test_the_page_needs_nothing_else_and_links_what_is_there(output):
    page = report(output).read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    there = [link for link in links if not link.startswith("data:")]
    assert there == ["notebooks/03_linear_probe_clip.html"]
    assert "Told" in (output / there[0]).read_text(encoding="utf-8")


def test_a_run_that_learnt_from_few_alone_has_a_page_too(output, specs, fruits):
    """As one of notebook 6 alone."""
    shutil.rmtree(output / "answers")
    (output / "results" / "03_linear_probe_clip.csv").unlink()
    index = index_images(fruits)
    study = Study("06_fine_tune_imagenet", index, make_splits(index, ["by_group"]))
    study.ask("class mean", NearestMean(), load_encoders(specs)[0], shots=[2])
    study.run()
    save(study, output)
    page = words(report(output).read_text(encoding="utf-8"))
    assert "pixels 2, class mean, k = 2" in page and "Not asked: 01_zero_shot" in page


def test_answers_are_compared_picture_by_picture_whatever_the_order_of_folds(output, specs, fruits):
    index = index_images(fruits)
    folds = make_splits(index, ["by_group"])["by_group"]
    others = [replace(fold, number=2 - fold.number) for fold in folds]
    study = Study("04_linear_probe_imagenet", index, {"by_group": others[::-1]})
    study.ask("class mean", NearestMean(), load_encoders(specs)[0])
    study.run()
    save(study, output)
    ways, _ = read_answers(output, "tiny-fruits", NAMES)
    for way in comparable(ways, "by_group"):
        assert way.rows.tolist() == list(range(72)) and way.y.tolist() == study.y.tolist()
    answers = study.answers(method="class mean")
    assert answers.rows.tolist() != list(range(72))
    (way,) = [way for way in ways if way.method == "class mean" and not way.shots]
    np.testing.assert_array_equal(way.right[0][answers.rows], answers.right)
    np.testing.assert_allclose(way.probability[answers.rows], answers.probability, atol=1e-3)


@pytest.mark.parametrize("change", ["a label", "a picture less"])
def test_answers_about_other_pictures_are_not_set_beside_each_other(output, specs, fruits, change):
    """As after a label is put right, or a bad picture deleted, and one notebook run again."""
    index = index_images(fruits)
    kept = index.iloc[:-1] if change == "a picture less" else index.copy()
    kept.attrs = index.attrs
    if change == "a label":
        kept.loc[0, "label"] = kept.label.iloc[-1]
    study = Study("04_linear_probe_imagenet", kept, make_splits(kept, ["random"]))
    study.ask("ridge", Ridge([1.0]), load_encoders(specs)[0])
    study.run()
    save(study, output)
    with pytest.raises(ValueError, match="04_linear_probe_imagenet.npz is of other pictures or la"):
        report(output)


def test_a_method_keeps_its_encoder_whatever_is_asked_after_it(output, specs, fruits):
    """As WiSE-FT, whose encoders are of the same name and of no text, after fine-tuning."""
    index = index_images(fruits)
    study = Study("05_fine_tune_clip", index, make_splits(index, ["by_group"]))
    encoder = load_encoders(specs)[0]
    study.ask("fine-tuned ML", NearestMean(), encoder)
    study.ask("WiSE-FT alpha=0.5", Ridge([1.0]), replace(encoder, spec=""))
    study.run()
    save(study, output)
    ways, _ = read_answers(output, "tiny-fruits", NAMES)
    methods = {way.method for way in comparable(ways, judge({way.split for way in ways}))}
    assert "fine-tuned ML" in methods and "WiSE-FT alpha=0.5" not in methods


@pytest.mark.parametrize("name", ["2024", "001", "1e3", "NA", "null", "True"])
def test_a_folder_may_be_called_like_a_number_or_nothing(output, fruits, name, monkeypatch):
    shutil.copytree(fruits, output.parent / name)
    index = index_images(output.parent / name)
    shutil.rmtree(output / "answers")
    study = Study("03_linear_probe_clip", index, make_splits(index, ["random"]))
    study.ask("ridge", Ridge([1.0]), replace(raw_pixels(2), spec="module:" + str(name)))
    study.run()
    save(study, output)
    cost = dict.fromkeys(COSTS, 1.0)
    monkeypatch.setattr("cliphelpers.command.report.cost_of", lambda *_: cost)
    page = words(report(output).read_text(encoding="utf-8"))
    assert f"{name}: which image encoder" in page and "2x2 raw pixels, ridge" in page


@pytest.mark.parametrize("prompts", [1, 2])
def test_labels_that_chose_the_prompt_of_zero_shot_are_told(output, fruits, specs, prompts):
    shutil.rmtree(output / "answers")
    (output / "results" / "03_linear_probe_clip.csv").unlink()
    index, encoder = index_images(fruits), load_encoders(specs)[1]
    X, y = extract_features(encoder, index), targets(index)
    head = NearestMean().fit(X, y, 4).means_.T, 0  # as good as texts can be
    study = Study("01_zero_shot", index, make_splits(index, ["by_group"]))
    study.ask("zero-shot", Linear(*[head, head][:prompts], names=["one", "two"][:prompts]), encoder)
    study.run()
    save(study, output)
    (way,), _ = read_answers(output, "tiny-fruits", NAMES)
    assert (way.labels > 0) == (prompts == 2)
    page = words(report(output).read_text(encoding="utf-8"))
    said = "It takes no labels but for the choice of its prompt."
    assert (said in page) == (prompts == 2) and ("It takes no labels." in page) == (prompts == 1)
    assert f"zero-shot {'its prompt' if prompts == 2 else 'none'}" in page
    assert study.table().chosen.tolist() == ["one" if prompts == 2 else None]


def test_what_super_resolution_changes_is_told_without_what_other_ways_change(
    output, fruits, specs
):
    """And of shrunk pictures alone there is a page, too."""
    shutil.rmtree(output / "answers")
    (output / "results" / "03_linear_probe_clip.csv").unlink()
    index, encoder = index_images(fruits), load_encoders(specs)[1]
    study = Study("07_upsampling", index, make_splits(index, ["by_group"]))
    seen = [with_upsampling(encoder, way, 20) for way in ("srgan", "lanczos", "bicubic")]
    for one in seen:
        study.ask("class mean", NearestMean(), one)
    study.run()
    features = [one.features for one in seen]
    for other in features[:2]:
        study.differences("features", [other, features[2]])
    save(study, output)
    page = words(report(output).read_text(encoding="utf-8"))
    assert re.search(r"Super-resolution, .*?: (\w+|not decided) in 1 \(Holm", page)
    assert "No way to tell the pictures was asked yet. Not asked: 01_zero_shot" in page


def test_shrunk_pictures_are_no_way_to_take(output, fruits, specs):
    index = index_images(fruits)
    study = Study("07_upsampling", index, make_splits(index, ["by_group"]))
    small = with_upsampling(load_encoders(specs[1:])[0], "bicubic", 20)
    study.ask("class mean", NearestMean(), small)
    study.run()
    save(study, output)
    ways, _ = read_answers(output, "tiny-fruits", NAMES)
    assert any("from 20" in way.features for way in ways)
    assert not any(
        "from 20" in way.features for way in comparable(ways, judge({way.split for way in ways}))
    )


def test_the_page_is_of_the_pictures_that_were_asked_last(output, specs, draw):
    for label in "ab":
        for number in range(6):
            path = draw(f"other/{label}/{number}.png", seed=number + 10 * (label == "b"))
    index = index_images(path.parents[1])
    study = Study("04_linear_probe_imagenet", index, make_splits(index, ["random"]))
    study.ask("ridge", Ridge([1.0]), load_encoders(specs)[0])
    study.run()
    save(study, output)
    page = words(report(output).read_text(encoding="utf-8"))
    assert page.count("other: which image encoder") == 2 and "In the choice: pixels 2, by" in page


def test_a_page_is_made_though_the_pictures_are_gone_or_faulty_now(output, fruits, tmp_path):
    """Of a run whose record is not whole, too: as after the only notebook failed when run again."""
    record = json.loads((output / "run.json").read_text())
    folder = tmp_path / "changed"
    for place in (folder / "a", folder / "b"):
        place.mkdir(parents=True)
    book = record["notebooks"]["03_linear_probe_clip"]
    book["pictures"] = str(folder)
    (output / "run.json").write_text(json.dumps(record))
    page = words(report(output).read_text(encoding="utf-8"))
    assert "has no class folder with pictures" in page
    shutil.rmtree(folder)
    assert f"{folder} is not there any more" in report(output).read_text(encoding="utf-8")


def test_what_a_notebook_left_that_was_begun_again_is_on_no_page(output, specs, fruits, capsys):
    """run.json has no word of it until it ends: what stands there is of other parameters."""
    index = index_images(fruits)
    study = Study("04_linear_probe_imagenet", index, make_splits(index, ["by_group"]))
    study.ask("of another run", Ridge([1.0]), load_encoders(specs)[0])
    study.run()
    study.save(output)
    assert "of another run" not in report(output).read_text(encoding="utf-8")
    record = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(record | {"notebooks": {}}))
    assert main(["report", str(output)]) == 1
    assert "has no tables of results yet" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [[0, 1], [0, 1, 2], [2, 0, 1]])
def test_of_several_seeds_the_page_has_the_mean(output, specs, fruits, seeds):
    index = index_images(fruits)
    study = Study("05_fine_tune_clip", index, make_splits(index, ["by_group"]))
    study.ask("few", NearestMean(), load_encoders(specs)[0], shots=[1], seeds=seeds)
    mean = study.run().iloc[0]
    save(study, output)
    rows = pd.read_csv(output / "results" / "05_fine_tune_clip.csv")
    assert rows[rows.metric == "top-1"].value.nunique() > 1
    page = words(report(output).read_text(encoding="utf-8"))
    told = f"few 1 a class {100 * mean.value:.1f} ({100 * mean.low:.1f} to {100 * mean.high:.1f})"
    assert told in page


@pytest.mark.parametrize("first", [1.0, 0.1])
def test_of_two_notebooks_answers_the_later_one_s_stands_in_the_table_too(
    output, specs, fruits, first
):
    index, encoder = index_images(fruits), load_encoders(specs)[0]
    for number, share in (("01_zero_shot", first), ("02_k_shot", 0.0)):
        study = Study(number, index, make_splits(index, ["by_group"]))
        head = np.random.default_rng(int(10 * share)).normal(size=(12, 4)).astype(np.float32)
        study.ask("zero-shot", Linear((head, 0)), encoder)
        told = study.run().iloc[0]
        save(study, output)
    page = words(report(output).read_text(encoding="utf-8"))
    assert f"zero-shot none {100 * told.value:.1f} (" in page


def test_zero_shot_with_a_chosen_prompt_is_a_way_beside_the_one_without(output, specs, fruits):
    """Notebook 1 chooses a prompt, notebook 2 does not, notebook 5 asks fewer pictures."""
    index, encoder = index_images(fruits), load_encoders(specs)[1]
    shutil.rmtree(output / "answers")
    X, y = extract_features(encoder, index), targets(index)
    good, bad = NearestMean().fit(X, y, 4).means_.T, np.eye(108, 4, dtype=np.float32)
    folds = make_splits(index, ["by_group"])["by_group"]
    for number, heads, some in (
        ("01_zero_shot", [(good, 0), (bad, 0)], folds),
        ("02_k_shot", [(bad, 0)], folds),
        ("05_fine_tune_clip", [(bad, 0)], folds[:1]),
    ):
        study = Study(number, index, {"by_group": some})
        study.ask("zero-shot", Linear(*heads, names=["one", "two"][: len(heads)]), encoder)
        study.run()
        save(study, output)
    ways, _ = read_answers(output, "tiny-fruits", NAMES + ["02_k_shot"])
    assert [(way.notebook, len(way.rows)) for way in ways] == [
        ("01_zero_shot", 72), ("02_k_shot", 72)
    ]  # fmt: skip
    page = words(report(output).read_text(encoding="utf-8"))
    assert "Take pixels 6, zero-shot with a chosen prompt" in page
    assert "by 01_zero_shot, 02_k_shot (ways: 2)" in page


def test_a_folder_that_is_named_in_two_ways_is_one(output, fruits, specs, monkeypatch):
    monkeypatch.chdir(fruits.parent)
    index = index_images(fruits.name)
    study = Study("04_linear_probe_imagenet", index, make_splits(index, ["by_group"]))
    study.ask("ridge", Ridge([1.0]), load_encoders(specs)[0])
    study.run()
    save(study, output)
    ways, index = read_answers(output, "tiny-fruits", NAMES)
    assert {"03_linear_probe_clip", "04_linear_probe_imagenet"} == {way.notebook for way in ways}
    assert index.path[0].startswith(str(fruits))


def test_ways_to_enlarge_are_told_apart_and_srgan_costs_its_own_time(output, specs, fruits):
    index = index_images(fruits)
    study = Study("05_fine_tune_clip", index, make_splits(index, ["by_group"]))
    for way in ("bicubic", "lanczos", "srgan"):
        encoder = replace(load_encoders(specs)[0], features=f"pixels, {way}")
        study.ask("fine-tuned ML", NearestMean(), encoder)
    study.run()
    save(study, output)
    page = words(report(output).read_text(encoding="utf-8"))
    for name in ("pixels 2", "pixels 2, lanczos", "pixels 2, srgan"):
        assert f" {name} fine-tuned ML all " in page
    costs = pd.read_csv(output / "results" / "costs.csv").set_index("encoder").milliseconds
    assert costs["pixels 2, srgan"] > 10 * costs["pixels 2, lanczos"] > 0


def test_the_commands_that_repeat_a_run_keep_each_notebook_s_parameters(output):
    record = json.loads((output / "run.json").read_text())
    names = ["01_zero_shot", "02_k_shot", "03_linear_probe_clip"]
    for name, seeds in zip(names, ([1], [0, 1, 2, 3, 4], [1]), strict=True):
        record["notebooks"][name] = {
            "parameters": {"data": "my data", "seeds": seeds},
            "seconds": 1,
        }
    (output / "run.json").write_text(json.dumps(record))
    page = words(report(output).read_text(encoding="utf-8"))
    one = "cliphelpers run 01 03 --data &#39;my data&#39; -p seeds &#39;[1]&#39;"
    assert one in page and "cliphelpers run 02 --data &#39;my data&#39;" in page


def test_as_pdf(output, monkeypatch):
    monkeypatch.chdir(output.parent)
    assert main(["report", output.name, "--pdf"]) == 0
    assert Path(output, "index.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_no_run_or_damaged_is_named(output, tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert f"{tmp_path} is no run: it has no run.json" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 1
    assert "run.json is no record of a run" in capsys.readouterr().err
    broken = output / "answers" / "03_linear_probe_clip.npz"
    for content in (b"", b"PK\x03\x04 no", broken.read_bytes()[:200]):
        broken.write_bytes(content)
        assert main(["report", str(output)]) == 1
        assert f"{broken} is damaged: run 03_linear_probe_clip again" in capsys.readouterr().err
    broken.unlink()
    assert "No way to tell the pictures was asked yet" in report(output).read_text(encoding="utf-8")
    (output / "results" / "03_linear_probe_clip.csv").unlink()
    assert main(["report", str(output)]) == 1
    assert "has no tables of results yet" in capsys.readouterr().err


def test_answers_are_read_as_they_were_given(output, fruits):
    ways, index = read_answers(output, "tiny-fruits", NAMES)
    whole = index_images(fruits)
    assert index.path.tolist() == whole.path.tolist()
    assert {(way.method, way.shots, way.labels) for way in ways if way.split == "by_group"} == {
        ("ridge", None, 48), ("class mean", 1, 4)
    }  # fmt: skip
    for way in ways:
        assert way.predicted.shape == (2 if way.shots else 1, 72)
        rows = pd.read_csv(output / "results" / "03_linear_probe_clip.csv")
        rows = rows[(rows.metric == "top-1") & (rows.split == way.split)]
        rows = rows[(rows.method == way.method) & (rows.encoder == way.encoder)]
        mean = rows[rows.seed.isna()] if way.shots else rows
        assert np.allclose(mean.value, way.right.mean(), atol=1e-6)


def test_what_was_asked_of_fewer_pictures_is_said_to_be_no_part_of_the_choice(
    output, fruits, specs
):
    index = index_images(fruits)
    study = Study(
        "05_fine_tune_clip", index, {"by_group": make_splits(index, ["by_group"])["by_group"][:1]}
    )
    study.ask("linear probe", Ridge([1.0]), load_encoders(specs)[0])
    study.run()
    save(study, output)
    page = words(report(output).read_text(encoding="utf-8"))
    assert "In the choice: pixels 2; pixels 6, by 03_linear_probe_clip (ways: 4)." in page
    left = "fewer pictures: linear probe, by 05_fine_tune_clip (ways: 1)."
    assert left in page and "05_fine_tune_clip." not in page.partition(left)[0]
