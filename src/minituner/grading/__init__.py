"""The judge's wing: reads the registry, runs the gates and the contract, writes the report."""
