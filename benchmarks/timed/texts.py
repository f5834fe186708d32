"""Zero-shot weights, the text side's work: 131 classes x 80 templates of CLIP's ImageNet prompts.

The names are the first 131 of ImageNet's. The text side of ViT-B/32 is asked with every tenth
template only, since the peers would take ten minutes a run.
"""

from functools import partial

from timed.comparison import Comparison, Contrast, Prepared, Side, agree
from timed.inputs import clip_file

CLASSES = 131
TEMPLATES = {"clip-mini-vit": 1, "ViT-B/32": 10}  # every so many


def ours(file, names, templates):
    """cliphelpers.text_weights."""
    import cliphelpers as ch

    (encoder,) = ch.load_encoders([f"clip:{file}"])
    return lambda names=names: ch.text_weights(encoder, names, templates)


def open_clip_weights(file, names, templates):
    """open_clip's build_zero_shot_classifier, ten classes at a time."""
    import open_clip

    model = open_clip.load_openai_model(file, "fp32", "cpu").eval()

    def run(names=names):
        made = open_clip.build_zero_shot_classifier(model, open_clip.tokenize, names, templates)
        return made.T.numpy()

    return run


def clip_benchmark_weights(file, names, templates):
    """clip-benchmark's zero_shot_classifier, a class at a time, on open_clip's model."""
    import open_clip
    from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    model = open_clip.load_openai_model(file, "fp32", "cpu").eval()
    templates = [template.replace("{}", "{c}") for template in templates]

    def run(names=names):
        made = zero_shot_classifier(model, open_clip.tokenize, names, templates, "cpu", amp=False)
        return made.T.numpy()

    return run


def prepare(name, folder, small):
    """Names, templates and the network's file."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    names = list(IMAGENET_CLASSNAMES[: 6 if small else CLASSES])
    templates = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[:: TEMPLATES[name]]]
    setup = {"file": clip_file(name, folder), "names": names, "templates": templates}
    return Prepared(setup, lambda number, place: {"names": names[:3]} if number < 0 else {})


def _zero_shot(name):
    count = -(-80 // TEMPLATES[name])
    work = f"zero-shot weights, {CLASSES} classes x {count} templates, {name}"
    check = partial(agree, tolerance=1e-5, what="class weights")
    sides = {"ours": Side("texts:ours"), "open_clip": Side("texts:open_clip_weights")}
    sides["clip-benchmark"] = Side("texts:clip_benchmark_weights", needs=("clip_benchmark",))
    contrasts = [Contrast(work, "ours", peer, 4, check) for peer in list(sides)[1:]]
    key = f"texts-{name.lower().replace('/', '')}"
    return Comparison(key, "s", sides, contrasts, partial(prepare, name))


COMPARISONS = [_zero_shot(name) for name in TEMPLATES]
