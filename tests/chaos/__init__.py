"""Runs of the real job while it is hurt on purpose: ``make chaos`` for the long form, ``test_chaos`` for the short."""
