"""The spresso program: one file a group of commands, heavy imports inside them."""
