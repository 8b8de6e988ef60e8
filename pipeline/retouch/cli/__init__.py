"""Commands beside those of ``cli``: each module names its own and registers them."""
