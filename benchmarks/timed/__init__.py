"""What bench.py times: a file for each kind of work, with ours, its peers and how they must agree.

Functions of both sides import what they need themselves, since each runs in a process of its own:
a peer's process holds nothing of cliphelpers, which changes how memory is allocated.
"""
