"""Global policies: whom to ask.  What to give is the application's choice, and none of its business here."""
