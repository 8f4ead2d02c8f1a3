"""How near a decoded sound is to its source, what the code carries, and the page that shows both."""
