"""The dashboard: shows what `analysis` finds in the records, and launches runs as processes of their own."""
