"""Files that hold networks: our snapshots, and foreign formats."""
