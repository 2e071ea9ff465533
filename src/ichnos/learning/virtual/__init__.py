"""Models learnt from simulated patients alone: the default network, its refinement, and their stress
tests.
"""
