"""Which learning rate for fine-tuning? Chosen on validation pictures; no test picture is read.

    python benchmarks/rates.py            # writes benchmarks/rates.csv

Trainings of notebooks 5 and 6 (ML, from the linear probe) on 4 pictures a class of the first fold
by group, and validation pictures of groups, else looks, that are not learnt from. Data sets and
weights beside the repository (../shared) are left out where they are absent.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

import cliphelpers as ch

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
WEIGHTS = ROOT / "data" / "weights"
CLIPS = [f"clip:{WEIGHTS / name}" for name in ("clip-mini-vit.pt", "clip-mini-rn.pt")]
LITE0 = f"timm:tf_efficientnet_lite0@{WEIGHTS / 'tf_efficientnet_lite0.safetensors'}"
DEIT = f"timm:deit_tiny_patch16_224@{SHARED / 'weights' / 'deit_tiny_patch16_224.safetensors'}"
TWINS = [
    f"module:{WEIGHTS / 'label_twin.py'}@{WEIGHTS / f'clip-mini-{kind}-labels.safetensors'}"
    for kind in ("vit", "rn")
]
DATA = {
    "fruits-mini": (ROOT / "data" / "fruits-mini", [*CLIPS, LITE0, *TWINS]),
    "photographs": (SHARED / "data" / "fruits-360", [*CLIPS, LITE0]),
}
RATES = [3e-6, 1e-5, 3e-5, 1e-4, 3e-4]
SHOTS, EPOCHS, BATCH, HEAD_RATE = 4, 3, 16, 1e-3
STRENGTHS = [10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5]


def started(index, encoder, fold):
    """The encoder and the head from which a training starts: as in notebooks 5 and 6."""
    prior = None
    if encoder.text:
        encoder = ch.joint(encoder)
        names = ch.prompt_names(ch.classes(index), ROOT / "data" / "prompt_names.csv")
        prior = ch.text_weights(encoder, names, ["a photo of a {}.", "{}"]).T
    X = ch.extract_features(encoder, index, ch.training_rows([fold]))
    probe = ch.fit_chosen(ch.Logistic(STRENGTHS, prior=prior), X, ch.targets(index), fold)
    return encoder, probe.heads_[0]


def measure(name, folder, specs, rates=RATES):
    """Rows of the table: of each encoder and rate the validation accuracy of the start and of
    the best epoch after it."""
    index = ch.index_images(folder)
    fold = ch.make_splits(index, ["by_group"], folds=1)["by_group"][0]
    fold = ch.few_shot_fold(index, replace(fold, test=fold.test[:0]), SHOTS, refit=False)
    kind, _ = ch.choose_augmentation("auto", index.path.iloc[fold.train])
    recipes = [ch.Recipe(EPOCHS, BATCH, rate, HEAD_RATE, kind) for rate in rates]
    for encoder in ch.load_encoders(specs):
        encoder, head = started(index, encoder, fold)
        trainings = [ch.Training(encoder, fold, index, recipe, head) for recipe in recipes]
        for tuned in ch.fine_tune(trainings):
            seen = tuned.curves[tuned.curves.part == "validation"].set_index("epoch").accuracy
            row = {"dataset": name, "encoder": encoder.name, "rate": tuned.training.recipe.rate}
            row |= {"start": seen[0], "best": seen[1:].max(), "epoch": seen[1:].idxmax()}
            print(row | {"n": len(fold.val)}, flush=True)
            yield row | {"n": len(fold.val)}


def chosen(table):
    """For each data set the largest rate, by the mean over encoders, that is within one standard
    error of the best: Series. Of rates that validation hardly tells apart it is the one that moves
    weights most (the one-standard-error rule of Breiman and others, Classification and regression
    trees, 1984, section 3.4.3).
    """
    rates = {}
    for name, some in table.groupby("dataset"):
        means, encoders = some.groupby("rate").best.mean(), some.encoder.nunique()
        error = (means.max() * (1 - means.max()) / (some.n.iloc[0] * encoders)) ** 0.5
        rates[name] = means.index[means >= means.max() - error].max()
    return pd.Series(rates)


if __name__ == "__main__":
    ch.begin({})
    there = {name: how for name, how in DATA.items() if how[0].exists()}
    table = pd.DataFrame([row for name, how in there.items() for row in measure(name, *how)])
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.6g")
    print(chosen(table))
