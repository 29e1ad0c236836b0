"""Studies: many runs that answer one question, planned from one file, trained side by side, and chosen fairly."""
