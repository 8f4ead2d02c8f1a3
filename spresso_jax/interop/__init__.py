"""Other projects' weights turned into ours; one file each."""
