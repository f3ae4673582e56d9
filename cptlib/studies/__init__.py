"""One package a paper: parameters to run specs, records to evidence."""
