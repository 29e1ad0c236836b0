"""The parts of the Launch page: the form, what it is filled from, and how runs that were launched get on."""

from app.launching.form import fill_form

__all__ = ["fill_form"]
