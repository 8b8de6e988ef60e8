"""The gallery, an HTML page about one run or several."""
