"""The embedded family: small networks of a drawn world, and the code that drew the world and trained them."""
