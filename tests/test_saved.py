"""Classifiers that a study saves, loaded again: the same answers; damaged files are refused."""

import hashlib
import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from PIL import Image
from scipy.special import log_softmax, softmax
from sklearn import linear_model
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

import cliphelpers as ch
from cliphelpers.classifiers import KNearest, Linear, Logistic, NearestMean, Ridge, TipAdapter
from cliphelpers.command import main
from cliphelpers.encoders.encoder import EncoderError, joint, normalize, random_twin, raw_pixels
from cliphelpers.encoders.load import load_encoder
from cliphelpers.features import extract_features
from cliphelpers.finetuning.model import interpolate
from cliphelpers.images import ImageError
from cliphelpers.index import classes, index_images
from cliphelpers.looks import group_of
from cliphelpers.saved import SavedClassifier
from cliphelpers.splits import few_shot_fold, make_splits
from cliphelpers.study import Study
from cliphelpers.upsampling import with_upsampling

STRENGTHS = [1.0, 1e-1, 1e-2]
RNG = np.random.default_rng(0)
TEXTS = normalize(RNG.normal(size=(4, 32)).astype(np.float32))


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def clip(clip_vit):
    return joint(load_encoder(f"clip:{clip_vit}"))


@pytest.fixture(scope="module")
def tuned(clip, clip_vit):
    """The same CLIP with other weights, a third of the way to another one's."""
    other = joint(load_encoder(f"clip:{clip_vit}"))
    for weight in [*other.module.parameters(), *other.projection.parameters()]:
        weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) / 20
    head = TEXTS.T, np.zeros(4, np.float32)
    return replace(interpolate((clip, head), (other, head), 1 / 3)[0], spec=clip.spec)


@pytest.fixture(scope="module")
def timm(timm_spec):
    return load_encoder(timm_spec)


def means_of(X, y):
    return normalize(np.eye(4, dtype=np.float32)[y].T @ normalize(X))


@pytest.fixture(scope="module")
def study(fruits, clip, tuned, timm):
    index = index_images(fruits)
    study = Study("some", index, make_splits(index, ["official", "by_group"]))
    means = means_of(extract_features(clip, index), study.y)
    study.ask("zero-shot", Linear((TEXTS.T, 0), (means.T, 0)), clip)
    study.ask("means", NearestMean(), clip)
    study.ask("cached", TipAdapter(TEXTS, clip.logit_scale, [0.1, 3.0], [1.0, 5.0]), clip)
    study.ask("ridge", Ridge(STRENGTHS), timm)
    study.ask("logistic", Logistic(STRENGTHS, rtol=1e-7), timm)
    between = interpolate((clip, None), (tuned, None), 0.5)[0]
    for unsaved in (
        raw_pixels(4),
        random_twin(timm),
        with_upsampling(clip, "bicubic", 20),
        between,
    ):
        study.ask("unsaved", NearestMean(), unsaved)
    study.ask("unsaved", NearestMean(), clip, shots=[1])
    study.ask("enlarged", NearestMean(), with_upsampling(timm, "lanczos"))
    for folds in study.splits.values():
        for fold in folds:
            few = few_shot_fold(index, fold, 2, 0, refit=False)
            study.ask("tuned means", NearestMean(), tuned, [few])
    study.run()
    return study


@pytest.fixture(scope="module")
def output(study, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    (output / "classifiers" / "some" / "of an earlier run").mkdir(parents=True)
    study.save(output)
    return output


def folder_of(output, method):
    (folder,) = (output / "classifiers" / "some").glob(f"{method}-*")
    return folder


@pytest.fixture
def copied(output, tmp_path):
    """A function that copies the folder of a method, to be damaged."""
    return lambda method: Path(shutil.copytree(folder_of(output, method), tmp_path / "copied"))


def test_saved_is_what_was_asked_of_encoders_that_learnt_something(output):
    methods = [folder.name.split("-")[0] for folder in (output / "classifiers" / "some").iterdir()]
    expected = ["cached", "enlarged", "logistic", "means", "ridge", "tuned", "zero"]
    assert sorted(methods) == expected


# ------------------------------------------------------------------------------- the same answers


def by_hand(method, study, clip, timm, strength):
    """Scores of a head that is fitted on all pictures, without this package's classifiers."""
    y, onehot = study.y, np.eye(4)[study.y]
    X = extract_features(clip, study.index)
    if method == "means":
        return normalize(X) @ means_of(X, y).T
    if method == "cached":
        alpha, beta = map(float, strength.split(", "))
        affinity = np.exp(-beta * (1 - cosine_similarity(X)))
        return clip.logit_scale * normalize(X) @ TEXTS.T + alpha * affinity @ onehot
    if method == "zero-shot":
        assert strength == "candidate 2"  # the first one is by chance
        return X @ means_of(X, y).T
    X = StandardScaler().fit_transform(extract_features(timm, study.index).astype(float))
    if method == "ridge":
        return linear_model.Ridge(alpha=len(X) * float(strength)).fit(X, onehot).predict(X)
    C = 1 / (len(X) * float(strength))
    fitted = linear_model.LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(X, y)
    return fitted.decision_function(X)


@pytest.mark.parametrize("method", ["zero-shot", "means", "cached", "ridge", "logistic"])
def test_probabilities_are_those_of_a_head_fitted_by_hand_on_all_pictures(
    study, output, clip, timm, method
):
    saved = ch.load_classifier(folder_of(output, method))
    told = study.answers(split="by_group", method=method, shots=None)
    chosen = Counter(told.chosen).most_common()
    assert chosen[0][0] in (None, saved.card["chosen"]) or chosen[0][1] == chosen[1][1]
    scores = by_hand(method, study, clip, timm, saved.card["chosen"])
    expected = softmax(scores / saved.card["temperature"], axis=1)
    P = saved.predict_proba(study.index)
    np.testing.assert_allclose(P, expected, atol=2e-3)
    np.testing.assert_array_equal(saved.classes_, classes(study.index))
    np.testing.assert_array_equal(saved.predict(study.index), saved.classes_[P.argmax(1)])
    paths = [Path(path) for path in study.index.path[::-1]]
    np.testing.assert_allclose(saved.predict_proba(paths), P[::-1], rtol=1e-6)


@pytest.mark.parametrize("method", ["zero-shot", "ridge", "tuned-means"])
def test_card_says_how_good_it_was_on_whole_groups_held_out(study, output, method):
    card = json.loads((folder_of(output, method) / "card.json").read_text(encoding="utf-8"))
    row = study.table(split="by_group", method=method.replace("d-m", "d m"), metric="top-1")
    names = ["split", "n", "value", "low", "high", "balanced"]
    assert card["judged"] == row.iloc[0][names].to_dict()
    told = study.answers(split="by_group", method=card["method"])
    wanted = np.full(told.scores.shape, 1 / (72 + 2) / 3)  # Platt's targets
    wanted[np.arange(72), told.y] = (72 + 1) / (72 + 2)
    temperatures = card["temperature"] * np.array([1, 1.02, 0.98])
    losses = [-(wanted * log_softmax(told.scores / T, 1)).sum(1).mean() for T in temperatures]
    assert losses[0] == min(losses)
    assert card["names"][0] == "apple red" and card["licence"] == "see where the weights came from"


def test_card_says_where_relative_weights_lie_and_their_licence(study, tmp_path, monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root / "notebooks")
    file = "data/weights/tf_efficientnet_lite0.safetensors"
    encoder = load_encoder(f"timm:tf_efficientnet_lite0@../{file}")
    index = study.index.iloc[::4].reset_index(drop=True)
    small = Study("small", index, make_splits(index, ["by_group"]))
    small.ask("means", NearestMean(), encoder)
    small.run()
    small.save(tmp_path)
    (folder,) = (tmp_path / "classifiers" / "small").iterdir()
    monkeypatch.chdir(tmp_path)
    saved = ch.load_classifier(folder)
    assert saved.card["spec"] == f"timm:tf_efficientnet_lite0@{root / file}"
    assert "Apache-2.0" in saved.card["licence"]


def test_a_fine_tuned_encoder_takes_its_weights_along(study, output, tuned, clip):
    folder = folder_of(output, "tuned-means")
    saved = ch.load_classifier(folder)
    last = few_shot_fold(study.index, study.splits["by_group"][-1], 2, 0, refit=False)
    X = extract_features(tuned, study.index)
    means = normalize(np.eye(4)[study.y[last.fit]].T @ normalize(X[last.fit]))
    expected = softmax(normalize(X) @ means.T / saved.card["temperature"], axis=1)
    np.testing.assert_allclose(saved.predict_proba(study.index), expected, atol=1e-3)
    assert saved.card["pictures"] == len(last.fit)
    plain = softmax(
        normalize(extract_features(clip, study.index)) @ means.T / saved.card["temperature"], axis=1
    )
    assert np.abs(plain - expected).max() > 0.01


def test_what_is_far_from_all_groups_but_its_own_is_unlike_anything_seen(study, output, clip, draw):
    saved = ch.load_classifier(folder_of(output, "means"))
    X = normalize(extract_features(clip, study.index))
    groups = group_of(study.index)
    nearest = [(X[groups != own] @ one).max() for one, own in zip(X, groups, strict=True)]
    rows = np.linspace(0, len(X) - 1, 1000).astype(int)
    least = np.quantile(np.array(nearest)[rows], 0.01)
    assert saved.card["threshold"] == pytest.approx(least, abs=1e-6)
    noise = [draw(f"noise{seed}.png", (90, 90), seed) for seed in range(3)]
    table = saved.describe([*noise, *study.index.path[:2]])
    pictures = pd.DataFrame({"path": map(str, noise)})
    cosines = (normalize(extract_features(clip, pictures)) @ X.T).max(1)
    np.testing.assert_allclose(table.cosine, [*cosines, 1, 1], atol=1e-3)
    unlike = table.note == "unlike anything seen"
    np.testing.assert_array_equal(unlike, table.cosine < saved.card["threshold"])
    assert not unlike[3:].any() and set(table.note) <= {"unlike anything seen", ""}


def test_of_equal_classes_the_first_is_told_and_no_second_is_made_up(study, clip):
    X, labels = extract_features(clip, study.index), np.array(ch.classes(study.index))
    means = NearestMean().fit(X[[0, 0, 20, 25]], np.array([0, 1, 2, 3]), 4)
    votes = KNearest().fit(X[:3], np.array([2, 2, 2]), 4)
    votes.candidates = votes.candidates[:1]
    for head, first, second in ((means, labels[0], labels[1]), (votes, labels[2], "")):
        saved = SavedClassifier(labels, {"temperature": 1.0, "threshold": 0.0}, clip, head, X)
        table = saved.describe(study.index.path[:1])
        assert (table["class"][0], table.second[0]) == (first, second)
        assert saved.predict(study.index.path[:1])[0] == first


def test_no_pictures_are_an_error(output):
    saved = ch.load_classifier(folder_of(output, "means"))
    for ask in (saved.predict, saved.predict_proba, saved.describe):
        with pytest.raises(ValueError, match="There are no pictures"):
            ask([])


# ------------------------------------------------------------------------------- refused


def test_other_weights_are_refused_but_not_the_same_elsewhere(output, clip_vit, clip_rn, tmp_path):
    folder = folder_of(output, "zero-shot")
    with pytest.raises(EncoderError, match=f"{clip_rn} is not the encoder of .*zero-shot"):
        ch.load_classifier(folder, f"clip:{clip_rn}")
    state = torch.load(clip_vit, weights_only=True)
    state["visual.proj"] = state["visual.proj"] * 1.1
    torch.save(state, tmp_path / "changed.pt")
    with pytest.raises(EncoderError, match="changed.pt is not the encoder of"):
        ch.load_classifier(folder, f"clip:{tmp_path / 'changed.pt'}")
    moved = shutil.copy(clip_vit, tmp_path / "moved.pt")
    ch.load_classifier(folder, f"clip:{moved}")


def set_card(folder, **changes):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def set_arrays(folder, **changes):
    """Tampering by somebody who sets the card's digest right, too."""
    file = folder / "weights.safetensors"
    arrays = safetensors.numpy.load_file(file) | changes
    safetensors.numpy.save_file({k: v for k, v in arrays.items() if v is not None}, file)
    set_card(folder, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def flip(folder):
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def pickled(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(pickle.dumps({"W": Evil()}))
    set_card(folder, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


DAMAGES = {
    "no folder": shutil.rmtree,
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "one bit": flip,
    "pickled code": pickled,
    "no JSON": lambda folder: (folder / "card.json").write_text("{"),
    "no dict": lambda folder: (folder / "card.json").write_text("[]"),
    "no key": lambda folder: (folder / "card.json").write_text("{}"),
    "no means": lambda folder: set_arrays(folder, means_=None),
    "no pictures": lambda folder: set_arrays(folder, seen=None),
    "NaN": lambda folder: set_arrays(folder, means_=np.full((4, 32), np.nan, np.float32)),
    "NaN among pictures": lambda folder: set_arrays(folder, seen=np.full((9, 32), np.nan)),
    "another length": lambda folder: set_arrays(folder, means_=np.ones((4, 31), np.float32)),
    "fewer classes": lambda folder: set_arrays(folder, means_=np.ones((3, 32), np.float32)),
    "one class twice": lambda folder: set_card(folder, classes=["a", "a", "b", "c"]),
    "a temperature of text": lambda folder: set_card(folder, temperature="os.system('x')"),
    "a threshold of none": lambda folder: set_card(folder, threshold=None),
    "an unknown kind": lambda folder: set_card(folder, head={"kind": "os"}),
    "methods replaced": lambda folder: set_card(folder, head={"kind": "NearestMean", "scores": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_clear_error(copied, damage, capsys):
    folder = copied("means")
    DAMAGES[damage](folder)
    assert main(["predict", str(folder), "new.png"]) == 1
    assert f"cliphelpers: {folder} holds no classifier, or is damaged" in capsys.readouterr().err


def test_a_card_makes_no_python_file_run_unless_one_says_so(copied, tmp_path):
    folder, file = copied("means"), tmp_path / "mine.py"
    file.write_text("raise RuntimeError('executed')")
    set_card(folder, spec=f"module:{file}")
    with pytest.raises(EncoderError, match="executes that Python file: if you trust it"):
        ch.load_classifier(folder)
    with pytest.raises(RuntimeError, match="executed"):
        ch.load_classifier(folder, f"module:{file}")


def test_unreadable_pictures_are_named(output, tmp_path):
    saved = ch.load_classifier(folder_of(output, "means"))
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ImageError, match="bad.png"):
        saved.predict(tmp_path / "bad.png")


# ------------------------------------------------------------------------------- the command


def test_predict_writes_a_row_for_each_picture_of_files_folders_and_lists(
    study, output, tmp_path, capsys, monkeypatch
):
    folder, old = folder_of(output, "means"), list(study.index.path[:6])
    pictures = tmp_path / "new"
    (pictures / "deeper").mkdir(parents=True)
    shutil.copy(old[0], pictures / "deeper" / "a.jpg")
    (pictures / "bad.jpg").write_text("no picture")
    listed = [*old[1:3], old[4], old[4], str(tmp_path / "gone.png")]
    pd.DataFrame({"File name": listed, "note": "x"}).to_csv(tmp_path / "list.csv", index=False)
    places = [str(pictures), str(tmp_path / "list.csv")]
    assert main(["predict", str(folder), *places, "--output", "-"]) == 0
    table = pd.read_csv(StringIO(capsys.readouterr().out), keep_default_na=False)
    names = ["path", "class", "probability", "second", "cosine", "note"]
    assert list(table.columns) == names
    expected = [pictures / "bad.jpg", pictures / "deeper" / "a.jpg", *old[1:3], old[4], old[4]]
    assert list(table.path) == [*map(str, expected), str(tmp_path / "gone.png")]
    assert list(table.note[[0, 6]]) == ["the file is no picture", "No such file or directory"]
    assert (table["class"][[0, 6]] == "").all() and (table.note[1:6] == "").all()

    saved = ch.load_classifier(folder)
    P = saved.predict_proba(table.path[1:6].to_list())
    order = np.argsort(-P, axis=1)
    np.testing.assert_array_equal(table["class"][1:6], saved.classes_[order[:, 0]])
    np.testing.assert_array_equal(table.second[1:6], saved.classes_[order[:, 1]])
    np.testing.assert_allclose(table.probability[1:6].astype(float), P.max(1), atol=1e-4)

    monkeypatch.setattr("cliphelpers.features.encode_batch", None)  # all is known by now
    assert main(["predict", str(folder), *places, "--output", str(tmp_path / "out.csv")]) == 0
    again = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(again, table)
    monkeypatch.setattr(
        "cliphelpers.command.predict.AT_ONCE", 1
    )  # the first block has bad ones only
    assert main(["predict", str(folder), *places]) == 0
    again = pd.read_csv(StringIO(capsys.readouterr().out), keep_default_na=False)
    assert list(again.columns) == names
    words = ["path", "class", "second", "note"]  # numbers round otherwise in other batches
    pd.testing.assert_frame_equal(again[words], table[words])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_predict_leaves_an_earlier_table_as_it_was(
    study, output, tmp_path, monkeypatch, error
):
    file, pictures = tmp_path / "told.csv", list(study.index.path[:3])
    asked = ["predict", str(folder_of(output, "means")), *pictures, "--output", str(file)]
    assert main(asked) == 0
    before, describe, seen = file.read_bytes(), SavedClassifier.describe, []

    def stopping(self, paths):
        seen.extend(paths)
        if len(seen) > 1:
            raise error
        return describe(self, paths)

    monkeypatch.setattr("cliphelpers.command.predict.AT_ONCE", 1)
    monkeypatch.setattr("cliphelpers.saved.SavedClassifier.describe", stopping)
    assert main(asked) == 1 and len(seen) == 2 and file.read_bytes() == before


def test_predict_s_table_can_lie_in_a_new_folder_but_not_be_one(study, output, tmp_path, capsys):
    asked = ["predict", str(folder_of(output, "means")), study.index.path[0], "--output"]
    assert main([*asked, str(tmp_path / "new" / "told.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "new" / "told.csv")) == 1
    capsys.readouterr()
    assert main([*asked, str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.txt"])
def test_a_list_with_an_empty_cell_names_its_line(study, output, tmp_path, capsys, name):
    folder, listed = str(folder_of(output, "means")), tmp_path / name
    listed.write_text(f"path\tlabel\n{study.index.path[0]}\tx\n")
    assert main(["predict", folder, str(listed)]) == 0
    assert capsys.readouterr().out.count(study.index.path[0]) == 1
    listed.write_text(f"path\tlabel\n{study.index.path[0]}\tx\n \ty\n")
    assert main(["predict", folder, str(listed)]) == 1
    assert f"Line 3 of {listed} has no path" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["label\nx\n", "path,file\na,b\n"])
def test_a_list_without_one_column_of_paths_is_refused(output, tmp_path, capsys, content):
    (tmp_path / "list.csv").write_text(content)
    folder = str(folder_of(output, "means"))
    assert main(["predict", folder, str(tmp_path / "list.csv")]) == 1
    assert "list.csv needs one column path" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["predict", folder, str(tmp_path / "empty")]) == 1
    assert "There are no pictures in" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["nothere", "nothere.jpg", "nothere.csv"])
def test_a_place_that_does_not_exist_is_refused(output, tmp_path, capsys, study, place):
    folder, there = str(folder_of(output, "means")), study.index.path[0]
    assert main(["predict", folder, there, str(tmp_path / place)]) == 1
    said = capsys.readouterr()
    assert f"There is no {tmp_path / place}" in said.err and not said.out


def test_only_linear_heads_and_class_means_are_exported(output, tmp_path, capsys):
    file = tmp_path / "file.onnx"
    assert main(["export", str(folder_of(output, "cached")), "--onnx", str(file)]) == 1
    assert "is a TipAdapter: only linear heads and class means" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_folder_is_no_onnx_file_and_a_missing_one_is_made(output, tmp_path, capsys):
    folder, deep = str(folder_of(output, "ridge")), tmp_path / "a" / "b.onnx"
    assert main(["export", folder, "--onnx", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    assert main(["export", folder, "--onnx", str(deep)]) == 0 and deep.stat().st_size > 1000


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("method", ["zero-shot", "tuned-means", "ridge"])
def test_one_onnx_file_says_the_same(study, output, tmp_path, method):
    pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, file = folder_of(output, method), tmp_path / "file.onnx"
    assert main(["export", str(folder), "--onnx", str(file)]) == 0
    saved = ch.load_classifier(folder)
    paths = study.index.path[::7]
    pictures = np.stack([saved.encoder.preprocess(Image.open(path)) for path in paths])
    session = onnxruntime.InferenceSession(file)
    (P,) = session.run(None, {"pictures": pictures})
    names = session.get_modelmeta().custom_metadata_map["classes"]
    assert json.loads(names) == list(saved.classes_)
    # the temperature of the tiny network's nearly equal scores makes 1e-6 in them 1e-4 here
    np.testing.assert_allclose(P, saved.predict_proba(list(paths)), atol=5e-4)
