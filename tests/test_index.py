"""cliphelpers.index against layouts made here."""

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliphelpers.index import (
    classes,
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
    assert index.attrs == {"root": str(tmp_path), "name": tmp_path.name, "shared": False}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("TRAIN", "Valid", "Test"),
        ("Training", "validation", "testing"),
        ("training_set", "validation_set", "test_set"),
        ("train_images", "dev_images", "test"),
        ("TrainSet", "ValSet", "TestSet"),
        ("trainset", "valset", "testdata"),
        ("train2017", "val2017", "test2017"),
        ("Train Data", "eval-data", "Validation Data"),
        ("train_imgs", "valid_pics", "test_folder"),
        ("train224x224", "val224x224", "test224x224"),
        ("fruits_train", "fruits_valid", "fruits_test"),
        ("1 früchte training", "2 früchte dev", "3 früchte evaluation"),
    ],
)
def test_usual_names_of_parts(tmp_path, names):
    tree(tmp_path, *(f"{name}/{label}/{name}.png" for name in names for label in ("cat", "dog")))
    index = index_images(tmp_path)
    found = [(path.split(os.sep)[-3], split) for path, _, split, _ in rows(index, tmp_path)]
    assert (names[0], "train") in found and len(found) == 6 and len(set(found)) == 3
    assert set(index.split) == {"train", "val", "test"} and classes(index) == ["cat", "dog"]


@pytest.mark.parametrize(
    "names",
    [
        ["train", "bus", "car"],
        ["test", "control", "reference"],
        ["training shoe", "test tube", "val d'isère"],
        ["bullet_train", "freight_train", "tram"],
        ["Validation stamp", "Train station", "Test pattern", "evaluation board"],
        ["trainer", "tester", "developer", "valley"],
        ["data", "images", "sets"],
        ["sunset", "dataset", "contest"],
    ],
)
def test_no_ordinary_class_is_taken_for_a_part(tmp_path, names):
    tree(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)))
    index = index_images(tmp_path)
    assert classes(index) == sorted(names) and set(index.split) == {""}


def test_of_two_families_of_parts_the_plain_one_is_taken(tmp_path):
    pairs = [("train_masks", "test_masks"), ("train_images", "test_images")]
    tree(tmp_path, *(f"{name}/{c}/1.png" for pair in pairs for name in pair for c in "ab"))
    with pytest.warns(
        UserWarning, match="left out, in no class folder of test_images, train_im.*4"
    ):
        index = index_images(tmp_path)
    assert {path.split(os.sep)[-3] for path in index.path} == set(pairs[1])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["wrap/cat/1.png", "wrap/dog/2.png"], "wrap"),
        (["a/b/cat/1.png", "a/b/dog/2.png"], "a/b"),
        (
            ["fruits/Training/fig/1.png", "fruits/Test/fig/2.png", "fruits/Test/kiwi/1.png"],
            "fruits",
        ),
        (["old/cat/1.png", "new/cat/1.png", "new/dog/2.png", "notes/1.png"], "new"),
        (["train/cat/1.png", "train/dog/1.png", "extra/1.png"], "train"),
        (["train/train/cat/1.png", "train/train/dog/1.png"], "train/train"),
        (["Übung/cat/1.png", "Übung/dog/1.png", "Prüfung/cat/1.png"], "Übung"),
        (["pics/train/cat/1.png", "pics/train/dog/1.png", "pics/test/dog/2.png"], "pics"),
    ],
)
def test_a_folder_one_level_too_high_is_refused_with_the_one_that_was_meant(tmp_path, given, meant):
    tree(tmp_path, *given)
    with pytest.raises(ValueError, match=f"hold no pictures but .* Was {tmp_path / meant} meant"):
        index_images(tmp_path)


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Dev"), ("a_train", "a_valid")])
def test_val_without_test_is_what_is_tested(tmp_path, names):
    tree(tmp_path, *(f"{name}/{c}/{i}.png" for name in names for c in "ab" for i in range(2)))
    with pytest.warns(UserWarning, match="tested though called val, as it has no test part: 4"):
        index = index_images(tmp_path)
    assert index.groupby("split").size().to_dict() == {"test": 4, "train": 4}
    assert all(
        (names[0] in path) == (split == "train") for path, split in index[["path", "split"]].values
    )


def test_train_alone_states_no_test(tmp_path):
    tree(tmp_path, "train/cat/1.png", "train/dog/1.png")
    (tmp_path / "test").mkdir()
    assert set(index_images(tmp_path).split) == {"train"}


def test_plain_class_folders(tmp_path):
    tree(tmp_path, "dog/b.JPG", "dog/a.png", "cat/holiday/2024/c.webp", "cat/d.tiff")
    assert rows(index_images(str(tmp_path)), tmp_path) == [
        ("cat/d.tiff", "cat", "", ""),
        ("cat/holiday/2024/c.webp", "cat", "", ""),
        ("dog/a.png", "dog", "", ""),
        ("dog/b.JPG", "dog", "", ""),
    ]


def test_what_systems_make_for_themselves_is_no_data(tmp_path):
    tree(tmp_path, "cat/a.png", "dog/b.png")
    tree(tmp_path, "cat/.b.png", "cat/._a.png", "cat/.thumbnails/c.png", "cat/.DS_Store")
    tree(tmp_path, "@eaDir/a/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg")
    tree(tmp_path, "__MACOSX/cat/._a.png", "__MACOSX/b.png", "#recycle/d.png", "@Recycle/d.png")
    tree(tmp_path, "$RECYCLE.BIN/d.png", "System Volume Information/x", "lost+found/e.png")
    tree(tmp_path, "cat/Thumbs.db", "dog/desktop.ini", "dog/Icon\r", "ehthumbs.db")
    tree(tmp_path, ".git/e.png", ".f.png", ".ipynb_checkpoints/g.png")
    assert rows(index_images(tmp_path), tmp_path) == [
        ("cat/a.png", "cat", "", ""),
        ("dog/b.png", "dog", "", ""),
    ]


@pytest.mark.parametrize("name", ["#1", "$5", "@home", "_background", "thumbs up", "system"])
def test_classes_with_such_marks_are_data(tmp_path, name):
    tree(tmp_path, f"{name}/a.png", "z/b.png")
    assert classes(index_images(tmp_path)) == sorted([name, "z"])


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (
            ["cat/notes.txt", "labels.csv", "dog/clip.mp4"],
            "Files left out, no pictures: 3, such as",
        ),
        (["1.png", "2.png"], "Pictures left out, in no class folder: 2, such as .*1.png"),
        (["bird/notes"], "Class folders left out, without a picture: 1, such as .*bird"),
    ],
)
def test_what_is_left_out_of_class_folders_is_counted_and_said(tmp_path, names, warning):
    tree(tmp_path, "cat/a.png", "dog/b.png", *names)
    with pytest.warns(UserWarning) as told:
        index = index_images(tmp_path)
    assert len([one for one in told if re.match(warning, str(one.message))]) == 1
    assert len(told) == (2 if "bird/notes" in names else 1)
    assert [path.split(os.sep)[-2:] for path in index.path] == [["cat", "a.png"], ["dog", "b.png"]]


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["extra/cat/c.png", "more/dog/d.png"], 2),
        (["test/1.png", "test/2.png", "test/3.png"], 3),  # as Kaggle's unlabelled ones
        (["loose.png", "train/loose.png"], 2),
        (["test-multiple_fruits/1.jpg", "papers/pics/2.png", "val/3.png", "4.png"], 4),
    ],
)
def test_what_is_left_out_beside_parts_is_counted_and_said(tmp_path, names, count):
    tree(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/cat/e.png", *names)
    with pytest.warns(UserWarning, match=f"out, in no class folder of .*train.*: {count}, such as"):
        index = index_images(tmp_path)
    assert index.groupby("split").size().to_dict() == {"train": 2, "test": 1}


def test_test_pictures_without_labels_leave_val_to_be_tested(tmp_path):
    tree(tmp_path, *(f"{part}/{c}/1.png" for part in ("train", "val") for c in "ab"), "test/1.png")
    with (
        pytest.warns(UserWarning, match="out, in no class folder of test, train, val: 1, such as"),
        pytest.warns(UserWarning, match="tested though called val"),
    ):
        assert set(index_images(tmp_path).split) == {"train", "test"}


def test_spaces_unicode_and_emoji_in_names(tmp_path):
    tree(tmp_path, f"{NFD}/ü b.png", f"{NFC}/a.png", "🍌/🍌.png", "two words/it's.png")
    assert list(index_images(tmp_path).label) == ["two words", NFC, NFC, "🍌"]


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("12_100.jpg", "r0"),
        ("r_12_100.jpg", "r1"),
        ("r2_12_100.jpg", "r2"),
        ("R3_12_100.JPG", "r3"),
        ("r0_3.jpg", "r0"),
        ("r1_3_100.jpg", "r1"),
        ("r10_255.png", "r10"),
        ("r2_3_original.jpg", "r2"),
        ("r1_3_50.jpg", "r1"),
        ("3_50.jpg", "r0"),
        ("3.jpg", "r0"),
    ],
)
def test_the_clips_of_every_edition_of_fruits_360_in_one_class(tmp_path, name, clip):
    others = ["r0_1.jpg", "1_100.jpg", "r_1_100.jpg", "r1_2.jpg"]
    tree(
        tmp_path,
        f"Fig/{name}",
        *(f"{label}/{other}" for label in ("Fig", "Kiwi") for other in others),
    )
    index = index_images(tmp_path)
    assert index["group"][index.path == str(tmp_path / "Fig" / name)].item() == clip
    assert list(index["group"][index.label == "Kiwi"]) == ["r0", "r0", "r1", "r1"]


def test_numbers_alone_are_of_clip_r0_beside_as_many_that_are_not(tmp_path):
    tree(tmp_path, *(f"{c}/{clip}{i}.jpg" for c in "ab" for clip in ("", "r_") for i in range(3)))
    assert index_images(tmp_path)["group"].value_counts().to_dict() == {"r0": 6, "r1": 6}


@pytest.mark.parametrize("odd", ["IMG_1234.jpg", "photo.jpg", "r2-7_100.jpg"])
def test_one_odd_name_of_96_is_said_and_has_no_group(tmp_path, odd):
    names = [f"{clip}{i}_100.jpg" for clip in ("", "r_", "r2_") for i in range(16)]
    tree(tmp_path, *(f"{c}/{name}" for c in ("Fig", "Kiwi") for name in names[c == "Fig" :]))
    tree(tmp_path, f"Fig/{odd}")
    with pytest.warns(UserWarning, match=f"Pictures without a group, .*: 1, such as .*{odd}"):
        index = index_images(tmp_path)
    assert len(index) == 96
    assert index["group"].value_counts().to_dict() == {"r1": 32, "r2": 32, "r0": 31, "": 1}


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.jpg", "3.jpg", "r_4.jpg"],
        ["0001_1.jpg", "0001_2.jpg", "0002_1.jpg"],
        ["IMG_1.jpg", "IMG_2.jpg", "r1_1.jpg", "DSC_3.jpg"],
        ["1_640.jpg", "2_640.jpg"],
        ["room1_1.jpg", "room2_2.jpg"],
    ],
)
def test_numbered_pictures_of_other_kinds_have_no_groups(tmp_path, names):
    tree(tmp_path, *(f"{label}/{name}" for label in ("cat", "dog") for name in names))
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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class folder with pictures to learn from .0 pictures in all.: expected a folder"),
        (["loose.png"], "no class folder with pictures to learn from .1 pictures in all."),
        (["train/loose.png"], "no class folder with pictures to learn from .1"),
        (
            ["train/1.png", "test/2.png", "test/3.png"],
            "no class folder with pictures .*.3 pictures",
        ),
        (
            ["training_set/1.png", "test_set/2.png"],
            "no class folder with pictures to learn from .2",
        ),
        (["test/cat/a.png", "test/dog/b.png"], "no class folder with pictures to learn from .2"),
        (["train/cat/a.png", "test/dog/b.png"], "The class 'dog' of .* has no training pictures"),
        (["train/cat/a.png", "val/dog/b.png"], "The class 'dog' of .* has no training pictures"),
        (["cat/a.png"], "are of one class, 'cat': there must be two to tell. Give the folder that"),
        (["images/1.png", "images/2.png"], "are of one class, 'images': there must be two"),
        (["train/cat/a.png", "test/cat/b.png"], "are of one class, 'cat': there must be two"),
    ],
)
def test_folders_without_a_meaning(tmp_path, names, message):
    tree(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        index_images(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder or CSV file .*absent"):
        index_images(tmp_path / "absent")


def test_an_empty_text_is_not_the_current_folder(tmp_path, monkeypatch):
    """As of a shell's variable that is not set."""
    tree(tmp_path, "cat/a.png", "dog/b.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder or CSV file ''"):
        index_images("")


def test_the_name_of_an_index_is_that_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tree(tmp_path / "fruits.v2", "cat/a.png", "dog/b.png"))
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
    assert index.attrs == {"root": str(tmp_path), "name": "pets", "shared": True}


def test_manifest_of_two_columns_with_an_absolute_path_and_labels_that_look_like_numbers(tmp_path):
    index = index_images(manifest(tmp_path, f"path,label\n{tmp_path / 'a.png'},007\nc.png,NA\n"))
    assert rows(index, tmp_path) == [("a.png", "007", "", ""), ("c.png", "NA", "", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pets.csv is no CSV table"),
        (",,\n,,\n", "pets.csv is empty"),
        ("path,label\na.png,cat\nc.png,dog,3,4\n", "pets.csv is no CSV table"),
        ("path,label\n", "pets.csv lists no pictures"),
        ("what,which\na.png,cat\n", "has no column label and path"),
        ("path\na.png\n", "has no column label"),
        ("path,label,weight\na.png,cat,3\n", "has unknown or repeated columns .'weight'."),
        ("path,label\na.png,cat\nc.png,\n", "Line 3 of the manifest .* has no label"),
        ("path,label\n,cat\n", "Line 2 of the manifest .* has no path"),
        ("path,label,split\na.png,cat,holdout\n", "has the split 'holdout': use train, val or tes"),
        ("path,label,split\na.png,cat,train\nc.png,dog,test\n", "'dog' of .* has no training"),
        ("path,label,split\na.png,cat,train\nc.png,dog,\n", "Line 3 of .* has no split"),
        ("path,label\n\na.png,cat\nc.png\n", "Line 4 of the manifest .* has no label"),
        (
            "path,label\na.png,cat, small\nc.png,dog\n",
            "no CSV table .* Expected 2 fields in line 2",
        ),
        ('path,label\na.png,"cat\n', "pets.csv is no CSV table"),
        ('path,label\n"a.png,cat\nc.png,"dog"\n', "Line 2 of .* ends within quotes: close them"),
        ('path,label\na.png,cat\nc.png,"dog\nb.png,"cat"\n', "Line 3 of .* within quotes"),
        ("path,image,label\na.png,a.png,cat\n", "unknown or repeated columns .'path'."),
        ("path,label\na.png,cat\nc.png,cat\n", "pets.csv are of one class, 'cat'"),
    ],
)
def test_faulty_manifests(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        index_images(manifest(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("path,label\na.png,cat\n./a.png,dog\n", "cat and as dog"),
        ("path,label\na.png,cat\na.png,dog\n", "cat and as dog"),
        ("path,label,split\na.png,x,train\ndeep er/../a.png,x,test\n", "x, train and as x, test"),
        ("path,label,group\na.png,cat,one\n.//a.png,cat,two\n", "cat, one and as cat, two"),
    ],
)
def test_a_picture_with_contradictory_lines_is_refused(tmp_path, text, more):
    with pytest.raises(ValueError, match=f"pets.csv lists .*/a.png more than once, as {more}$"):
        index_images(manifest(tmp_path, text))


@pytest.mark.parametrize(
    "again", ["a.png,cat", "./a.png,cat", "deep er/../a.png,cat", ".//a.png, cat"]
)
def test_a_line_that_repeats_another_is_read_once_and_said(tmp_path, again):
    file = manifest(tmp_path, f"path,label\na.png,cat\n{again}\nc.png,dog\n")
    with pytest.warns(
        UserWarning, match="Lines of .*pets.csv that repeat another one, .*: 1, such"
    ):
        assert rows(index_images(file), tmp_path) == [
            ("a.png", "cat", "", ""),
            ("c.png", "dog", "", ""),
        ]


@pytest.mark.parametrize(
    "text",
    [
        "path;label;split;group\na.png;cat, small;train;x\nc.png;dog;train;\n",
        'path\tlabel\tsplit\tgroup\na.png\t"cat, small"\ttrain\tx\nc.png\tdog\ttrain\t\n',
        "path|label|split|group\r\na.png|cat, small|train|x\r\nc.png|dog|train|\r\n",
        '\ufeffpath,label,split,group\na.png,"cat, small",train,x\nc.png,dog,train,\n',
        'file_name, label, split, group\na.png, "cat, small", Train, x\nc.png, dog, training,\n',
        'Image Path,Class,Split,clip\na.png,"cat, small",train,x\nc.png,dog,train_set,\n',
        ',filename,category,subset,group\n0,a.png,"cat, small",TRAIN,x\n1,c.png,dog,train,\n\n',
        'label,image,split,group\n"cat, small",./a.png,train,x\ndog,.\\c.png,train,\n,,,\n',
    ],
)
def test_manifests_as_people_and_programs_write_them(tmp_path, text):
    assert rows(index_images(manifest(tmp_path, text)), tmp_path) == [
        ("a.png", "cat, small", "train", "x"),
        ("c.png", "dog", "train", ""),
    ]


@pytest.mark.parametrize(
    "path",
    [r"deep er\b.png", r".\deep er\b.png", r"deep er\..\deep er/b.png", "deep er/b.png  "],
)
def test_backslashes_and_spaces_at_the_ends_lead_to_the_picture(tmp_path, path):
    file = manifest(tmp_path, f"path,label\na.png,cat\n{path},dog\n")
    assert list(index_images(file).path)[1] == str(tmp_path / "deep er" / "b.png")


@pytest.mark.skipif(os.sep == "\\", reason="no name of a file on Windows")
def test_a_name_with_a_backslash_is_that_name(tmp_path):
    tree(tmp_path, "deep er\\b.png")
    file = manifest(tmp_path, "path,label\na.png,cat\ndeep er\\b.png,dog\n")
    assert list(index_images(file).path)[1] == str(tmp_path / "deep er\\b.png")


@pytest.mark.parametrize("label", ["cat ", "cat\t", "cat\u00a0", '" cat"', "cat  "])
def test_spaces_around_labels_make_no_second_class_and_are_said(tmp_path, label):
    file = manifest(tmp_path, f"path,label\na.png,cat\nc.png,{label}\ndeep er/b.png,dog\n")
    with pytest.warns(
        UserWarning, match="Labels of .*pets.csv read without the spaces .*: 1, such"
    ):
        assert list(index_images(file).label) == ["cat", "cat", "dog"]


@pytest.mark.parametrize("val", ["val", "Validation", "dev_set"])
def test_a_manifest_s_val_without_test_is_what_is_tested(tmp_path, val):
    lines = ["path,label,split", "a.png,cat,train", "c.png,dog,train", f"deep er/b.png,dog,{val}"]
    with pytest.warns(UserWarning, match="Pictures of .*pets.csv tested though called val.*: 1"):
        index = index_images(manifest(tmp_path, "\n".join(lines)))
    assert list(index.split) == ["train", "train", "test"]


def test_a_picture_that_is_given_as_manifest(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.png is no CSV table"):
        index_images(tmp_path / "a.png")


def test_manifest_with_missing_pictures(tmp_path):
    file = manifest(tmp_path, "path,label\na.png,cat\ngone.png,cat\nlost.png,cat\n")
    with pytest.raises(FileNotFoundError, match="2 pictures of .* do not exist, first .*gone.png"):
        index_images(file)


def test_classes_and_targets():
    rows = [("/b/0.png", "b", ""), ("/a/0.png", "a", "r0"), ("/b/1.png", "b", "r1")]
    index = pd.DataFrame(rows, columns=["path", "label", "group"])
    assert classes(index) == ["a", "b"]
    assert targets(index).tolist() == [1, 0, 1] and targets(index).dtype == np.int64


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
    tree(tmp_path / "plain", "cat/a.png", "dog/b.png")
    (tmp_path / "plain" / "cat" / "a.png").write_text("no copy")
    assert list(summary(index_images(tmp_path / "plain")).index) == ["not stated", "all"]


@pytest.mark.parametrize("shared", [True, False])
def test_summary_counts_groups_that_classes_share_once_and_rows_by_their_places(tmp_path, shared):
    tree(tmp_path, *(f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)))
    for number, path in enumerate(sorted(tmp_path.rglob("*.png"))):
        path.write_text(str(number))
    index = index_images(tmp_path)
    index["group"], index.attrs["shared"] = ["mon", "tue"] * 4, shared
    halves = pd.concat([index[:4], index[4:].reset_index(drop=True)])  # numbers 0 to 3 twice
    halves.attrs = index.attrs
    for one in (index, halves):
        row = summary(one).loc["all"]
        assert row.tolist() == [8, 2, 2 if shared else 4, 4, 0]


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


@pytest.mark.parametrize(
    "text",
    [
        "label,name\nApple Golden 1,golden apple\n",
        "label;name\nApple Golden 1;golden apple\n",
        "\ufeffname\tlabel\ngolden apple\tApple Golden 1\n",
        '\ufeff"label";"name"\n"Apple Golden 1";"golden apple"\n',
        'label,name\n"Apple Golden 1 ", golden apple \nApple Golden 1,golden apple\n',
    ],
)
def test_the_table_goes_before_the_rule(tmp_path, text):
    table = tmp_path / "names.csv"
    table.write_text(text, encoding="utf-8")
    labels = ["Fig 1", "Apple Golden 1", "Apple Golden 2"]
    assert prompt_names(labels, table) == ["fig", "golden apple", "apple golden"]


def test_a_table_s_labels_match_in_any_form_of_unicode(tmp_path):
    (tmp_path / "names.csv").write_text(f"label,name\n{NFD},apples\n", encoding="utf-8")
    assert prompt_names([NFC], tmp_path / "names.csv") == ["apples"]


@pytest.mark.parametrize("lines", [["plum,plum"], ["fig,figs", "Fig,figs"], ["кот,cat", "a,b"]])
def test_labels_that_no_class_has_are_said(tmp_path, lines):
    (tmp_path / "names.csv").write_text("\n".join(["label,name", *lines]), encoding="utf-8")
    unused = len(lines) - (lines[0] == "fig,figs")
    with pytest.warns(
        UserWarning, match=f"Labels of .*names.csv that no class has: {unused}, such"
    ):
        prompt_names(["fig"], tmp_path / "names.csv")


def test_the_project_s_own_table_is_for_any_data(tmp_path):
    own = Path(__file__).parents[1] / "data" / "prompt_names.csv"
    assert prompt_names(["кот", "Apple Golden 1"], own) == ["кот", "golden apple"]
    assert prompt_names(["кот"], os.path.relpath(own)) == ["кот"]
    (tmp_path / "copied.csv").write_bytes(own.read_bytes())
    with pytest.warns(UserWarning, match="that no class has: 80, such as 'Apple Braeburn'"):
        prompt_names(["кот"], tmp_path / "copied.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,words\na,b\n", "must have the columns label,name"),
        ("label,name\nfig,\n", "names.csv has no name, or more than one, for 'fig'"),
        ("label,name\nplum,plum\nfig,  \n", "has no name, or more than one, for 'fig'"),
        ("label,name\nfig,figs\nfig,fig tree\n", "has no name, or more than one, for 'fig'"),
        ("label,name\nfig,figs\nplum,a,b\n", "names.csv is no CSV table .* in line 3, saw 3"),
        ("", "names.csv is no CSV table in UTF-8"),
        (";\n;\n", "names.csv is empty"),
        ("label,name\nfig,Früchte\n".encode("latin-1"), "names.csv is no CSV table in UTF-8"),
        ("label,name\nfig,Früchte\n".encode("utf-16"), "names.csv is no CSV table in UTF-8"),
        ("label,name\nкот,cat\n".encode("cp1251"), "names.csv is no CSV table in UTF-8"),
    ],
)
def test_faulty_tables(tmp_path, text, message):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "names.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prompt_names(["fig"], tmp_path / "names.csv")


@pytest.mark.parametrize("labels", [np.arange(12), ["a", None, "b"], [1.5, "a"]])
def test_labels_that_are_no_text_are_refused(labels):
    index = pd.DataFrame({"path": "x.png", "label": labels})
    for ask in (classes, targets):
        with pytest.raises(TypeError, match="The index needs labels of nothing but str, not "):
            ask(index)
