"""FLAIR to leukoaraiosis on the CT: segment or take a given mask, then bring it onto the CT's slices."""

from ichnos.transfer.flair.leukoaraiosis import (
    Leukoaraiosis,
    given_hyperintensities,
    hyperintensities_of,
    leukoaraiosis_on_ct,
    lst_ai_hyperintensities,
)
from ichnos.transfer.flair.segmenter import Hyperintensities, checked_flair, segment_hyperintensities

__all__ = [
    "Hyperintensities",
    "Leukoaraiosis",
    "checked_flair",
    "given_hyperintensities",
    "hyperintensities_of",
    "leukoaraiosis_on_ct",
    "lst_ai_hyperintensities",
    "segment_hyperintensities",
]
