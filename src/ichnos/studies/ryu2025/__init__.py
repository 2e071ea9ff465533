"""Ryu 2025: leukoaraiosis on CT, learnt from FLAIR."""
