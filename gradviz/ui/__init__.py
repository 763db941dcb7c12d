"""What the pages share: the process-wide server objects and the controls. Every session key is spelled here."""
