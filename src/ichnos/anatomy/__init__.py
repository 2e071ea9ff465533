"""MNI152 space, the corticospinal tract's atlas, other bundles, named regions; where a CT lies in it."""
