"""Source heads: from label maps or grown around the MNI152 brain, and varied into one person."""
