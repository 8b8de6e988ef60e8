"""Scripts for maintainers that train and measure the networks in ``retouch.models.embedded``; not in the wheel."""
