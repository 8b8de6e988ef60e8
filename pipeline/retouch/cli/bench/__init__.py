"""``retouch bench``: timings of this machine, and the measurements behind them; open ``command`` first."""
