"""The six trainings, one file each on the Stage protocol; they open no files, print nothing and make no meshes."""
