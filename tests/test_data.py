"""cliphelpers.data against layouts made here and splits computed by hand."""

import os
import unicodedata

import numpy as np
import pandas as pd
import pytest

from cliphelpers.data import (
    by_clip,
    classes,
    clip_of,
    few_shot,
    index_images,
    make_splits,
    official,
    prompt_names,
    random,
    shared_names,
    targets,
)

NFC, NFD = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))


def tree(root, *names):
    """Make empty files, which is all that an index looks at."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def rows(index, root):
    """The index as tuples, its paths relative to the root."""
    paths = [os.path.relpath(path, root) for path in index.path]
    return list(zip(paths, index.label, index.split, index["clip"], strict=True))


# ------------------------------------------------------------------------------- the index


def test_fruits_360(tmp_path):
    tree(
        tmp_path,
        "Training/Banana/r2_7_100.jpg",
        "Training/Banana/12_100.jpg",
        "Training/Apple Red 1/r_0_100.jpg",
        "Test/Banana/3_100.jpg",
        "Test/Apple Red 1/r3_2_100.jpg",
        "readme.md",
    )
    index = index_images(tmp_path)
    assert rows(index, tmp_path) == [
        ("Test/Apple Red 1/r3_2_100.jpg", "Apple Red 1", "test", "r3"),
        ("Training/Apple Red 1/r_0_100.jpg", "Apple Red 1", "train", "r1"),
        ("Test/Banana/3_100.jpg", "Banana", "test", "r0"),
        ("Training/Banana/12_100.jpg", "Banana", "train", "r0"),
        ("Training/Banana/r2_7_100.jpg", "Banana", "train", "r2"),
    ]
    assert list(index.columns) == ["path", "label", "split", "clip"]
    assert index.attrs == {"root": str(tmp_path), "name": tmp_path.name}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("TRAIN", "Valid", "Test"),
        ("Training", "validation", "testing"),
    ],
)
def test_split_folders_in_any_case(tmp_path, names):
    tree(tmp_path, *(f"{name}/cat/{i}.png" for i, name in enumerate(names)))
    index = index_images(tmp_path)
    assert sorted(index.split) == ["test", "train", "val"]
    assert [os.path.basename(os.path.dirname(path)) for path in index.path] == ["cat"] * 3
    assert set(index["clip"]) == {""}


def test_plain_class_folders(tmp_path):
    tree(tmp_path, "dog/b.JPG", "dog/a.png", "cat/holiday/2024/c.webp", "cat/d.tiff")
    assert rows(index_images(str(tmp_path)), tmp_path) == [
        ("cat/d.tiff", "cat", "", ""),
        ("cat/holiday/2024/c.webp", "cat", "", ""),
        ("dog/a.png", "dog", "", ""),
        ("dog/b.JPG", "dog", "", ""),
    ]


def test_hidden_files_and_other_files_are_ignored(tmp_path):
    tree(tmp_path, "cat/a.png", "cat/.b.png", "cat/.thumbs/c.png", "cat/d.txt", "cat/Thumbs.db")
    tree(tmp_path, ".git/e.png", ".f.png", "notes.txt")
    assert rows(index_images(tmp_path), tmp_path) == [("cat/a.png", "cat", "", "")]


def test_spaces_unicode_and_emoji_in_names(tmp_path):
    tree(tmp_path, f"{NFD}/ü b.png", f"{NFC}/a.png", "🍌/🍌.png", "two words/it's.png")
    assert list(index_images(tmp_path).label) == ["two words", NFC, NFC, "🍌"]


def test_one_file_off_the_pattern_means_that_there_are_no_clips(tmp_path):
    tree(tmp_path, "Training/Fig/0_100.jpg", "Training/Fig/r_0_100.jpg", "Test/Fig/photo.jpg")
    with pytest.warns(UserWarning, match="No clips: .*photo.jpg is not named"):
        assert set(index_images(tmp_path)["clip"]) == {""}


def test_the_order_of_the_directory_does_not_matter(tmp_path, monkeypatch):
    names = [f"{part}/{c}/{i}.png" for part in ("train", "test") for c in "ab" for i in range(3)]
    tree(tmp_path, *names)
    expected = index_images(tmp_path)

    class Reversed:
        def __init__(self, folder):
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name)

        def __iter__(self):
            return self

        def __next__(self):
            if not self.entries:
                raise StopIteration
            return self.entries.pop()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Reversed)
    pd.testing.assert_frame_equal(index_images(tmp_path), expected)
    assert list(expected.path) == sorted(expected.path, key=lambda p: (p.split(os.sep)[-2], p))


def test_a_folder_beside_the_splits_is_left_out_with_a_warning(tmp_path):
    tree(tmp_path, "train/cat/a.png", "test/cat/b.png", "extra/cat/c.png", "more/dog/d.png")
    with pytest.warns(UserWarning, match="Left out, being no split of .*: extra, more"):
        index = index_images(tmp_path)
    assert list(index.split) == ["test", "train"]


def test_an_empty_class_folder_is_left_out_with_a_warning(tmp_path):
    tree(tmp_path, "cat/a.png", "dog/notes.txt")
    with pytest.warns(UserWarning, match="class folder .*dog is empty"):
        index = index_images(tmp_path)
    assert classes(index) == ["cat"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "No pictures in .*: expected a folder for each class"),
        (["loose.png"], "No pictures in"),
        (["train/loose.png"], "No pictures in"),
        (["test/cat/a.png"], "has a test folder but no train folder"),
        (["train/cat/a.png", "test/dog/b.png"], "The class 'dog' of .* has no training pictures"),
        (["train/cat/a.png", "val/dog/b.png"], "The class 'dog' of .* has no training pictures"),
    ],
)
def test_folders_without_a_meaning(tmp_path, names, message):
    tree(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        index_images(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder or CSV file .*absent"):
        index_images(tmp_path / "absent")


def test_the_name_of_an_index_is_that_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tree(tmp_path / "fruits.v2", "cat/a.png"))
    assert index_images(tmp_path / "fruits.v2").attrs["name"] == "fruits.v2"
    assert index_images(".").attrs["name"] == "fruits.v2"


def manifest(tmp_path, text):
    tree(tmp_path, "a.png", "deep er/b.png", "c.png")
    file = tmp_path / "pets.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_manifest(tmp_path):
    lines = ["label,path,clip,split", "dog,a.png,film 1,test", f"{NFD},c.png,,train"]
    lines += ["dog,deep er/b.png,x,train"]
    index = index_images(manifest(tmp_path, "\n".join(lines)))
    assert rows(index, tmp_path) == [
        ("a.png", "dog", "test", "film 1"),
        ("deep er/b.png", "dog", "train", "x"),
        ("c.png", NFC, "train", ""),
    ]
    assert index.attrs == {"root": str(tmp_path), "name": "pets"}


def test_manifest_of_two_columns_with_an_absolute_path_and_labels_that_look_like_numbers(tmp_path):
    index = index_images(manifest(tmp_path, f"path,label\n{tmp_path / 'a.png'},007\nc.png,NA\n"))
    assert rows(index, tmp_path) == [("a.png", "007", "", ""), ("c.png", "NA", "", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pets.csv is no CSV table"),
        ("path,label\na.png,cat\nc.png,dog,3,4\n", "pets.csv is no CSV table"),
        ("path,label\n", "pets.csv lists no pictures"),
        ("file,class\na.png,cat\n", "has no column label and path"),
        ("path\na.png\n", "has no column label"),
        ("path,label,weight\na.png,cat,3\n", "has unknown columns .'weight'."),
        ("path,label\na.png,cat\nc.png,\n", "Line 3 of the manifest .* has no label"),
        ("path,label\n,cat\n", "Line 2 of the manifest .* has no path"),
        ("path,label,split\na.png,cat,holdout\n", "has the split 'holdout': use train, val or tes"),
        ("path,label\na.png,cat\na.png,dog\n", "lists a.png more than once"),
        ("path,label,split\na.png,cat,train\nc.png,dog,test\n", "'dog' of .* has no training"),
        ("path,label,split\na.png,cat,train\nc.png,dog,\n", "'dog' of .* has no training"),
    ],
)
def test_faulty_manifests(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        index_images(manifest(tmp_path, text))


def test_a_picture_that_is_given_as_manifest(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.png is no CSV table"):
        index_images(tmp_path / "a.png")


def test_manifest_with_missing_pictures(tmp_path):
    file = manifest(tmp_path, "path,label\na.png,cat\ngone.png,cat\nlost.png,cat\n")
    with pytest.raises(FileNotFoundError, match="2 pictures of .* do not exist, first .*gone.png"):
        index_images(file)


# ------------------------------------------------------------------------------- splits


def index_of(*groups):
    """An index of (label, split, clip, number of pictures) groups, in that order."""
    made = [
        (f"/data/{label}/{split}{clip}-{i}.png", label, split, clip)
        for label, split, clip, count in groups
        for i in range(count)
    ]
    index = pd.DataFrame(made, columns=["path", "label", "split", "clip"])
    index.attrs = {"root": "/data", "name": "data"}
    return index


def counts(index, positions):
    return index.label.iloc[positions].value_counts().to_dict()


def clips(index, positions):
    return set(clip_of(index)[positions])


def equal_folds(one, other):
    parts = ("train", "val", "test")
    return all(
        np.array_equal(getattr(a, part), getattr(b, part))
        for a, b in zip(one, other, strict=True)
        for part in parts
    )


def test_classes_targets_and_clips():
    index = index_of(("b", "", "", 1), ("a", "", "r0", 1), ("b", "", "r1", 1))
    assert classes(index) == ["a", "b"]
    assert targets(index).tolist() == [1, 0, 1] and targets(index).dtype == np.int64
    assert list(clip_of(index)) == ["/data/b/-0.png", "a/r0", "b/r1"]


def test_official_takes_whole_clips_for_validation():
    index = index_of(
        ("apple", "train", "r0", 3),  # rows 0 to 2
        ("apple", "train", "r1", 2),  # rows 3 and 4
        ("apple", "test", "r0", 2),  # rows 5 and 6
        ("fig", "train", "r0", 4),  # rows 7 to 10: a single clip stays in training
        ("fig", "test", "r0", 1),  # row 11
    )
    drawn = set()
    for seed in range(20):
        (fold,) = official(index, seed)
        assert fold.test.tolist() == [5, 6, 11]
        assert fold.fit.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10]
        drawn.add((tuple(fold.train), tuple(fold.val)))
    rest = (7, 8, 9, 10)
    assert drawn == {((0, 1, 2, *rest), (3, 4)), ((3, 4, *rest), (0, 1, 2))}


def test_official_without_clips_takes_a_fifth_of_every_class():
    sizes = {"a": 1, "b": 2, "c": 3, "d": 10, "e": 13}
    groups = [(label, "train", "", size) for label, size in sizes.items()]
    index = index_of(*groups, *((label, "test", "", 1) for label in sizes))
    (fold,) = official(index)
    assert counts(index, fold.val) == {"b": 1, "c": 1, "d": 2, "e": 3}  # 13 / 5 = 2.6
    assert counts(index, fold.train) == {"a": 1, "b": 1, "c": 2, "d": 8, "e": 10}
    assert fold.test.tolist() == list(range(29, 34))


def test_official_with_a_validation_folder_keeps_it():
    index = index_of(
        ("a", "val", "r0", 2),
        ("a", "train", "r0", 3),
        ("a", "train", "r1", 1),
        ("a", "test", "", 1),
    )
    (fold,) = official(index)
    assert (fold.train.tolist(), fold.val.tolist(), fold.test.tolist()) == (
        [2, 3, 4, 5],
        [0, 1],
        [6],
    )


def test_official_needs_a_test_part():
    with pytest.raises(ValueError, match="no official test part: use the split by_clip or random"):
        official(index_of(("a", "train", "", 3)))


def test_by_clip_by_hand():
    index = index_of(
        ("apple", "train", "r0", 2),  # rows 0 and 1, fold 0
        ("apple", "test", "r1", 1),  # row 2, fold 1
        ("fig", "train", "r0", 1),  # row 3, fold 1: the second class begins there
        ("fig", "train", "r1", 1),  # row 4, fold 0
        ("fig", "train", "r2", 1),  # row 5, fold 1
        ("pear", "train", "r0", 2),  # rows 6 and 7: a single clip stays in training
    )
    first, second = by_clip(index)  # as many folds as apple has clips
    assert first.test.tolist() == [0, 1, 4]
    assert second.test.tolist() == [2, 3, 5]
    # In the first fold fig has r0 and r2 left: one of them validates, whole.
    assert first.val.tolist() in ([3], [5])
    assert first.fit.tolist() == [2, 3, 5, 6, 7]
    # In the second no class has two clips left, so a fifth of each with two pictures validates.
    assert counts(index, second.val) == {"apple": 1, "pear": 1}
    assert second.fit.tolist() == [0, 1, 4, 6, 7]


def random_index(seed):
    """Up to 8 classes of 1 to 5 clips of 1 to 6 pictures, official test frames in every clip."""
    rng = np.random.default_rng(seed)
    groups = [("two", "train", "r0", 2), ("two", "test", "r1", 2)]
    for label in range(rng.integers(1, 8)):
        for clip in range(rng.integers(1, 6)):
            size = int(rng.integers(1, 7))
            groups += [
                (f"c{label}", "train", f"r{clip}", size),
                (f"c{label}", "test", f"r{clip}", 1),
            ]
    return index_of(*groups).sample(frac=1, random_state=seed).reset_index(drop=True)


@pytest.mark.parametrize("seed", range(10))
def test_by_clip_tests_every_clip_once_and_keeps_one_for_training(seed):
    index = random_index(seed)
    folds = by_clip(index, seed)
    several = index.groupby("label")["clip"].transform("nunique") > 1
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(np.flatnonzero(several))
    for fold in folds:
        assert set(index.label.iloc[fold.train]) == set(index.label)
        assert not clips(index, fold.test) & clips(index, fold.fit)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("split", [official, by_clip, random])
def test_parts_are_disjoint_and_validation_is_whole_clips_out_of_training(split, seed):
    index = random_index(seed)
    for fold in split(index, seed):
        both = np.concatenate([fold.fit, fold.test])
        assert len(set(both)) == len(both) == len(index)
        assert len(fold.val) and np.array_equal(fold.fit, np.union1d(fold.train, fold.val))
        left = index.iloc[fold.fit].groupby("label")["clip"].nunique()
        if (left > 1).any():
            assert not clips(index, fold.val) & clips(index, fold.train)
            assert len(clips(index, fold.val)) == (left > 1).sum()  # one clip of each such class
    assert equal_folds(split(index, seed), split(index, seed))


def test_by_clip_needs_two_clips_of_a_class():
    with pytest.raises(ValueError, match="No class has two clips"):
        by_clip(index_of(("a", "", "r0", 3), ("b", "", "", 3)))


def test_random_is_stratified():
    sizes = {"a": 1, "b": 2, "c": 8, "d": 10, "e": 40}
    index = index_of(*((label, "", "", size) for label, size in sizes.items()))
    (fold,) = random(index, seed=1)
    assert counts(index, fold.test) == {"b": 1, "c": 2, "d": 2, "e": 10}
    assert counts(index, fold.val) == {"c": 1, "d": 2, "e": 6}  # a fifth of what is left
    assert counts(index, fold.train) == {"a": 1, "b": 1, "c": 5, "d": 6, "e": 24}
    assert equal_folds([fold], random(index, seed=1))
    assert not equal_folds([fold], random(index, seed=2))


def test_make_splits_gives_those_that_are_possible():
    index = index_of(("a", "train", "", 8), ("a", "test", "", 2))
    with pytest.warns(UserWarning, match="Without the split by_clip. No class has two clips"):
        splits = make_splits(index, ["official", "by_clip", "random"])
    assert list(splits) == ["official", "random"]
    assert equal_folds(splits["official"], official(index))


def test_make_splits_falls_back_to_random():
    index = index_of(("a", "", "", 8))
    with pytest.warns(UserWarning, match="Without the split official. There is no official test"):
        splits = make_splits(index, ["official"])
    assert list(splits) == ["random"]


def test_make_splits_refuses_an_unknown_name():
    with pytest.raises(
        ValueError, match="Unknown split 'clips': use some of official, by_clip, ra"
    ):
        make_splits(index_of(("a", "", "", 8)), ["clips"])


# ------------------------------------------------------------------------------- few-shot


def drawn(index, k, seed=0):
    """The pictures that few_shot draws, relative to the root."""
    picked, _ = few_shot(index, k, seed)
    return [os.path.relpath(path, index.attrs["root"]) for path in index.path.iloc[picked]]


def test_few_shot_is_nested_and_takes_k_of_every_class():
    index = index_of(("a", "", "", 30), ("b", "", "", 20))
    for seed in range(5):
        fewer = set()
        for k in (1, 2, 4, 8, 16):
            picked, short = few_shot(index, k, seed)
            assert counts(index, picked) == {"a": k, "b": k} and short == {}
            assert np.array_equal(picked, np.unique(picked)) and fewer <= set(picked)
            fewer = set(picked)


def test_few_shot_says_which_classes_are_short():
    index = index_of(("a", "", "", 3), ("b", "", "", 5), ("c", "", "", 1), ("d", "", "", 4))
    picked, short = few_shot(index, 4)
    assert short == {"a": 3, "c": 1}
    assert counts(index, picked) == {"a": 3, "b": 4, "c": 1, "d": 4}


def test_few_shot_seeds_differ():
    index = index_of(("a", "", "", 50))
    assert len({tuple(few_shot(index, 5, seed)[0]) for seed in range(10)}) == 10


def test_few_shot_takes_pictures_evenly():
    index = index_of(("a", "", "", 4))
    taken = np.bincount([few_shot(index, 1, seed)[0][0] for seed in range(400)], minlength=4)
    assert taken.min() > 65  # 100 expected with a standard deviation of 8.7


def test_few_shot_is_the_same_on_every_machine():
    # The k pictures with the smallest SHA-256 of seed, label and path below the root.
    index = index_of(("Apple Red 1", "", "", 12), (NFC, "", "", 12))
    assert drawn(index, 2, seed=0) == [
        "Apple Red 1/-2.png",
        "Apple Red 1/-9.png",
        "Äpfel/-4.png",
        "Äpfel/-8.png",
    ]


def test_few_shot_follows_a_moved_and_renamed_folder_and_any_order_of_rows(tmp_path):
    names = [f"train/{label}/{i}.png" for label in ("cat", NFC) for i in range(20)]
    here = tree(tmp_path / "here", *names)
    before = drawn(index_images(here), 3)
    there = tmp_path / "a new" / "place"
    there.parent.mkdir()
    here.rename(there)
    index = index_images(there)
    assert drawn(index, 3) == before
    assert sorted(drawn(index.iloc[::-1], 3)) == sorted(before)
    assert drawn(index[index.label == "cat"], 3) == before[:3]


@pytest.mark.parametrize("k", [0, -1])
def test_few_shot_refuses_less_than_one(k):
    with pytest.raises(ValueError, match=f"at least 1 picture a class, not {k}"):
        few_shot(index_of(("a", "", "", 3)), k)


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Apple Golden 1", "apple golden"),
        ("golden_retriever", "golden retriever"),
        ("  Tomato   Cherry Red ", "tomato cherry red"),
        ("Boeing 747 8", "boeing 747"),
        ("7", "7"),
        ("Pepper2", "pepper2"),
        ("_", "_"),
        (NFC, NFC.lower()),
        ("🍌", "🍌"),
    ],
)
def test_prompt_names_by_rule(label, name):
    assert prompt_names([label]) == [name]


def test_the_table_goes_before_the_rule(tmp_path):
    table = tmp_path / "names.csv"
    table.write_text("label,name\nApple Golden 1,golden apple\nunused,thing\n")
    labels = ["Fig 1", "Apple Golden 1", "Apple Golden 2"]
    assert prompt_names(labels, table) == ["fig", "golden apple", "apple golden"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,words\na,b\n", "must have the columns label,name"),
        ("label,name\nfig,\n", "has no name for 'fig'"),
        ("label,name\nplum,plum\nfig,  \n", "has no name for 'fig'"),
    ],
)
def test_faulty_tables(tmp_path, text, message):
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        prompt_names(["fig"], tmp_path / "names.csv")


def test_shared_names():
    labels = ["Apple Red 1", "Fig", "Apple Red 2", "Plum", "Plum 3"]
    assert shared_names(labels, prompt_names(labels)) == {
        "apple red": ["Apple Red 1", "Apple Red 2"],
        "plum": ["Plum", "Plum 3"],
    }
    assert shared_names(["a", "b"], ["x", "y"]) == {}
