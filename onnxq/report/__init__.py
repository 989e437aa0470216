"""Views of results: text and JSON; nothing is computed here."""
