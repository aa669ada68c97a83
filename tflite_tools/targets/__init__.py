"""Which operators of a file an accelerator would run, found out without the accelerator."""
