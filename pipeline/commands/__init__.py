"""Commands that have a module of their own, each with ``register(app)``."""
