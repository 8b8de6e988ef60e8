"""Scripts for maintainers that train and judge the models that ship with Retouch. Not part of the wheel."""
