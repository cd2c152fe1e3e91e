"""Numbers that are not finite: found between backward and step, named with their layer."""
