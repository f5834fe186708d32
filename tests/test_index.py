"""cliphelpers.index against layouts made here."""

import os
import unicodedata

import numpy as np
import pandas as pd
import pytest

from cliphelpers.index import (
    classes,
    group_of,
    index_images,
    prompt_names,
    summary,
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
    return list(zip(paths, index.label, index.split, index["group"], strict=True))


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
    assert list(index.columns) == ["path", "label", "split", "group"]
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
    assert set(index["group"]) == {""}


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
    with pytest.warns(UserWarning, match="No groups: .*photo.jpg is not named"):
        assert set(index_images(tmp_path)["group"]) == {""}


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

    scandir, listdir = os.scandir, os.listdir
    monkeypatch.setattr(os, "scandir", Reversed)
    monkeypatch.setattr(os, "listdir", lambda folder: sorted(listdir(folder), reverse=True))
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


def test_classes_targets_and_clips():
    rows = [("/b/0.png", "b", ""), ("/a/0.png", "a", "r0"), ("/b/1.png", "b", "r1")]
    index = pd.DataFrame(rows, columns=["path", "label", "group"])
    assert classes(index) == ["a", "b"]
    assert targets(index).tolist() == [1, 0, 1] and targets(index).dtype == np.int64
    assert list(group_of(index)) == ["/b/0.png", "a/r0", "b/r1"]


def test_summary_counts(tmp_path):
    tree(tmp_path, *(f"Training/Fig/{clip}{i}_100.jpg" for clip in ("", "r_") for i in range(3)))
    tree(tmp_path, "Training/Pear/0_100.jpg", "Test/Pear/5_100.jpg", "Test/Pear/r_6_100.jpg")
    for number, path in enumerate(sorted(tmp_path.rglob("*.jpg"))):
        path.write_text(str(number))  # no two are equal
    table = summary(index_images(tmp_path))
    assert table.to_dict("index") == {
        "test": dict(zip(table.columns, (2, 1, 2, 2, 0), strict=True)),
        "train": dict(zip(table.columns, (7, 2, 3, 1, 0), strict=True)),
        "all": dict(zip(table.columns, (9, 2, 4, 3, 0), strict=True)),
    }
    assert list(table.columns)[:4] == [
        "pictures", "classes", "groups", "pictures of the smallest class"
    ]  # fmt: skip
    tree(tmp_path / "plain", "cat/a.png")
    assert list(summary(index_images(tmp_path / "plain")).index) == ["not stated", "all"]


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
