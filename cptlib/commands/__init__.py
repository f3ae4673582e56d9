"""The commands of `cptlib`, declared with the standard library alone: what a command needs is loaded when it runs."""
