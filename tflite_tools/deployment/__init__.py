"""Everything between a finished file and a device."""
