"""Networks. Imports torch and nothing else of gansmith."""
