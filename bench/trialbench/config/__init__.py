"""Configuration files, read straight into the options of engines and worker."""
