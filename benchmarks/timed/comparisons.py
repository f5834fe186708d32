"""All comparisons, by name."""

from timed import enlarging, features, heads, memory, texts

KINDS = [features, texts, heads, enlarging, memory]
COMPARISONS = {one.name: one for kind in KINDS for one in kind.COMPARISONS}
