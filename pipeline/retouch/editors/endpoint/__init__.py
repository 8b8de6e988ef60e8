"""Images edited by an OpenAI-compatible server, one request per row; open ``editor.py`` first."""
