"""Other codecs behind one adapter: one file a peer, each run by a Python of its own as a child process."""
