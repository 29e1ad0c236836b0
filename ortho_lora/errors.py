"""The one exception of this project, and its warning."""


class OrthoLoraError(Exception):
    """Something the user can put right: one sentence with what was given, what was expected and what to do."""


class OrthoLoraWarning(UserWarning):
    """Training goes on, but not as its author will expect."""
