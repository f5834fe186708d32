"""The rule of recommendation, on answers that are simulated with a known truth."""

import numpy as np
import pytest

from cliphelpers.answers import Way, recommend
from cliphelpers.evaluation import interval

RUNS = 200


def ways(rng, accuracies, costs, groups, classes=20, pictures=4, shots=None):
    """Ways with these expected accuracies on the same pictures; groups differ in difficulty."""
    y = np.repeat(np.arange(classes), groups * pictures)
    group = np.repeat(np.arange(classes * groups), pictures)
    hard = np.repeat(rng.normal(0, 0.5, classes * groups), pictures)
    made = []
    for number, (accuracy, cost) in enumerate([*zip(accuracies, costs, strict=True)]):
        own = np.repeat(rng.normal(0, 0.3, classes * groups), pictures)
        if accuracy is None:  # guesses
            told = rng.integers(0, classes, len(y))
        else:
            chance = 1 / (1 + np.exp(-(np.log(accuracy / (1 - accuracy)) + hard + own)))
            told = np.where(rng.random(len(y)) < chance, y, (y + 1) % classes)
        where = ("by_group", f"encoder {number}", "penultimate", "ridge", None, f"timm:{number}")
        made.append(Way(*where, np.arange(len(y)), told[None], y, group, 100, cost=cost))
    return made


def share(accuracies, costs, groups, **options):
    """How often each way is recommended, and None: dict of encoder's number to share."""
    taken = []
    for seed in range(RUNS):
        some = ways(np.random.default_rng(seed), accuracies, costs, groups, **options)
        found = recommend(some).taken
        taken.append(-1 if found is None else some.index(found))
    return {number: taken.count(number) / RUNS for number in set(taken)}


@pytest.mark.parametrize("cheap", [0, 1])
def test_of_two_equals_the_cheaper_is_recommended(cheap):
    costs = [5.0, 5.0]
    costs[cheap] = 1.0
    assert share([0.95, 0.95], costs, groups=60)[cheap] >= 0.9


@pytest.mark.parametrize(("accuracies", "better"), [([0.8, 0.9], 1), ([0.7, 0.8, 0.95], 2)])
def test_of_unequals_the_better_is_recommended_though_it_costs_more(accuracies, better):
    assert share(accuracies, [1.0, 2.0, 3.0][: len(accuracies)], groups=60)[better] >= 0.95


@pytest.mark.parametrize(
    ("accuracy", "groups", "count"), [(0.8, 2, 8), (None, 2, 2), (None, 60, 3)]
)
def test_noise_decides_nothing(accuracy, groups, count):
    """Too few pictures for many equal ways, and ways that guess one of 20 classes."""
    assert share([accuracy] * count, range(count), groups=groups)[-1] >= 0.95


def test_a_way_that_is_worse_by_more_than_the_margin_is_hardly_ever_recommended():
    assert share([0.87, 0.9], [1.0, 2.0], groups=10).get(0, 0) <= 0.05


def test_what_is_wanted_follows_from_the_widest_undecided_interval():
    some = ways(np.random.default_rng(1), [0.8, 0.8], [1.0, 2.0], groups=3)
    found = recommend(some, margin=0.02)
    best, other = found.best, next(way for way in some if way is not found.best)
    _, low, high, _ = interval(best.right - other.right, best.y, best.groups, level=0.975)
    assert low < 0 and found.taken is None and set(found.open) == set(some)
    assert found.wanted == np.ceil(60 * ((high - low) / 2 / 0.02) ** 2) > found.groups == 60


def few_shot_ways(seed, accuracies, k=4):
    """Ways of one encoder, the first with all labels, the others with a few; their costs equal."""
    made = ways(np.random.default_rng(seed), accuracies, [1.0] * len(accuracies), groups=30)
    for number, way in enumerate(made):
        way.encoder = "encoder"
        if number:
            way.method, way.shots, way.labels = f"head {number}", k, 20 * k
    return made


def test_what_learnt_from_a_few_is_a_rival_too():
    """As on pictures so few that a head from texts is better than one from all labels."""
    for seed in range(20):
        some = few_shot_ways(seed, [0.8, 0.9, 0.7])
        found = recommend(some)
        assert found.taken is some[1] and found.few is some[1]


def test_a_way_of_all_labels_goes_before_one_of_a_few_that_is_as_good():
    full, enough = 0, 0
    for seed in range(50):
        some = few_shot_ways(seed, [0.96, 0.95])
        found = recommend(some)
        full, enough = full + (found.taken is some[0]), enough + (found.few is some[1])
    assert full == 50 and enough > 5


def test_fewer_labels_are_hardly_ever_enough_by_chance_though_many_were_tried():
    """None of 20 ways is as good: they are worse by a little more than the margin."""
    count = 0
    for seed in range(RUNS):
        some = few_shot_ways(seed, [0.9] + 20 * [0.875])
        count += recommend(some, margin=0.02).few is not None
    assert count / RUNS <= 0.05
