"""Parts of an evaluation: sets of images, scoring of shards, states of set metrics, and their aggregation."""
