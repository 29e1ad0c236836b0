"""The one exception of this project."""


class OrthoLoraError(Exception):
    """Something the user can put right: one sentence with what was given, what was expected and what to do."""
