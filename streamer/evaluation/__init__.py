"""The judge: maps of a capture, from several starts and from elsewhere, against held-out views."""
