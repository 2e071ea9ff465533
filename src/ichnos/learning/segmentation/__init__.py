"""From a cohort with targets on its CTs to a segmentation Model."""
