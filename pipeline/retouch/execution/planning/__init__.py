"""What a run will take and cost: a probe, strata of rows and a forecast (``retouch plan``)."""
